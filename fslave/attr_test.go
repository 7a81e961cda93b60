package fslave

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestSetAttr(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		put(t, root, "f", "0123456789")
		must(t, os.Mkdir(filepath.Join(root, "d"), 0o755))
		must(t, os.Symlink("nowhere", filepath.Join(root, "l")))
		f, d, l := c.walk("f"), c.walk("d"), c.walk("l")
		set := func(m fsyscall.SetAttr, want unix.Errno) fsyscall.Attr {
			t.Helper()
			r, _ := c.do(fsyscall.OpSetAttr, &m, want).(*fsyscall.AttrReply)
			if r == nil {
				return fsyscall.Attr{}
			}
			return r.Attr
		}
		for _, mode := range []uint32{0o4755, 0o2711, 0o1777, 0, 0o644} {
			if a := set(fsyscall.SetAttr{ID: f, Mask: fsyscall.SetMode, Mode: mode}, 0); a.Mode != unix.S_IFREG|mode {
				t.Errorf("chmod %o: %o", mode, a.Mode)
			}
			if a := set(fsyscall.SetAttr{ID: d, Mask: fsyscall.SetMode, Mode: mode | 0o700}, 0); a.Mode != unix.S_IFDIR|mode|0o700 {
				t.Errorf("chmod %o of a directory: %o", mode, a.Mode)
			}
		}
		set(fsyscall.SetAttr{ID: l, Mask: fsyscall.SetMode, Mode: 0o600}, unix.ENOTSUP)
		at, mt := fsyscall.Time{Sec: 1, Nsec: 999999999}, fsyscall.Time{Sec: 1 << 31, Nsec: 1}
		for _, id := range []fsyscall.NodeID{f, d, l} {
			a := set(fsyscall.SetAttr{ID: id, Mask: fsyscall.SetAtime | fsyscall.SetMtime, Atime: at, Mtime: mt}, 0)
			if a.Atime != at || a.Mtime != mt {
				t.Errorf("times %v %v", a.Atime, a.Mtime)
			}
			a = set(fsyscall.SetAttr{ID: id, Mask: fsyscall.SetMtimeNow}, 0)
			if now := time.Now().Unix(); a.Atime != at || a.Mtime.Sec < now-100 || a.Mtime.Sec > now+1 {
				t.Errorf("times %v %v", a.Atime, a.Mtime)
			}
		}
		if a := set(fsyscall.SetAttr{ID: f, Mask: fsyscall.SetSize, Size: 4}, 0); a.Size != 4 {
			t.Errorf("size %d", a.Size)
		}
		if a := set(fsyscall.SetAttr{ID: f, Mask: fsyscall.SetSize | fsyscall.SetMode | fsyscall.SetMtime, Size: 5 << 30, Mode: 0o600, Mtime: mt}, 0); a.Size != 5<<30 || a.Mtime != mt || a.Mode&0o777 != 0o600 {
			t.Errorf("%+v", a)
		}
		set(fsyscall.SetAttr{ID: d, Mask: fsyscall.SetSize}, unix.EISDIR)
		set(fsyscall.SetAttr{ID: f, Mask: fsyscall.SetSize, Size: 1 << 63}, unix.EFBIG)
		uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
		if a := set(fsyscall.SetAttr{ID: f, Mask: fsyscall.SetUID | fsyscall.SetGID, UID: uid, GID: gid}, 0); a.UID != uid || a.GID != gid {
			t.Errorf("owner %d:%d", a.UID, a.GID)
		}
		if uid == 0 {
			for _, id := range []fsyscall.NodeID{f, d, l} {
				if a := set(fsyscall.SetAttr{ID: id, Mask: fsyscall.SetUID | fsyscall.SetGID, UID: 12, GID: 34}, 0); a.UID != 12 || a.GID != 34 {
					t.Errorf("owner %d:%d", a.UID, a.GID)
				}
			}
		} else {
			set(fsyscall.SetAttr{ID: f, Mask: fsyscall.SetUID, UID: 0}, unix.EPERM)
		}
	})
}

func TestAttrAndAccess(t *testing.T) {
	root := t.TempDir()
	path := put(t, root, "f", "data")
	must(t, os.Chmod(path, 0o640))
	c := dial(t, root, Config{})
	id := c.walk("f")
	a := c.attr(id)
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if a.Ino != st.Ino || a.Dev != st.Dev || a.Mode != st.Mode || a.Size != 4 || a.Mtime.Nsec != uint32(st.Mtim.Nsec) || a.Access != 6 {
		t.Errorf("%+v", a)
	}
	c.do(fsyscall.OpAccess, &fsyscall.Access{ID: id, Mask: 6}, 0)
	c.do(fsyscall.OpAccess, &fsyscall.Access{ID: id, Mask: 1}, unix.EACCES)
	must(t, os.Link(path, filepath.Join(root, "second")))
	if a := c.attr(id); a.Flags&fsyscall.AttrUnwatched == 0 || a.Nlink != 2 {
		t.Errorf("%+v", a)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(root, &fs))
	r := c.do(fsyscall.OpStatFS, &fsyscall.StatFS{ID: id}, 0).(*fsyscall.StatFSReply)
	if r.Blocks != fs.Blocks || r.NameLen != uint32(fs.Namelen) || r.Bsize != uint32(fs.Bsize) {
		t.Errorf("%+v", r)
	}
	who := identity{uid: 7, groups: map[uint32]bool{8: true}}
	for _, tt := range []struct {
		uid, gid uint32
		mode     uint16
		want     uint8
	}{{7, 8, 0o407, 4}, {1, 8, 0o470, 7}, {1, 1, 0o771, 1}, {1, 8, 0o707, 0}} {
		if got := who.access(&unix.Statx_t{Uid: tt.uid, Gid: tt.gid, Mode: tt.mode}); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
	super := identity{}
	if super.access(&unix.Statx_t{Uid: 5, Mode: unix.S_IFREG}) != 6 || super.access(&unix.Statx_t{Mode: unix.S_IFREG | 0o001}) != 7 || super.access(&unix.Statx_t{Mode: unix.S_IFDIR}) != 7 {
		t.Error("root's access")
	}
}

func TestXattr(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		path := put(t, root, "f", "")
		must(t, os.Mkdir(filepath.Join(root, "d"), 0o755))
		f := c.walk("f")
		if a := c.attr(f); a.Flags&fsyscall.AttrNoXattr == 0 {
			t.Errorf("%+v", a)
		}
		big := []byte(strings.Repeat("v", 2000))
		for _, id := range []fsyscall.NodeID{f, c.walk("d")} {
			c.do(fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: id, Name: "user.a"}, unix.ENODATA)
			c.do(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: id, Name: "user.a", Value: big, Flags: 1}, 0)
			c.do(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: id, Name: "user.a", Value: big, Flags: 1}, unix.EEXIST)
			c.do(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: id, Name: "user.b", Flags: 2}, unix.ENODATA)
			c.do(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: id, Name: "user.empty"}, 0)
			if got := c.do(fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: id, Name: "user.a"}, 0).(*fsyscall.Data).Data; !slices.Equal(got, big) {
				t.Errorf("%q", got)
			}
			names := strings.Split(string(c.do(fsyscall.OpListXattr, &fsyscall.ListXattr{ID: id}, 0).(*fsyscall.Data).Data), "\x00")
			if !slices.Contains(names, "user.a") || !slices.Contains(names, "user.empty") {
				t.Errorf("%q", names)
			}
			c.do(fsyscall.OpRemoveXattr, &fsyscall.RemoveXattr{ID: id, Name: "user.a"}, 0)
			c.do(fsyscall.OpRemoveXattr, &fsyscall.RemoveXattr{ID: id, Name: "user.a"}, unix.ENODATA)
			if a := c.attr(id); a.Flags&fsyscall.AttrNoXattr != 0 {
				t.Errorf("%+v", a)
			}
		}
		c.do(fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: f, Name: "nonsense"}, unix.ENOTSUP)
		c.do(fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: f, Name: "user.a\x00b"}, unix.EINVAL)
		// A file that cannot be read still has attributes.
		must(t, os.Chmod(path, 0o200))
		c.do(fsyscall.OpListXattr, &fsyscall.ListXattr{ID: f}, 0)
		// On a link, they are the link's own.
		must(t, os.Symlink("f", filepath.Join(root, "l")))
		l := c.walk("l")
		want := errnoOf(unix.Lsetxattr(filepath.Join(root, "l"), "user.x", []byte("v"), 0))
		c.do(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: l, Name: "user.x", Value: []byte("v")}, unix.Errno(want))
		if got := c.do(fsyscall.OpListXattr, &fsyscall.ListXattr{ID: l}, 0).(*fsyscall.Data).Data; strings.Contains(string(got), "user.empty") {
			t.Errorf("the target's attributes: %q", got)
		}
		if os.Getuid() == 0 {
			c.do(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: l, Name: "trusted.x", Value: []byte("link")}, 0)
			c.do(fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: f, Name: "trusted.x"}, unix.ENODATA)
		}
	})
}

// FIFOs, sockets and devices are never opened: nobody who waits at the other
// end notices anything.
func TestSpecialFiles(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO | 0o600, "sock": unix.S_IFSOCK | 0o600, "reg": unix.S_IFREG | 0o4711} {
			id := c.id()
			r := c.do(fsyscall.OpMknod, &fsyscall.Mknod{Dir: fsyscall.RootNode, Name: name, ID: id, Mode: mode}, 0)
			if a := r.(*fsyscall.AttrReply).Attr; a.Mode != mode {
				t.Errorf("%s: mode %o", name, a.Mode)
			}
			want := unix.ENXIO
			if name == "reg" {
				want = 0
			}
			for i, flags := range []fsyscall.OpenFlags{fsyscall.OpenReadOnly, fsyscall.OpenWriteOnly, fsyscall.OpenReadWrite | fsyscall.OpenTruncate} {
				c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: fsyscall.FileID(50 + i), Flags: flags}, want)
				if want == 0 {
					c.release(fsyscall.FileID(50 + i))
				}
			}
			c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: id, Size: 1}, want)
		}
		for _, mode := range []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFDIR, unix.S_IFLNK} {
			c.do(fsyscall.OpMknod, &fsyscall.Mknod{Dir: fsyscall.RootNode, Name: "dev", ID: 800, Mode: mode | 0o600}, unix.EPERM)
		}
		must(t, os.Symlink("reg", filepath.Join(root, "link")))
		c.do(fsyscall.OpOpen, &fsyscall.Open{ID: c.walk("link"), File: 60}, unix.ELOOP)
		must(t, os.Mkdir(filepath.Join(root, "dir"), 0o755))
		c.do(fsyscall.OpOpen, &fsyscall.Open{ID: c.walk("dir"), File: 60}, unix.EISDIR)
	})
}

func TestDevicesStayClosed(t *testing.T) {
	c := dial(t, "/dev", Config{NoWatch: true})
	for _, name := range []string{"null", "tty", "zero"} {
		id, e := c.tryWalk(name)
		if e != 0 {
			continue
		}
		c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 9}, unix.ENXIO)
	}
}

func TestRename(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		put(t, root, "a/x", "ax")
		put(t, root, "b/y", "by")
		a, b := c.walk("a"), c.walk("b")
		x, y := c.walk("a/x"), c.walk("b/y")
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: a, Name: "x", NewDir: b, NewName: "y", Flags: fsyscall.RenameNoReplace}, unix.EEXIST)
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: a, Name: "x", NewDir: b, NewName: "none", Flags: fsyscall.RenameExchange}, unix.ENOENT)
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: a, Name: "x", NewDir: b, NewName: "y", Flags: fsyscall.RenameExchange}, 0)
		for id, want := range map[fsyscall.NodeID]string{x: "ax", y: "by"} {
			f := c.open(id, 0)
			if got := c.read(f, 0, 10); got != want {
				t.Errorf("read %q, want %q", got, want)
			}
			c.release(f)
		}
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: fsyscall.RootNode, Name: "a", NewDir: a, NewName: "in"}, unix.EINVAL)
		// What is attached below a directory follows it.
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: fsyscall.RootNode, Name: "b", NewDir: a, NewName: "sub"}, 0)
		if a := c.attr(x); a.Size != 2 {
			t.Errorf("%+v", a)
		}
		if got := c.names(b); !slices.Equal(got, []string{"y"}) {
			t.Errorf("listed %q", got)
		}
		c.do(fsyscall.OpRmdir, &fsyscall.Rmdir{Dir: a, Name: "sub"}, unix.ENOTEMPTY)
		c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: a, Name: "sub"}, unix.EISDIR)
		c.do(fsyscall.OpRmdir, &fsyscall.Rmdir{Dir: b, Name: "y"}, unix.ENOTDIR)
	})
}

// A file that someone replaced is not the one that was meant.
func TestStale(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		path := put(t, root, "d/f", "old")
		id := c.walk("d/f")
		put(t, root, "d/new", "new")
		must(t, os.Rename(filepath.Join(root, "d/new"), path))
		c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: id}, unix.ESTALE)
		c.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: id, Mask: fsyscall.SetMode, Mode: 0o777}, unix.ESTALE)
		c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 9}, unix.ESTALE)
		must(t, os.Remove(path))
		c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: id}, unix.ESTALE)
		c.send(fsyscall.OpAttach, &fsyscall.Attach{Dir: fsyscall.RootNode, Name: "d", ID: 700, Dev: 1, Ino: 1})
		c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: 700}, unix.ESTALE)
		c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: 12345}, unix.ESTALE)
	})
}

func TestStdioNode(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	in := put(t, outside, "in", "input")
	out := put(t, outside, "out", "12345")
	rd, err := os.Open(in)
	must(t, err)
	defer rd.Close()
	wr, err := os.OpenFile(out, os.O_WRONLY, 0)
	must(t, err)
	defer wr.Close()
	pr, pw, err := os.Pipe()
	must(t, err)
	defer pr.Close()
	defer pw.Close()
	streams := map[uint8]*os.File{0: rd, 1: wr, 2: pw}
	c := dial(t, root, Config{Stdio: func(cmd uint32, slot uint8) (*os.File, bool) {
		f, ok := streams[slot]
		return f, ok && cmd == 4
	}})
	c.do(fsyscall.OpStdioNode, &fsyscall.StdioNode{Cmd: 4, Slot: 0, ID: 10}, 0)
	c.do(fsyscall.OpStdioNode, &fsyscall.StdioNode{Cmd: 4, Slot: 1, ID: 11}, 0)
	c.do(fsyscall.OpStdioNode, &fsyscall.StdioNode{Cmd: 4, Slot: 2, ID: 12}, unix.ENXIO)
	c.do(fsyscall.OpStdioNode, &fsyscall.StdioNode{Cmd: 5, Slot: 0, ID: 12}, unix.EBADF)
	if got := c.read(c.open(10, fsyscall.OpenReadOnly), 0, 100); got != "input" {
		t.Errorf("read %q", got)
	}
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: 10, File: 99, Flags: fsyscall.OpenWriteOnly}, unix.EROFS)
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: 11, File: 99, Flags: fsyscall.OpenReadOnly}, unix.EACCES)
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: 11, File: 99, Flags: fsyscall.OpenReadWrite}, unix.EACCES)
	f := c.open(11, fsyscall.OpenWriteOnly)
	c.write(f, 0, "X")
	c.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: 11, Mask: fsyscall.SetSize, Size: 3}, 0)
	if got, err := os.ReadFile(out); err != nil || string(got) != "X23" {
		t.Errorf("%q, %v", got, err)
	}
	c.do(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 10, Name: "x", ID: 13}, unix.EACCES)
	c.do(fsyscall.OpLink, &fsyscall.Link{ID: 11, Dir: fsyscall.RootNode, Name: "in"}, unix.EXDEV)
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := rd.Stat(); errors.Is(err, os.ErrClosed) {
		t.Error("the caller's descriptor was closed")
	}
}
