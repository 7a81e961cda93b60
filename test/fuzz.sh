#!/bin/sh
# fuzz.sh TIME: runs every fuzz target of the module for TIME each. A module
# without fuzz targets is an error: it means that the search below is broken.
set -eu
cd "$(dirname "$0")/.."
targets=$(grep -rn --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' . | sed 's|^\./\(.*\)/[^/]*_test.go:.*func \(Fuzz.*\)|\1 \2|' | sort -u)
[ -n "$targets" ] || { echo "no fuzz targets found" >&2; exit 1; }
out=$(mktemp)
trap 'rm -f "$out"' EXIT

fuzz() { # fuzz PACKAGE TARGET TIME
	status=0
	go test -run '^$' -fuzz "^$2\$" -fuzztime "$3" "./$1" >"$out" 2>&1 || status=$?
	cat "$out"
	return $status
}

echo "$targets" | while read -r pkg target; do
	echo "== ./$pkg $target"
	fuzz "$pkg" "$target" "$1" && continue
	# On a loaded machine go's fuzzer may report the end of its own time as a
	# failure ("context deadline exceeded"). It has no failing input then; a
	# real failure comes again, or leaves one.
	if grep -q 'Failing input written to' "$out"; then exit 1; fi
	echo "== ./$pkg $target, once more"
	fuzz "$pkg" "$target" "$1"
done
