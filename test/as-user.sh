#!/bin/sh
# as-user.sh BINARY ARG...: what `go test -exec` runs in place of the test
# binary. It runs the binary as an ordinary user without an account on this
# machine, in a throw-away directory with copies of all it needs, because the
# checkout and go's build directory may be closed to that user.
set -eu
uid=${NEXEC_TEST_UID:-12345}
binary=$1
shift
dir=$(mktemp -d /tmp/nexec-as-user.XXXXXX)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/home" "$dir/test" "$dir/tmp"
cp "$binary" "$dir/test.bin"
cp -r "$NEXEC_BIN" "$dir/bin"
cp -r testdata progs "$dir/test/"
[ ! -d .cache ] || cp -r .cache "$dir/test/"
cp -r harness "$dir/test/"
chmod -R a+rX "$dir"
chown -R "$uid:$uid" "$dir"
cd "$dir/test"
# gocache: `go build` in a session needs one that this user may write.
setpriv --reuid "$uid" --regid "$uid" --clear-groups \
	env -i PATH="$PATH" CI="${CI:-}" LANG=C.UTF-8 TERM="${TERM:-dumb}" GOROOT="$(go env GOROOT)" GOPROXY=off GOFLAGS=-mod=mod \
	HOME="$dir/home" TMPDIR="$dir/tmp" NEXEC_BIN="$dir/bin" "$dir/test.bin" "$@"
