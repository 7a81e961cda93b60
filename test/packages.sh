#!/bin/sh
# Installs, as root on Debian, the programs that the tests run: the real ssh
# and sshd, and the real programs that are run through nexec. Fetches the C
# library that is compiled by one of them. Does nothing where all is there.
set -eu
cd "$(dirname "$0")"

missing=
need() { # need PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need ssh openssh-client
need sshd openssh-server
need ssh-audit ssh-audit
need git git
need sqlite3 sqlite3
need gcc gcc
need make make
need python3 python3-minimal
need rsync rsync
need vim vim-tiny
need tmux tmux
need mandoc mandoc
need sshfs sshfs
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
# A session takes its applications from the server's /usr, so a python3 that
# lies elsewhere (pyenv's, say) does not do.
[ -x /usr/bin/python3 ] || missing="$missing python3"

if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null; then
		echo "the tests need:$missing (install them; this script knows only apt-get)" >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	# sshd must not start: the tests run their own on a port of their own.
	# shellcheck disable=SC2086
	RUNLEVEL=1 apt-get -qq install -y --no-install-recommends $missing
fi

./lua.sh .cache
