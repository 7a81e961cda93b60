package test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants checks that an error is the given error number.
func wants(t testing.TB, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func put(t testing.TB, path, content string) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func content(t testing.TB, path, want string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if string(b) != want {
		t.Errorf("%s has %q, want %q", path, short(string(b)), short(want))
	}
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

// open opens a file for the duration of the test.
func open(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// posixChecks are those in which other systems of this kind fail, and more.
func posixChecks() map[string]check {
	return map[string]check{
		"hard links share an inode": func(t *testing.T, dir string) {
			a, b := put(t, dir+"/a", "x"), dir+"/b"
			must(t, os.Link(a, b))
			sa, sb := stat(t, a), stat(t, b)
			if sa.Ino != sb.Ino || sa.Nlink != 2 || sb.Nlink != 2 {
				t.Errorf("inodes %d and %d, links %d and %d", sa.Ino, sb.Ino, sa.Nlink, sb.Nlink)
			}
			put(t, b, "yy")
			content(t, a, "yy")
			must(t, os.Remove(a))
			if n := stat(t, b).Nlink; n != 1 {
				t.Errorf("%d links after one was removed", n)
			}
		},
		"rename": func(t *testing.T, dir string) {
			a, b := put(t, dir+"/a", "a"), put(t, dir+"/b", "b")
			wants(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE), unix.EEXIST)
			must(t, unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE))
			content(t, a, "b")
			content(t, b, "a")
			must(t, os.Rename(a, b))
			content(t, b, "b")
			must(t, os.MkdirAll(dir+"/d/e", 0o755))
			put(t, dir+"/d/e/f", "deep")
			must(t, os.Rename(dir+"/d", dir+"/moved"))
			content(t, dir+"/moved/e/f", "deep")
			wants(t, os.Rename(dir+"/moved", dir+"/moved/e/in"), unix.EINVAL)
			must(t, os.MkdirAll(dir+"/full/x", 0o755))
			wants(t, unix.Rename(dir+"/moved", dir+"/full"), unix.ENOTEMPTY)
			must(t, unix.Renameat2(unix.AT_FDCWD, b, unix.AT_FDCWD, dir+"/c", unix.RENAME_NOREPLACE))
		},
		"access control lists and modes": func(t *testing.T, dir string) {
			const name = "system.posix_acl_access"
			// user::rwx user:1:rw- group::r-- mask::mask other::--x
			list := func(mask byte) []byte {
				return []byte("\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\x01\x00\x00\x00" +
					"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00" + string(mask) + "\x00\xff\xff\xff\xff" + "\x20\x00\x01\x00\xff\xff\xff\xff")
			}
			buf := make([]byte, 100)
			for _, f := range []string{put(t, dir+"/fresh", "x"), dir + "/old"} {
				if _, err := os.Stat(f); err != nil {
					put(t, f, "x")
					unix.Sync()
				}
				if got := stat(t, f).Mode & 0o777; got != 0o644 {
					t.Errorf("mode %o at first", got)
				}
				if err := unix.Setxattr(f, name, list(6), 0); err == unix.EOPNOTSUPP || err == unix.EINVAL {
					return // the file system has no lists, or the namespace no user 1
				} else if must(t, err); stat(t, f).Mode&0o777 != 0o761 {
					t.Errorf("mode %o with a list, want 761", stat(t, f).Mode&0o777)
				}
				_, err := unix.Getxattr(f, name, buf)
				must(t, err)
				must(t, unix.Chmod(f, 0o640))
				n, err := unix.Getxattr(f, name, buf)
				if must(t, err); n != 44 || buf[30] != 4 || buf[6] != 6 {
					t.Errorf("after chmod 640 the list is % x", buf[:n])
				}
				must(t, unix.Setxattr(f, name, list(7), 0))
				if got := stat(t, f).Mode & 0o777; got != 0o771 {
					t.Errorf("mode %o with another list, want 771", got)
				}
			}
		},
		"blocks of a file with holes": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
			must(t, unix.Ftruncate(fd, 64<<20))
			_, err := unix.Pwrite(fd, []byte("x"), 32<<20)
			must(t, err)
			if got := stat(t, dir+"/f").Blocks; got == 0 || got > 64<<20/512/2 {
				t.Errorf("%d blocks with one byte written", got)
			}
		},
		"made by mknod, synchronised": func(t *testing.T, dir string) {
			must(t, unix.Mknod(dir+"/regular", unix.S_IFREG|0o640, 0))
			must(t, unix.Mknod(dir+"/fifo", unix.S_IFIFO|0o600, 0))
			must(t, unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o600, 0))
			wants(t, unix.Mknod(dir+"/fifo", unix.S_IFREG|0o640, 0), unix.EEXIST)
			for name, want := range map[string]uint32{"regular": unix.S_IFREG | 0o640, "fifo": unix.S_IFIFO | 0o600, "socket": unix.S_IFSOCK | 0o600} {
				if st := stat(t, dir+"/"+name); st.Mode != want || st.Size != 0 {
					t.Errorf("%s: mode %o, size %d", name, st.Mode, st.Size)
				}
			}
			fd := open(t, dir+"/regular", unix.O_RDWR)
			_, err := unix.Write(fd, []byte("x"))
			must(t, err)
			must(t, unix.Fdatasync(fd))
			must(t, unix.Fsync(fd))
			must(t, unix.Syncfs(fd))
			must(t, unix.SyncFileRange(fd, 0, 1, 7))
			d := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
			must(t, unix.Fsync(d))
			content(t, dir+"/regular", "x")
		},
		"times in nanoseconds": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "x")
			ts := []unix.Timespec{{Sec: 1111111111, Nsec: 123456789}, {Sec: 1222222222, Nsec: 987654321}}
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, ts, 0))
			st := stat(t, f)
			if st.Atim != ts[0] || st.Mtim != ts[1] {
				t.Errorf("atime %v, mtime %v", st.Atim, st.Mtim)
			}
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0))
			st = stat(t, f)
			if st.Atim != ts[0] || time.Since(time.Unix(st.Mtim.Unix())).Abs() > time.Minute {
				t.Errorf("after OMIT and NOW: atime %v, mtime %v", st.Atim, st.Mtim)
			}
		},
		"times of a symbolic link": func(t *testing.T, dir string) {
			f, l := put(t, dir+"/f", "x"), dir+"/l"
			must(t, os.Symlink("f", l))
			before := stat(t, f).Mtim
			ts := []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, l, ts, unix.AT_SYMLINK_NOFOLLOW))
			if st := stat(t, l); st.Mtim != ts[1] {
				t.Errorf("the link's mtime is %v", st.Mtim)
			}
			if stat(t, f).Mtim != before {
				t.Error("the link was followed")
			}
		},
		"extended attributes": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "x")
			must(t, unix.Setxattr(f, "user.one", []byte("1\x00\xff"), unix.XATTR_CREATE))
			wants(t, unix.Setxattr(f, "user.one", []byte("2"), unix.XATTR_CREATE), unix.EEXIST)
			wants(t, unix.Setxattr(f, "user.two", []byte("2"), unix.XATTR_REPLACE), unix.ENODATA)
			buf := make([]byte, 100)
			n, err := unix.Getxattr(f, "user.one", buf)
			must(t, err)
			if string(buf[:n]) != "1\x00\xff" {
				t.Errorf("value %q", buf[:n])
			}
			_, err = unix.Getxattr(f, "user.one", buf[:1])
			wants(t, err, unix.ERANGE)
			n, err = unix.Listxattr(f, buf)
			must(t, err)
			if !strings.Contains(string(buf[:n]), "user.one\x00") {
				t.Errorf("list %q", buf[:n])
			}
			must(t, unix.Removexattr(f, "user.one"))
			_, err = unix.Getxattr(f, "user.one", buf)
			wants(t, err, unix.ENODATA)
		},
		"O_TMPFILE": func(t *testing.T, dir string) {
			fd := open(t, dir, unix.O_TMPFILE|unix.O_RDWR)
			_, err := unix.Write(fd, []byte("unnamed"))
			must(t, err)
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 0 {
				t.Errorf("it has a name: %v", entries)
			}
			must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/named", unix.AT_SYMLINK_FOLLOW))
			content(t, dir+"/named", "unnamed")
		},
		"fallocate": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_RDWR)
			must(t, unix.Fallocate(fd, 0, 0, 1<<20))
			st := stat(t, dir+"/f")
			if st.Size != 1<<20 || st.Blocks*512 < 1<<20 {
				t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
			}
			must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20))
			if st := stat(t, dir+"/f"); st.Size != 1<<20 {
				t.Errorf("size %d with KEEP_SIZE", st.Size)
			}
			_, err := unix.Pwrite(fd, bytes.Repeat([]byte("x"), 1<<20), 0)
			must(t, err)
			must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 8192))
			buf := make([]byte, 3)
			_, err = unix.Pread(fd, buf, 4096)
			must(t, err)
			if string(buf) != "\x00\x00\x00" {
				t.Errorf("the hole has %q", buf)
			}
		},
		"O_APPEND": func(t *testing.T, dir string) {
			f := dir + "/log"
			var wg sync.WaitGroup
			for range 4 {
				fd := open(t, f, unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND)
				wg.Go(func() {
					for range 50 {
						if n, err := unix.Write(fd, []byte("0123456789\n")); n != 11 || err != nil {
							t.Error(n, err)
						}
					}
				})
			}
			wg.Wait()
			content(t, f, strings.Repeat("0123456789\n", 200))
		},
		"sparse files": func(t *testing.T, dir string) {
			fd := open(t, dir+"/s", unix.O_CREAT|unix.O_RDWR)
			const far = 5 << 30
			_, err := unix.Pwrite(fd, []byte("end"), far)
			must(t, err)
			must(t, unix.Fsync(fd))
			st := stat(t, dir+"/s")
			if st.Size != far+3 || st.Blocks > 1000 {
				t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
			}
			at, err := unix.Seek(fd, 0, unix.SEEK_DATA)
			must(t, err)
			if at > far || at < far-1<<20 {
				t.Errorf("data at %d", at)
			}
			at, err = unix.Seek(fd, 0, unix.SEEK_HOLE)
			must(t, err)
			if at != 0 {
				t.Errorf("hole at %d", at)
			}
			must(t, unix.Ftruncate(fd, 10))
			if st := stat(t, dir+"/s"); st.Size != 10 {
				t.Errorf("size %d after truncation", st.Size)
			}
		},
		"FIFO": func(t *testing.T, dir string) {
			must(t, unix.Mkfifo(dir+"/p", 0o600))
			if m := stat(t, dir+"/p").Mode; m != unix.S_IFIFO|0o600 {
				t.Errorf("mode %o", m)
			}
			c := exec.Command("sh", "-c", "echo through >"+dir+"/p")
			must(t, c.Start())
			content(t, dir+"/p", "through\n")
			must(t, c.Wait())
		},
		"socket": func(t *testing.T, dir string) {
			// sun_path has room for 107 bytes: use a relative name.
			t.Chdir(dir)
			l, err := net.Listen("unix", "s")
			must(t, err)
			defer l.Close()
			if m := stat(t, "s").Mode & unix.S_IFMT; m != unix.S_IFSOCK {
				t.Errorf("type %o", m)
			}
			go func() {
				if c, err := l.Accept(); err == nil {
					c.Write([]byte("hello"))
					c.Close()
				}
			}()
			c, err := net.Dial("unix", "s")
			must(t, err)
			defer c.Close()
			buf := make([]byte, 5)
			_, err = c.Read(buf)
			must(t, err)
		},
		"unlinked but open": func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"/d", 0o755))
			fd := open(t, dir+"/d/f", unix.O_CREAT|unix.O_RDWR)
			_, err := unix.Write(fd, []byte("still here"))
			must(t, err)
			must(t, os.Remove(dir+"/d/f"))
			must(t, os.Remove(dir+"/d"))
			buf := make([]byte, 20)
			n, err := unix.Pread(fd, buf, 0)
			must(t, err)
			if string(buf[:n]) != "still here" {
				t.Errorf("read %q", buf[:n])
			}
			_, err = unix.Pwrite(fd, []byte("more"), 10)
			must(t, err)
			var st unix.Stat_t
			must(t, unix.Fstat(fd, &st))
			if st.Nlink != 0 || st.Size != 14 {
				t.Errorf("links %d, size %d", st.Nlink, st.Size)
			}
		},
		"renamed over while open": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "old")
			fd := open(t, f, unix.O_RDONLY)
			put(t, dir+"/g", "new")
			must(t, os.Rename(dir+"/g", f))
			buf := make([]byte, 5)
			n, err := unix.Pread(fd, buf, 0)
			must(t, err)
			if string(buf[:n]) != "old" {
				t.Errorf("the old descriptor reads %q", buf[:n])
			}
			content(t, f, "new")
		},
		"names of any bytes": func(t *testing.T, dir string) {
			for _, name := range []string{"\xff\xfe", "a\nb", "ünï", " ", "-rf", "a\\b", "\x01", strings.Repeat("n", 255), "…"} {
				put(t, dir+"/"+name, name)
				content(t, dir+"/"+name, name)
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 9 {
				t.Errorf("%d names listed", len(entries))
			}
			_, err = os.Create(dir + "/" + strings.Repeat("n", 256))
			wants(t, err, unix.ENAMETOOLONG)
			_, err = os.Stat("/" + strings.Repeat("x/", 2500))
			wants(t, err, unix.ENAMETOOLONG)
		},
		"fcntl locks": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_RDWR)
			must(t, unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}))
			script := `import fcntl,sys
f=open(sys.argv[1],"r+b")
def t(a,n):
    try: fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,n,a); return "had"
    except OSError as e: return "busy"
print(t(0,10),t(15,1),t(20,5))`
			out, err := exec.Command("/usr/bin/python3", "-c", script, dir+"/f").Output()
			must(t, err)
			if string(out) != "had busy had\n" {
				t.Errorf("another process: %s", out)
			}
			must(t, unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}))
			out, err = exec.Command("/usr/bin/python3", "-c", script, dir+"/f").Output()
			must(t, err)
			if string(out) != "had had had\n" {
				t.Errorf("another process, after unlocking: %s", out)
			}
		},
		"flock": func(t *testing.T, dir string) {
			a, b := open(t, dir+"/f", unix.O_CREAT|unix.O_RDWR), open(t, dir+"/f", unix.O_RDWR)
			must(t, unix.Flock(a, unix.LOCK_EX))
			wants(t, unix.Flock(b, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
			done := make(chan error, 1)
			go func() { done <- unix.Flock(b, unix.LOCK_EX) }()
			select {
			case err := <-done:
				t.Error("granted twice", err)
			case <-time.After(200 * time.Millisecond):
			}
			must(t, unix.Flock(a, unix.LOCK_UN))
			must(t, <-done)
		},
		"a blocked lock is interruptible": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_RDWR)
			must(t, unix.Flock(fd, unix.LOCK_EX))
			c := exec.Command("flock", dir+"/f", "true")
			must(t, c.Start())
			time.Sleep(200 * time.Millisecond)
			must(t, c.Process.Signal(unix.SIGTERM))
			done := make(chan error, 1)
			go func() { done <- c.Wait() }()
			select {
			case <-done:
			case <-time.After(5 * time.Second):
				unix.Flock(fd, unix.LOCK_UN)
				t.Errorf("it did not die: %v", <-done)
			}
		},
		"umask and modes": func(t *testing.T, dir string) {
			old := unix.Umask(0o027)
			defer unix.Umask(old)
			must(t, os.Mkdir(dir+"/d", 0o777))
			f, err := os.OpenFile(dir+"/f", os.O_CREATE, 0o666)
			must(t, err)
			f.Close()
			if d, f := stat(t, dir+"/d").Mode&0o7777, stat(t, dir+"/f").Mode&0o7777; d != 0o750 || f != 0o640 {
				t.Errorf("modes %o and %o", d, f)
			}
			must(t, unix.Chmod(dir+"/f", 0o4711))
			if m := stat(t, dir+"/f").Mode & 0o7777; m != 0o4711 {
				t.Errorf("mode %o", m)
			}
			must(t, unix.Chmod(dir+"/d", 0o1777))
			if m := stat(t, dir+"/d").Mode & 0o7777; m != 0o1777 {
				t.Errorf("mode %o", m)
			}
		},
		"open flags": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "content")
			must(t, os.Symlink("f", dir+"/l"))
			_, err := unix.Open(f, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
			wants(t, err, unix.EEXIST)
			_, err = unix.Open(dir+"/l", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
			wants(t, err, unix.ELOOP)
			_, err = unix.Open(f, unix.O_RDONLY|unix.O_DIRECTORY, 0)
			wants(t, err, unix.ENOTDIR)
			_, err = unix.Open(dir, unix.O_WRONLY, 0)
			wants(t, err, unix.EISDIR)
			_, err = unix.Open(dir+"/none", unix.O_RDONLY, 0)
			wants(t, err, unix.ENOENT)
			_, err = unix.Open(f+"/x", unix.O_RDONLY, 0)
			wants(t, err, unix.ENOTDIR)
			must(t, os.Symlink("loop", dir+"/loop"))
			_, err = unix.Open(dir+"/loop", unix.O_RDONLY, 0)
			wants(t, err, unix.ELOOP)
			fd := open(t, f, unix.O_WRONLY|unix.O_TRUNC)
			if st := stat(t, f); st.Size != 0 {
				t.Errorf("size %d after O_TRUNC", st.Size)
			}
			_, err = unix.Read(fd, make([]byte, 1))
			wants(t, err, unix.EBADF)
			open(t, f, unix.O_RDWR|unix.O_DSYNC)
		},
		"symbolic links": func(t *testing.T, dir string) {
			for _, target := range []string{"relative/x", "/absolute/x", "\xff", strings.Repeat("t", 4095)} {
				must(t, os.Symlink(target, dir+"/l"))
				got, err := os.Readlink(dir + "/l")
				must(t, err)
				if got != target || stat(t, dir+"/l").Size != int64(len(target)) {
					t.Errorf("%.20q became %.20q", target, got)
				}
				must(t, os.Remove(dir+"/l"))
			}
		},
		"a directory that changes while read": func(t *testing.T, dir string) {
			for i := range 2000 {
				must(t, unix.Mknod(fmt.Sprintf("%s/f%04d", dir, i), unix.S_IFREG|0o600, 0))
			}
			d, err := os.Open(dir)
			must(t, err)
			defer d.Close()
			seen := map[string]int{}
			for round := 0; ; round++ {
				names, err := d.Readdirnames(100)
				for _, n := range names {
					seen[n]++
				}
				if err != nil {
					break
				}
				must(t, os.Remove(fmt.Sprintf("%s/f%04d", dir, 1999-round)))
				put(t, fmt.Sprintf("%s/new%d", dir, round), "")
			}
			for i := range 1900 {
				if n := fmt.Sprintf("f%04d", i); seen[n] != 1 {
					t.Fatalf("%s was seen %d times", n, seen[n])
				}
			}
		},
		"removing while reading": func(t *testing.T, dir string) {
			for i := range 500 {
				put(t, fmt.Sprintf("%s/f%d", dir, i), "")
			}
			out, err := exec.Command("rm", "-r", dir).CombinedOutput()
			if err != nil || len(out) != 0 {
				t.Errorf("%v: %s", err, out)
			}
		},
		"copy_file_range": func(t *testing.T, dir string) {
			text := strings.Repeat("0123456789abcdef", 100_000)
			src := open(t, put(t, dir+"/a", text), unix.O_RDONLY)
			dst := open(t, dir+"/b", unix.O_CREAT|unix.O_WRONLY)
			for left := len(text); left > 0; {
				n, err := unix.CopyFileRange(src, nil, dst, nil, left, 0)
				must(t, err)
				if n == 0 {
					t.Fatal("nothing was copied")
				}
				left -= n
			}
			content(t, dir+"/b", text)
		},
		"shared mapping": func(t *testing.T, dir string) {
			fd := open(t, dir+"/m", unix.O_CREAT|unix.O_RDWR)
			must(t, unix.Ftruncate(fd, 1<<16))
			m, err := unix.Mmap(fd, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err)
			copy(m[40000:], "mapped")
			must(t, unix.Msync(m, unix.MS_SYNC))
			buf := make([]byte, 6)
			_, err = unix.Pread(fd, buf, 40000)
			must(t, err)
			if string(buf) != "mapped" {
				t.Errorf("read %q", buf)
			}
			_, err = unix.Pwrite(fd, []byte("written"), 100)
			must(t, err)
			if string(m[100:107]) != "written" {
				t.Errorf("the mapping has %q", m[100:107])
			}
			must(t, unix.Munmap(m))
		},
		"statfs": func(t *testing.T, dir string) {
			var st unix.Statfs_t
			must(t, unix.Statfs(dir, &st))
			if st.Blocks == 0 || st.Bfree > st.Blocks || st.Namelen != 255 {
				t.Errorf("%+v", st)
			}
		},
		"inode numbers stay": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "x")
			ino := stat(t, f).Ino
			must(t, os.Rename(f, dir+"/g"))
			entries, err := os.ReadDir(dir)
			must(t, err)
			if stat(t, dir+"/g").Ino != ino || len(entries) != 1 {
				t.Errorf("inode %d became %d", ino, stat(t, dir+"/g").Ino)
			}
		},
		"permissions": func(t *testing.T, dir string) {
			if os.Getuid() == 0 {
				must(t, os.Chown(put(t, dir+"/owned", ""), 12, 34))
				if st := stat(t, dir+"/owned"); st.Uid != 12 || st.Gid != 34 {
					t.Errorf("owner %d:%d", st.Uid, st.Gid)
				}
				return
			}
			f := put(t, dir+"/f", "x")
			must(t, os.Chmod(f, 0))
			_, err := os.Open(f)
			wants(t, err, unix.EACCES)
			// In a user namespace that does not map root the kernel says EINVAL.
			if err := os.Chown(f, 0, 0); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
				t.Errorf("chown to root: %v", err)
			}
			must(t, os.Mkdir(dir+"/closed", 0o500))
			wants(t, os.WriteFile(dir+"/closed/x", nil, 0o600), unix.EACCES)
		},
		"removing directories": func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+"/a/b", 0o755))
			wants(t, unix.Rmdir(dir+"/a"), unix.ENOTEMPTY)
			wants(t, unix.Unlink(dir+"/a"), unix.EISDIR)
			wants(t, unix.Rmdir(put(t, dir+"/f", "")), unix.ENOTDIR)
			must(t, unix.Rmdir(dir+"/a/b"))
			if n := stat(t, dir+"/a").Nlink; n != 2 && n != 1 {
				t.Errorf("%d links", n)
			}
			must(t, unix.Rmdir(dir+"/a"))
			wants(t, unix.Rmdir(dir+"/a"), unix.ENOENT)
		},
		"O_DIRECT": func(t *testing.T, dir string) {
			fd, err := unix.Open(dir+"/d", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o600)
			if err == unix.EINVAL {
				return // tmpfs of older kernels has none, natively
			}
			must(t, err)
			defer unix.Close(fd)
			m, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			must(t, err)
			copy(m, "direct")
			_, err = unix.Pwrite(fd, m[:4096], 0)
			must(t, err)
			clear(m)
			n, err := unix.Pread(fd, m[:4096], 0)
			must(t, err)
			if n != 4096 || string(m[:6]) != "direct" {
				t.Errorf("%d bytes, %q", n, m[:6])
			}
		},
		"modification times follow writes": func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "x")
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
			put(t, f, "y")
			if st := stat(t, f); time.Since(time.Unix(st.Mtim.Unix())).Abs() > time.Minute {
				t.Errorf("mtime %v", st.Mtim)
			}
			before := stat(t, dir).Mtim
			time.Sleep(20 * time.Millisecond)
			put(t, filepath.Join(dir, "new"), "")
			if after := stat(t, dir).Mtim; after == before {
				t.Error("the directory's mtime did not change with a new entry")
			}
		},
	}
}
