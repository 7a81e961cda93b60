package test

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ancestorFiles has the checks of names and attributes.
func ancestorFiles() map[string]check {
	return map[string]check{
		"access": func(t *testing.T, dir string) { must(t, unix.Access(put(t, dir+"/f", ""), unix.R_OK)) },
		"access2": func(t *testing.T, dir string) {
			must(t, unix.Access(put(t, dir+"/f", ""), unix.R_OK|unix.W_OK))
		},
		"access3": func(t *testing.T, dir string) { must(t, unix.Access(serverFile, unix.F_OK)) },
		"access_ENOENT": func(t *testing.T, dir string) {
			wants(t, unix.Access(dir+"/none", unix.F_OK), unix.ENOENT)
		},
		"chdir": func(t *testing.T, dir string) {
			t.Chdir(dir)
			if wd, err := unix.Getwd(); err != nil || wd != dir {
				t.Errorf("%q, %v", wd, err)
			}
		},
		"chdir_access": func(t *testing.T, dir string) {
			put(t, dir+"/f", "")
			t.Chdir(dir)
			must(t, unix.Access("f", unix.R_OK))
		},
		"chdir_error": func(t *testing.T, dir string) {
			wants(t, unix.Chdir(dir+"/none"), unix.ENOENT)
			wants(t, unix.Chdir(put(t, dir+"/f", "")), unix.ENOTDIR)
		},
		"chdir_lstat": func(t *testing.T, dir string) {
			must(t, os.Symlink("to", dir+"/l"))
			t.Chdir(dir)
			if stat(t, "l").Mode&unix.S_IFMT != unix.S_IFLNK {
				t.Error("no link")
			}
		},
		"chdir_open": func(t *testing.T, dir string) {
			put(t, dir+"/f", "")
			t.Chdir(dir)
			open(t, "f", unix.O_RDONLY)
		},
		"chdir_readlink": func(t *testing.T, dir string) {
			must(t, os.Symlink("to", dir+"/l"))
			t.Chdir(dir)
			if s, err := os.Readlink("l"); s != "to" || err != nil {
				t.Error(s, err)
			}
		},
		"chdir_stat": func(t *testing.T, dir string) {
			put(t, dir+"/f", "12345")
			t.Chdir(dir)
			if stat(t, "f").Size != 5 {
				t.Error("size", stat(t, "f").Size)
			}
		},
		"chmod_error": func(t *testing.T, dir string) { wants(t, unix.Chmod(dir+"/none", 0o600), unix.ENOENT) },
		"fstatfs": func(t *testing.T, dir string) {
			var st unix.Statfs_t
			must(t, unix.Fstatfs(open(t, dir, unix.O_RDONLY), &st))
			if st.Bsize == 0 || st.Blocks == 0 {
				t.Errorf("%+v", st)
			}
		},
		"fsync": func(t *testing.T, dir string) {
			must(t, unix.Fsync(open(t, dir+"/f", unix.O_CREAT|unix.O_WRONLY)))
			must(t, unix.Fsync(open(t, dir, unix.O_RDONLY)))
		},
		"mkdir": func(t *testing.T, dir string) {
			must(t, unix.Mkdir(dir+"/d", 0o755))
			if m := stat(t, dir+"/d").Mode; m&unix.S_IFMT != unix.S_IFDIR {
				t.Errorf("mode %o", m)
			}
		},
		"mkdir_error": func(t *testing.T, dir string) {
			wants(t, unix.Mkdir(dir, 0o755), unix.EEXIST)
			wants(t, unix.Mkdir(dir+"/no/d", 0o755), unix.ENOENT)
		},
		"readlink": func(t *testing.T, dir string) {
			must(t, os.Symlink("../x", dir+"/l"))
			if s, err := os.Readlink(dir + "/l"); s != "../x" || err != nil {
				t.Error(s, err)
			}
		},
		"rename": func(t *testing.T, dir string) {
			must(t, os.Rename(put(t, dir+"/a", "x"), dir+"/b"))
			content(t, dir+"/b", "x")
		},
		"rmdir": func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/d", 0o755))
			must(t, unix.Rmdir(dir+"/d"))
		},
		"rmdir_error": func(t *testing.T, dir string) { wants(t, unix.Rmdir(dir+"/none"), unix.ENOENT) },
		"umask": func(t *testing.T, dir string) {
			defer unix.Umask(unix.Umask(0o077))
			open(t, dir+"/f", unix.O_CREAT|unix.O_WRONLY)
			if m := stat(t, dir+"/f").Mode & 0o777; m != 0o600 {
				t.Errorf("mode %o", m)
			}
		},
		"unlink": func(t *testing.T, dir string) {
			must(t, unix.Unlink(put(t, dir+"/f", "")))
			wants(t, unix.Access(dir+"/f", unix.F_OK), unix.ENOENT)
		},
		"unlink_error": func(t *testing.T, dir string) { wants(t, unix.Unlink(dir+"/none"), unix.ENOENT) },
		"utimes": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "")
			must(t, unix.Utimes(f, []unix.Timeval{{Sec: 10, Usec: 20}, {Sec: 30, Usec: 40}}))
			if st := stat(t, f); st.Atim.Sec != 10 || st.Mtim.Sec != 30 || st.Mtim.Nsec != 40000 {
				t.Errorf("%v %v", st.Atim, st.Mtim)
			}
		},
		"utimes_null": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "")
			must(t, unix.Utimes(f, []unix.Timeval{{Sec: 10}, {Sec: 30}}))
			must(t, unix.Utimes(f, nil))
			if age := time.Since(mtime(t, f)).Abs(); age > time.Minute {
				t.Errorf("mtime is %s away", age)
			}
		},
	}
}

// ancestorReading has the checks of opening, reading and listing.
func ancestorReading() map[string]check {
	const text = "0123456789"
	reads := func(fd int, off int64, n int, want string) check {
		return func(t *testing.T, dir string) {
			fd := open(t, put(t, dir+"/f", text), unix.O_RDONLY)
			buf := make([]byte, n)
			got, err := unix.Pread(fd, buf, off)
			must(t, err)
			if string(buf[:got]) != want {
				t.Errorf("read %q, want %q", buf[:got], want)
			}
		}
	}
	seeks := func(off int64, whence int, want int64) check {
		return func(t *testing.T, dir string) {
			fd := open(t, put(t, dir+"/f", text), unix.O_RDONLY)
			_, err := unix.Read(fd, make([]byte, 2))
			must(t, err)
			if at, err := unix.Seek(fd, off, whence); at != want || err != nil {
				t.Errorf("at %d, %v, want %d", at, err, want)
			}
		}
	}
	lists := func(n int) check {
		return func(t *testing.T, dir string) {
			for i := range n {
				put(t, dir+"/"+strings.Repeat("f", i%50+1)+string(rune('a'+i/50%26))+string(rune('a'+i/1300)), "")
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != n {
				t.Errorf("%d entries, want %d", len(entries), n)
			}
		}
	}
	openFails := func(name string, flags int, want unix.Errno) check {
		return func(t *testing.T, dir string) {
			put(t, dir+"/f", "")
			_, err := unix.Open(dir+name, flags, 0o600)
			wants(t, err, want)
		}
	}
	cloexec := func(t *testing.T, fd int) {
		t.Helper()
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Error(flags, err)
		}
	}
	return map[string]check{
		"read":   reads(0, 0, 10, text),
		"pread":  reads(0, 0, 4, "0123"),
		"pread2": reads(0, 3, 4, "3456"),
		"pread3": reads(0, 8, 4, "89"),
		"pread4": reads(0, 100, 4, ""),
		"lseek":  seeks(5, unix.SEEK_SET, 5),
		"lseek2": seeks(3, unix.SEEK_CUR, 5),
		"lseek3": seeks(-2, unix.SEEK_CUR, 0),
		"lseek4": seeks(0, unix.SEEK_END, 10),
		"lseek5": seeks(-4, unix.SEEK_END, 6),
		"lseek6": seeks(1<<40, unix.SEEK_SET, 1<<40),

		"getdirentries":  lists(0),
		"getdirentries2": lists(1),
		"getdirentries3": lists(50),
		"getdirentries4": lists(1000),
		"getdirentries5": func(t *testing.T, dir string) {
			_, err := unix.ReadDirent(open(t, put(t, dir+"/f", ""), unix.O_RDONLY), make([]byte, 4096))
			wants(t, err, unix.ENOTDIR)
		},

		"open":                 func(t *testing.T, dir string) { open(t, put(t, dir+"/f", ""), unix.O_RDONLY) },
		"open_EISDIR":          openFails("", unix.O_WRONLY, unix.EISDIR),
		"open_ENOENT":          openFails("/none", unix.O_RDONLY, unix.ENOENT),
		"open_O_DIRECTORY_reg": openFails("/f", unix.O_DIRECTORY, unix.ENOTDIR),
		"open_O_DIRECTORY_dir": func(t *testing.T, dir string) { open(t, dir, unix.O_DIRECTORY) },
		"open_O_CREAT": func(t *testing.T, dir string) {
			open(t, dir+"/f", unix.O_CREAT|unix.O_WRONLY)
			stat(t, dir+"/f")
		},
		"open_O_EXCL":  func(t *testing.T, dir string) { open(t, dir+"/f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY) },
		"open_O_EXCL2": openFails("/f", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, unix.EEXIST),
		"open_O_RDWR": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_RDWR)
			_, err := unix.Write(fd, []byte("abc"))
			must(t, err)
			buf := make([]byte, 3)
			_, err = unix.Pread(fd, buf, 0)
			must(t, err)
			if string(buf) != "abc" {
				t.Errorf("%q", buf)
			}
		},
		"open_O_CLOEXEC": func(t *testing.T, dir string) { cloexec(t, open(t, put(t, dir+"/f", ""), unix.O_RDONLY)) },
		"open_O_CLOEXEC2": func(t *testing.T, dir string) {
			cloexec(t, open(t, serverFile, unix.O_RDONLY))
			python(t, dir, `import os,subprocess,sys
f=os.open(sys.argv[1],os.O_RDONLY|os.O_CLOEXEC)
assert subprocess.call(["test","-e","/proc/self/fd/%d"%f],close_fds=False)==1`)
		},
		"openat": func(t *testing.T, dir string) {
			put(t, dir+"/f", "")
			fd, err := unix.Openat(open(t, dir, unix.O_RDONLY), "f", unix.O_RDONLY, 0)
			must(t, err)
			unix.Close(fd)
		},
		"openat_AT_FDCWD": func(t *testing.T, dir string) {
			put(t, dir+"/f", "")
			t.Chdir(dir)
			fd, err := unix.Openat(unix.AT_FDCWD, "f", unix.O_RDONLY, 0)
			must(t, err)
			unix.Close(fd)
		},
		"openat_EBADF": func(t *testing.T, dir string) {
			_, err := unix.Openat(999, "f", unix.O_RDONLY, 0)
			wants(t, err, unix.EBADF)
		},
		"openat_abspath_master": func(t *testing.T, dir string) {
			fd, err := unix.Openat(999, serverFile, unix.O_RDONLY, 0)
			must(t, err)
			unix.Close(fd)
		},
		"openat_abspath_slave": func(t *testing.T, dir string) {
			fd, err := unix.Openat(999, put(t, dir+"/f", ""), unix.O_RDONLY, 0)
			must(t, err)
			unix.Close(fd)
		},
		"openat_perm": func(t *testing.T, dir string) {
			fd, err := unix.Openat(open(t, dir, unix.O_RDONLY), "f", unix.O_CREAT|unix.O_WRONLY, 0o601)
			must(t, err)
			unix.Close(fd)
			if m := stat(t, dir+"/f").Mode & 0o777; m != 0o601 {
				t.Errorf("mode %o", m)
			}
		},
	}
}

// ancestorWriting has the checks of writing.
func ancestorWriting() map[string]check {
	writes := func(parts ...string) check {
		return func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_RDWR)
			var iovs [][]byte
			for _, p := range parts {
				iovs = append(iovs, []byte(p))
			}
			all := strings.Join(parts, "")
			if n, err := unix.Writev(fd, iovs); err != nil || n != len(all) {
				t.Fatalf("%d of %d bytes, %v", n, len(all), err)
			}
			content(t, dir+"/f", all)
		}
	}
	compressible := strings.Repeat("the same again and again ", 100_000)
	return map[string]check{
		"write": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_WRONLY)
			if n, err := unix.Write(fd, []byte("hello")); n != 5 || err != nil {
				t.Error(n, err)
			}
			content(t, dir+"/f", "hello")
		},
		"write2": func(t *testing.T, dir string) {
			fd := open(t, put(t, dir+"/f", ""), unix.O_RDONLY)
			_, err := unix.Write(fd, []byte("x"))
			wants(t, err, unix.EBADF)
		},
		"writev":              writes("a"),
		"writev2":             writes("a", "b"),
		"writev3":             writes("a", "", "b"),
		"writev4":             writes(strings.Repeat("x", 4096), "y"),
		"writev5":             writes(strings.Repeat("x", 4095), strings.Repeat("y", 4097)),
		"writev6":             writes(strings.Repeat("x", 1<<20), strings.Repeat("y", 1<<20), "z"),
		"writev_compression":  writes(compressible),
		"writev_compression2": writes(compressible[:64], compressible),
		"writev_compression3": writes("x", compressible, "y"),
		"writev_compression4": writes(compressible, compressible),
	}
}

func mtime(t testing.TB, path string) time.Time {
	t.Helper()
	st := stat(t, path)
	return time.Unix(st.Mtim.Unix())
}
