#!/usr/bin/env bash
# get_nvim.sh DIR PATCHELF: puts a Neovim with built-in inline completion at DIR/bin/nvim.
#
# Takes the installed one where it is new enough. Otherwise unpacks the closed set of Debian packages
# (about 60 MB, its own libc included) into DIR and makes the binary use the libraries beside it.
# Needs no root and changes nothing outside DIR. NVIM_SUITE names another Debian suite.
set -euo pipefail

(($# == 2)) || { echo "usage: get_nvim.sh DIR PATCHELF" >&2; exit 2; }
dir=$(realpath -m "$1")
patchelf=$2
suite=${NVIM_SUITE:-forky}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
  echo "get_nvim.sh: $1" >&2
  echo "get_nvim.sh: install Neovim 0.12 or newer so that 'nvim' is on PATH, then run this again." >&2
  exit 1
}

is_new_enough() {  # the feature itself, not a version number that a suite may move past
  local ask='lua io.write(tostring(vim.lsp.inline_completion ~= nil))'
  [[ $("$1" --headless -u NONE -i NONE +"$ask" +qa 2>&1) == *true* ]]
}

mkdir -p "$dir/bin"
if installed=$(command -v nvim) && is_new_enough "$installed"; then
  ln -sf "$installed" "$dir/bin/nvim"
  "$dir/bin/nvim" --version | sed -n 1p
  exit 0
fi

for tool in apt-get dpkg dpkg-deb "$patchelf"; do
  command -v "$tool" >/dev/null || fail "there is no Neovim 0.12 here and '$tool' is missing to fetch one."
done
[[ -r $keyring ]] || fail "there is no Neovim 0.12 here and no $keyring to check Debian's packages with."

mirror=$(sed -nE 's/^(URIs:|deb( \[[^]]*\])?) +(http[^ ]*\/debian\/?)( .*)?$/\3/p' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | sed -n 1p || true)  # either file may be missing
root=$dir/root
apt=$dir/apt
rm -rf "$root" "$apt"
mkdir -p "$root" "$apt"/{parts,lists/partial,cache/archives/partial}
: >"$apt/status"  # an empty system: apt then downloads every dependency, libc included
cat >"$apt/parts/debian.sources" <<SOURCES
Types: deb
URIs: ${mirror:-http://deb.debian.org/debian}
Suites: $suite
Components: main
Signed-By: $keyring
SOURCES

private_apt() {
  apt-get -qq -o APT::Sandbox::User=root \
    -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/parts" \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status" \
    -o Dir::Cache="$apt/cache" "$@"
}

echo "get_nvim.sh: fetching Neovim from Debian $suite into $dir"
private_apt update || fail "Debian's package list ($suite) could not be read."
private_apt -y --no-install-recommends --download-only install neovim >/dev/null ||
  fail "Debian's Neovim ($suite) could not be downloaded."
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
rm -rf "$apt"

libraries=$(dirname "$(find "$root/usr/lib" -name libc.so.6 -print -quit)")
loader=$root/usr$("$patchelf" --print-interpreter "$root/usr/bin/nvim")
"$patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$root/usr/bin/nvim"
cat >"$dir/bin/nvim" <<WRAPPER
#!/bin/sh
VIMRUNTIME='$root/usr/share/nvim/runtime' exec '$root/usr/bin/nvim' "\$@"
WRAPPER
chmod +x "$dir/bin/nvim"
is_new_enough "$dir/bin/nvim" || fail "Debian $suite's Neovim has no vim.lsp.inline_completion."
"$dir/bin/nvim" --version | sed -n 1p
