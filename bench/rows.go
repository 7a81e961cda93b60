package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// row is a workload: a script that runs in a directory of the client.
type row struct {
	name, says string
	// prepare fills the directory; dir is its absolute path.
	prepare func(dir string) error
	// script is for sh. $SRC names a file of random bytes on the server.
	script string
	// before, run on the client, puts the directory back before each run. git
	// status leaves an index that knows the server's inodes, and rsync brings it.
	before string
	// ssh is what stands for the workload with ssh alone; empty: nothing.
	ssh string
	// noFiles: the rsync way and sshfs have nothing to do.
	noFiles bool
	// bytes moved, for MB/s.
	bytes int64
	// sessions is how many run the script at once; zero: one.
	sessions int
	// slow rows run only when they are named, or once instead of often.
	slow bool
}

func (b *bench) rows() []row {
	lua := b.lua
	return []row{
		{name: "echo", says: "/bin/echo hi", script: "/bin/echo hi", ssh: "/bin/echo hi", noFiles: true},
		{name: "find", says: "find -printf %s, 10,000 files in 100 directories", prepare: tree(100, 100, 500), script: "find . -printf '%s\\n' | wc -l"},
		{name: "git-status", says: "git status, 2,009 files", prepare: repository, before: "git status >/dev/null", script: "git status --porcelain | wc -l"},
		{name: "git-grep", says: "git grep in it", prepare: repository, script: "git grep -c 'file 7' | wc -l"},
		{name: "lua", says: "compile Lua 5.4, make -j2", prepare: unpack(lua), before: "cd src && make -s clean", script: "cd src && make -s -j2 AR='ar rc' MYCFLAGS=-DLUA_USE_POSIX SYSLIBS= all"},
		{name: "untar", says: "untar 5,000 small files", prepare: tarball, before: putAway("out"), script: "mkdir out && tar xf small.tar -C out && sync out"},
		{name: "python", says: "python3 -c 'import json,email,asyncio'", script: "/usr/bin/python3 -c 'import json,email,asyncio'", ssh: "/usr/bin/python3 -c 'import json,email,asyncio'", noFiles: true},
		{name: "read", says: "read 1 GiB", prepare: random(1 << 30), script: "cat big >/dev/null", ssh: "cat $DIR/big", bytes: 1 << 30, slow: true},
		{name: "read-256m", says: "read 256 MiB", prepare: random(256 << 20), script: "cat big >/dev/null", ssh: "cat $DIR/big", bytes: 256 << 20, slow: true},
		{name: "write", says: "write 1 GiB with fsync", prepare: nothing, before: "rm -f out", script: "dd if=$SRC of=out bs=1M conv=fsync 2>/dev/null", ssh: "cat $SRC", bytes: 1 << 30, slow: true},
		{name: "cpu", says: "a CPU-bound program", script: "/usr/bin/python3 -c 'print(sum(i*i for i in range(20000000)))'", ssh: "/usr/bin/python3 -c 'print(sum(i*i for i in range(20000000)))'", noFiles: true},
		{name: "usr", says: "a program that lives in the server's /usr", script: "find /usr/include /usr/lib/python3* -type f | xargs cat | sha256sum", ssh: "find /usr/include /usr/lib/python3* -type f | xargs cat | sha256sum", noFiles: true},
		{name: "sessions-1", says: "one session, /bin/echo hi", script: "/bin/echo hi", ssh: "/bin/echo hi", noFiles: true, sessions: 1},
		{name: "sessions-10", says: "10 sessions at once", script: "/bin/echo hi", ssh: "/bin/echo hi", noFiles: true, sessions: 10},
		{name: "sessions-100", says: "100 sessions at once", script: "/bin/echo hi", ssh: "/bin/echo hi", noFiles: true, sessions: 100},
		{name: "find-100k", says: "find, 100,000 files", prepare: tree(1000, 100, 0), script: "find . -printf '%s\\n' | wc -l", slow: true},
		{name: "find-1m", says: "find, 1,000,000 files", prepare: tree(10_000, 100, 0), script: "find . -printf '%s\\n' | wc -l", slow: true},
	}
}

// times is a command as often as the row says, all at once. It fails if one of
// them does.
func (r row) times(command string) string {
	if r.sessions < 2 {
		return command
	}
	return fmt.Sprintf(`pids=; for i in $(seq %d); do %s & pids="$pids $!"; done; for p in $pids; do wait $p; done`, r.sessions, command)
}

// putAway is a script that moves a tree aside. Removing it would cost the next
// run dear: for minutes ext4 searches for inodes that were not freed lately,
// which has nothing to do with what is measured.
func putAway(tree string) string {
	return fmt.Sprintf("test ! -e %s || mv %[1]s ../%[1]s.$$.$(date +%%N)", tree)
}

func nothing(string) error { return nil }

// tree makes directories with files of a size each.
func tree(dirs, files, size int) func(string) error {
	return func(top string) error {
		text := make([]byte, size)
		for d := range dirs {
			dir := filepath.Join(top, fmt.Sprintf("d%04d", d))
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			for f := range files {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%03d", f)), text, 0o644); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func repository(dir string) error {
	return shell(dir, `git init -q . && for d in $(seq 41); do mkdir d$d; for f in $(seq 49); do echo "directory $d file $f" >d$d/f$f; done; done
git add . && git -c user.name=a -c user.email=a@x commit -qm all && sleep 1.1 && git status >/dev/null`) // git reads again what is as young as its index
}

func unpack(archive string) func(string) error {
	return func(dir string) error { return shell(dir, "tar xf '"+archive+"' --strip-components 1") }
}

// tarball makes an archive of 5,000 files, none of which was ever there: see
// putAway.
func tarball(dir string) (err error) {
	f, err := os.Create(filepath.Join(dir, "small.tar"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	text := make([]byte, 4400)
	for d := range 50 {
		name := fmt.Sprintf("small/d%04d/", d)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}); err != nil {
			return err
		}
		for f := range 100 {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%sf%03d", name, f), Mode: 0o644, Size: int64(len(text))}); err != nil {
				return err
			}
			if _, err := w.Write(text); err != nil {
				return err
			}
		}
	}
	return w.Close()
}

// random makes a file that does not compress.
func random(size int) func(string) error {
	return func(dir string) error { return shell(dir, fmt.Sprintf("head -c %d /dev/urandom >big", size)) }
}
