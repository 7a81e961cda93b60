package fslave

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// settles tells whether opening and fetching a file say that it is settled; the
// two must agree.
func (c *client) settles(id fsyscall.NodeID) bool {
	c.t.Helper()
	f := fsyscall.FileID(c.id())
	open := c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: f, Inline: 100}, 0).(*fsyscall.OpenReply).Attr
	c.release(f)
	fetch := c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: id, Size: 100}, 0).(*fsyscall.OpenReply).Attr
	if (open.Flags^fetch.Flags)&fsyscall.AttrSettled != 0 {
		c.t.Errorf("open says %+v, fetch %+v", open, fetch)
	}
	return open.Flags&fsyscall.AttrSettled != 0
}

// A file counts as settled a while after its last change, and not while
// somebody has it open for writing, or mapped.
func TestSettled(t *testing.T) {
	root := t.TempDir()
	path := put(t, root, "f", "data")
	c := dial(t, root, Config{})
	id := c.walk("f")
	if c.settles(id) {
		t.Error("settled at once")
	}
	if !exact(t, root) {
		return // the rest would take a minute, or never be
	}
	for end := time.Now().Add(20 * time.Second); !c.settles(id); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not settled after 20 s")
		}
	}
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	if c.settles(id) {
		t.Error("settled while it is open for writing")
	}
	m, err := unix.Mmap(int(w.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	must(t, w.Close())
	if c.settles(id) {
		t.Error("settled while it is mapped")
	}
	m[0] = 'D'
	must(t, unix.Munmap(m))
	if c.settles(id) {
		t.Error("settled right after a store through a mapping")
	}
	// Others are not kept from writing, not even for a moment.
	w, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	must(t, w.Close())
	for name, a := range map[string]fsyscall.Attr{
		"getattr":         c.attr(id),
		"open to write":   c.openAttr(id, fsyscall.OpenReadWrite),
		"open, truncated": c.openAttr(id, fsyscall.OpenReadWrite|fsyscall.OpenTruncate),
	} {
		if a.Flags&fsyscall.AttrSettled != 0 {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func (c *client) openAttr(id fsyscall.NodeID, flags fsyscall.OpenFlags) fsyscall.Attr {
	c.t.Helper()
	f := fsyscall.FileID(c.id())
	defer c.release(f)
	return c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: f, Flags: flags}, 0).(*fsyscall.OpenReply).Attr
}

// exact tells whether dir is on a file system of those on which settling needs
// no long wait.
func exact(t *testing.T, dir string) bool {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	return settlingAge(uint32(fs.Type), func() error { return nil }) == tick
}

func TestSettlingAge(t *testing.T) {
	for _, c := range []struct {
		fs    uint32
		lease error
		want  time.Duration
	}{
		{unix.EXT4_SUPER_MAGIC, nil, tick},
		{unix.XFS_SUPER_MAGIC, nil, tick},
		{unix.EXT4_SUPER_MAGIC, unix.EAGAIN, 0},
		{unix.EXT4_SUPER_MAGIC, unix.EACCES, writeBack},
		{unix.BTRFS_SUPER_MAGIC, unix.EINVAL, writeBack},
		{unix.OVERLAYFS_SUPER_MAGIC, nil, writeBack},
		{magicZFS, nil, writeBack},
		{unix.TMPFS_MAGIC, nil, 0},
		{unix.NFS_SUPER_MAGIC, nil, 0},
		{unix.FUSE_SUPER_MAGIC, nil, 0},
		{unix.PROC_SUPER_MAGIC, nil, 0},
		{0, nil, 0},
	} {
		if got := settlingAge(c.fs, func() error { return c.lease }); got != c.want {
			t.Errorf("file system %#x, lease %v: %v, want %v", c.fs, c.lease, got, c.want)
		}
	}
}

// Nothing in memory is ever settled.
func TestSettledInMemory(t *testing.T) {
	fd, err := unix.MemfdCreate("old", unix.MFD_CLOEXEC)
	must(t, err)
	defer unix.Close(fd)
	if before := settling(fd); !before.IsZero() {
		t.Errorf("a file in memory is settled when older than %v", before)
	}
	if settled(time.Time{}, &unix.Statx_t{}) {
		t.Error("the zero time settles")
	}
}
