#!/bin/sh
# as-user.sh BINARY ARG...: what `go test -exec` runs in place of the test
# binary. It runs the binary as an ordinary user, in a throw-away directory
# with copies of all it needs, because the checkout and go's build directory
# may be closed to that user. The machine does not get a new account: the user
# stands in an /etc/passwd that only this process and its children see.
set -eu
uid=${NEXEC_TEST_UID:-12345}
binary=$1
shift
dir=$(mktemp -d /tmp/nexec-as-user.XXXXXX)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/home" "$dir/test" "$dir/tmp" "$dir/doc"
cp "$binary" "$dir/test.bin"
cp -r "$NEXEC_BIN" "$dir/bin"
cp -r testdata "$dir/test/"
cp ../doc/ancestor.md "$dir/doc/"
[ ! -d .cache ] || cp -r .cache "$dir/test/"
cp /etc/passwd "$dir/passwd"
cp /etc/group "$dir/group"
echo "tester:x:$uid:$uid::$dir/home:/bin/sh" >>"$dir/passwd"
echo "tester:x:$uid:" >>"$dir/group"
chmod -R a+rX "$dir"
chown -R "$uid:$uid" "$dir/home" "$dir/test" "$dir/tmp"
export dir uid
GOROOT=$(go env GOROOT)
export GOROOT
unshare --mount --propagation private sh -euc '
	mount --bind "$dir/passwd" /etc/passwd
	mount --bind "$dir/group" /etc/group
	cd "$dir/test"
	exec setpriv --reuid "$uid" --regid "$uid" --clear-groups env -i \
		PATH="$PATH" CI="${CI:-}" LANG=C.UTF-8 TERM="${TERM:-dumb}" USER=tester LOGNAME=tester \
		GOROOT="$GOROOT" HOME="$dir/home" TMPDIR="$dir/tmp" NEXEC_BIN="$dir/bin" "$dir/test.bin" "$@"
' sh "$@"
