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
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial" "$tmp/parts"
# The machine's own sources, of source packages.
: >"$tmp/sources.list"
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
	[ -r "$f" ] || continue
	case $f in
	*.list) sed -n 's/^deb /deb-src /p' "$f" >>"$tmp/sources.list" ;;
	*.sources) sed 's/^Types:.*/Types: deb-src/' "$f" >"$tmp/parts/${f##*/}" ;;
	esac
done
apt() {
	apt-get -qq -o Dir::Etc::SourceList="$tmp/sources.list" -o Dir::Etc::SourceParts="$tmp/parts" \
		-o Dir::State::Lists="$tmp/lists" -o Dir::Cache="$tmp/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update || true # others' archives may have no sources; what is missing shows next
(cd "$tmp" && apt source --download-only lua5.4 >/dev/null)
mv "$tmp"/lua5.4_*.orig.tar.gz "$dir/lua.tar.gz.$$"
mv "$dir/lua.tar.gz.$$" "$dir/lua.tar.gz"
