#!/usr/bin/env bash
# check_lua.sh DIR NODE [--write]: the form of the plugin's Lua by stylua, and luacheck's warnings.
#
# DIR is what get_lua_tools.sh filled; a tool that could not be had is left out by name.
set -euo pipefail

dir=$(realpath -m "$1")
node=$2/bin/node
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mapfile -t files < <(find editors/nvim tests/nvim -name '*.lua' | sort)
stylua=$dir/node_modules/@johnnymorganz/stylua
luacheck=$(command -v "$dir/luacheck" || command -v luacheck || true)

if [[ -d $stylua ]]; then
  "$node" tests/nvim/stylua.cjs "$stylua" ${3:+"$3"} "${files[@]}"
else
  echo "check_lua.sh: no stylua here: the form of the Lua files is not checked"
fi
if [[ -n $luacheck ]]; then
  "$luacheck" --quiet --std luajit --globals vim Stub Notes --max-line-length 100 "${files[@]}"
else
  echo "check_lua.sh: no luacheck here: the Lua files are not checked"
fi
