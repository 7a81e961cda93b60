#!/bin/sh
# fuzz.sh TIME: runs every fuzz target of the module for TIME each. A module
# without fuzz targets is an error: it means that the search below is broken.
set -eu
cd "$(dirname "$0")/.."
targets=$(grep -rn --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' . | sed 's|^\./\(.*\)/[^/]*_test.go:.*func \(Fuzz.*\)|\1 \2|' | sort -u)
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }
echo "$targets" | while read -r pkg target; do
	echo "== ./$pkg $target"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "./$pkg"
done
