#!/bin/sh
# lua.sh DIR: puts the source of Lua, a real C library with a Makefile, into
# DIR/lua.tar.gz, from Debian's source package. Needs no root: apt gets lists
# and a cache of its own in a temporary directory.
set -eu
dir=$1
[ -s "$dir/lua.tar.gz" ] && exit 0
mkdir -p "$dir"
if ! command -v apt-get >/dev/null; then
	echo "put the source of Lua 5.4 into $dir/lua.tar.gz: there is no apt-get to fetch it with" >&2
	exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial"
. /etc/os-release
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian ${VERSION_CODENAME:-bookworm} main" >"$tmp/sources.list"
apt() {
	apt-get -qq -o Dir::Etc::SourceList="$tmp/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$tmp/lists" -o Dir::Cache="$tmp/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update
(cd "$tmp" && apt source --download-only lua5.4 >/dev/null)
mv "$tmp"/lua5.4_*.orig.tar.gz "$dir/lua.tar.gz.$$"
mv "$dir/lua.tar.gz.$$" "$dir/lua.tar.gz"
