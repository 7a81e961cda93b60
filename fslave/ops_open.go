package fslave

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// openFlags translates to this machine's numbers, which differ between
// architectures. O_DIRECT is left out: it would ask for an alignment of
// buffers and offsets that only the command's own machine can give.
func openFlags(f fsyscall.OpenFlags) int {
	flags := int(f & fsyscall.OpenAccMode)
	for _, p := range []struct {
		wire  fsyscall.OpenFlags
		local int
	}{
		{fsyscall.OpenTruncate, unix.O_TRUNC},
		{fsyscall.OpenNoATime, unix.O_NOATIME},
		{fsyscall.OpenDSync, unix.O_DSYNC},
		{fsyscall.OpenSync, unix.O_SYNC},
	} {
		if f&p.wire == p.wire {
			flags |= p.local
		}
	}
	return flags
}

func writes(f fsyscall.OpenFlags) bool { return f&fsyscall.OpenAccMode != fsyscall.OpenReadOnly }

// kindError refuses what a plain file call must not open.
func kindError(kind uint16) error {
	switch kind {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFLNK:
		return unix.ELOOP
	}
	return unix.ENXIO
}

func (c *call) open() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Open)
	if c.file == nil { // executed inline
		if c.file, c.early = c.s.files.reserve(m.File); c.early != nil {
			return nil, c.early
		}
	}
	reply := &fsyscall.OpenReply{}
	n, err := c.openNode(m, reply)
	c.s.files.settle(c.file, n, err)
	return reply, err
}

func (c *call) openNode(m *fsyscall.Open, reply *fsyscall.OpenReply) (*node, error) {
	f, err := c.look(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	if err := kindError(f.kind()); err != nil {
		return nil, err
	}
	if err := c.allow(f.mode, false); err != nil {
		return nil, err
	}
	if m.Flags&fsyscall.OpenTruncate != 0 {
		c.own.names(f.n, inData|inAttr)
	}
	fd, err := c.reopen(f, openFlags(m.Flags))
	if err != nil {
		return nil, err
	}
	if err := c.firstBytes(fd, m, f, &reply.Attr); err != nil {
		unix.Close(fd)
		return nil, err
	}
	o := c.file
	o.fd, o.write, o.mode, o.inode = fd, writes(m.Flags), f.mode, inode{statDev(&f.st), f.st.Ino}
	return f.n, nil
}

// firstBytes fills in the rest of the reply to an Open.
func (c *call) firstBytes(fd int, m *fsyscall.Open, f *found, a *fsyscall.Attr) error {
	var quiet time.Time
	if m.Flags&fsyscall.OpenAccMode == fsyscall.OpenReadOnly && f.n.stdio == nil {
		quiet = settling(fd)
	}
	if m.Inline > 0 && m.Flags&fsyscall.OpenAccMode != fsyscall.OpenWriteOnly {
		if err := c.readInto(fd, 0, int(m.Inline)); err != nil {
			return err
		}
	}
	if m.Flags&fsyscall.OpenTruncate != 0 {
		if err := statFD(fd, &f.st); err != nil {
			return err
		}
	}
	f.fillAttr(a)
	if settled(quiet, &f.st) {
		a.Flags |= fsyscall.AttrSettled
	}
	return nil
}

// reopen opens the regular file that f was found to be. A standard stream that
// the confinement does not let be opened again is duplicated, within its own
// access mode.
func (c *call) reopen(f *found, flags int) (int, error) {
	fd, err := c.s.kernel.reopen(f.fd, flags)
	if f.n.stdio == nil {
		return fd, err
	}
	if err == nil {
		if f.n.stdio.admits(flags) {
			return fd, nil
		}
		unix.Close(fd)
		return -1, unix.EACCES
	}
	return f.n.stdio.dup(f.fd, flags)
}

func (c *call) fetch() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Fetch)
	reply := &fsyscall.OpenReply{}
	return reply, c.readWhole(m.ID, &reply.Attr, func(fd int, _ *found) error {
		return c.readInto(fd, 0, int(m.Size))
	})
}

// readWhole has read read a regular file without leaving it open, and fills in
// its attributes from after that.
func (c *call) readWhole(id fsyscall.NodeID, a *fsyscall.Attr, read func(fd int, f *found) error) error {
	f, err := c.look(id, true)
	if err != nil {
		return err
	}
	defer f.done()
	if err := kindError(f.kind()); err != nil {
		return err
	}
	fd, err := c.reopen(f, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var quiet time.Time
	if f.n.stdio == nil {
		quiet = settling(fd)
	}
	if err := read(fd, f); err != nil {
		return err
	}
	if err := statFD(fd, &f.st); err != nil {
		return err
	}
	f.fillAttr(a)
	if settled(quiet, &f.st) {
		a.Flags |= fsyscall.AttrSettled
	}
	return nil
}

// create makes a file. O_EXCL keeps it from opening anything that is there.
func (c *call) create() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Create)
	t, err := c.newName(m.Dir, m.Name, false)
	if err != nil {
		return nil, err
	}
	defer t.done()
	f, err := c.s.files.reserve(m.File)
	if err != nil {
		return nil, err
	}
	c.own.entry(t.place(), inCreate|inAttr|inData)
	flags := openFlags(m.Flags)&^unix.O_TRUNC | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := retryFD(func() (int, error) { return unix.Openat(t.d.fd, m.Name, flags, m.Mode) })
	if err != nil {
		c.s.files.settle(f, nil, err)
		return nil, err
	}
	reply, n, err := c.opened(f, fd, m.Flags, func(st *unix.Statx_t) (fsyscall.Message, *node, error) {
		return c.made(t, m.ID, st)
	})
	c.s.files.settle(f, n, err)
	return reply, err
}

// opened fills in a file just made.
func (c *call) opened(f *file, fd int, flags fsyscall.OpenFlags, name func(*unix.Statx_t) (fsyscall.Message, *node, error)) (fsyscall.Message, *node, error) {
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	reply, n, err := name(&st)
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	f.fd, f.write, f.mode, f.inode = fd, writes(flags), ModeReadWrite, inode{statDev(&st), st.Ino}
	return reply, n, nil
}

func (c *call) tmpFile() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.TmpFile)
	d, err := c.dir(m.Dir)
	if err != nil {
		return nil, err
	}
	defer c.s.dirs.put(d)
	if err := c.allow(d.mode(), true); err != nil {
		return nil, err
	}
	f, err := c.s.files.reserve(m.File)
	if err != nil {
		return nil, err
	}
	flags := openFlags(m.Flags)&^unix.O_TRUNC | unix.O_TMPFILE | unix.O_CLOEXEC
	if m.Flags&fsyscall.OpenExclusive != 0 {
		flags |= unix.O_EXCL
	}
	fd, err := retryFD(func() (int, error) { return unix.Openat(d.fd, ".", flags, m.Mode) })
	if err != nil {
		c.s.files.settle(f, nil, err)
		return nil, err
	}
	reply, n, err := c.opened(f, fd, m.Flags, func(st *unix.Statx_t) (fsyscall.Message, *node, error) {
		r := &fsyscall.AttrReply{}
		c.s.fillAttr(&r.Attr, st, ModeReadWrite, fd, "")
		n, err := c.s.nodes.bindNameless(m.ID, r.Attr.Dev, r.Attr.Ino, nil)
		return r, n, err
	})
	c.s.files.settle(f, n, err)
	return reply, err
}

func (c *call) release() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Release)
	f, err := c.getFile(m.File)
	if err != nil {
		return nil, err
	}
	c.own.names(f.n, inAttr|inData|inClose)
	if m.Times && f.mode == ModeReadWrite {
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: m.Mtime.Sec, Nsec: int64(m.Mtime.Nsec)}}
		err = c.s.kernel.utimens(f.fd, ts)
	}
	if c.s.files.release(f) {
		c.s.locks.dropInode(f.inode)
	}
	if e := f.finish(); e != nil {
		err = e
	}
	return nil, err
}
