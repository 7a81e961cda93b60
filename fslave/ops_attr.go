package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// look is find, with a watch set before anything is looked at.
func (c *call) look(id fsyscall.NodeID, open bool) (*found, error) {
	c.leased = c.watchNode(id)
	f, err := c.find(id, open)
	if err != nil {
		c.leased = false
		return nil, err
	}
	c.leased = c.leased && f.d != nil
	if c.leased {
		f.seen = c.shared(f.d, f.name, f.mode, &f.st)
	}
	return f, nil
}

func (c *call) getAttr() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.GetAttr)
	reply := &fsyscall.AttrReply{}
	if m.File != 0 {
		f, o, err := c.lookFile(m.ID, m.File, false)
		if err != nil {
			return nil, err
		}
		defer o.put()
		f.fillAttr(&reply.Attr)
		return reply, nil
	}
	f, err := c.look(m.ID, false)
	if err != nil {
		return nil, err
	}
	defer f.done()
	f.fillAttr(&reply.Attr)
	return reply, nil
}

func (c *call) readLink() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.ReadLink)
	f, err := c.look(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	if f.kind() != unix.S_IFLNK {
		return nil, unix.EINVAL
	}
	target, err := readLinkAt(f.fd, "")
	return &fsyscall.ReadLinkReply{Target: target}, err
}

func readLinkAt(dir int, name string) (string, error) {
	var buf [fsyscall.MaxTarget]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (c *call) access() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Access)
	f, err := c.look(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	if m.Mask&2 != 0 && f.mode != ModeReadWrite {
		return nil, unix.EROFS
	}
	if f.kind() == unix.S_IFLNK || m.Mask == 0 {
		return nil, nil // links have no permissions of their own
	}
	return nil, unix.Faccessat(unix.AT_FDCWD, procPath(f.fd), uint32(m.Mask), unix.AT_EACCESS)
}

func (c *call) statFS() (fsyscall.Message, error) {
	f, err := c.find(c.body.(*fsyscall.StatFS).ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(f.fd, &st) }); err != nil {
		return nil, err
	}
	return &fsyscall.StatFSReply{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize), NameLen: uint32(st.Namelen),
	}, nil
}

func (c *call) setAttr() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.SetAttr)
	f, o, err := c.lookFile(m.ID, m.File, true)
	if err != nil {
		return nil, err
	}
	if o != nil {
		defer o.put()
	} else {
		defer f.done()
	}
	if err := c.allow(f.mode, false); err != nil {
		return nil, err
	}
	c.own.names(f.n, inAttr|inData)
	c.own.self(f.n, inAttr|inData)
	if err := c.s.kernel.apply(f, o, m); err != nil {
		return nil, err
	}
	if err := statFD(f.fd, &f.st); err != nil {
		return nil, err
	}
	reply := &fsyscall.AttrReply{}
	f.fillAttr(&reply.Attr)
	c.leased = f.d != nil && c.s.watch.covered(f.d)
	return reply, nil
}

// apply changes the attributes that m names, in the order of its contract.
func (k kernel) apply(f *found, o *file, m *fsyscall.SetAttr) error {
	if m.Mask&fsyscall.SetSize != 0 {
		if err := k.truncate(f, o, m.Size); err != nil {
			return err
		}
	}
	if m.Mask&(fsyscall.SetUID|fsyscall.SetGID) != 0 {
		uid, gid := -1, -1
		if m.Mask&fsyscall.SetUID != 0 {
			uid = int(m.UID)
		}
		if m.Mask&fsyscall.SetGID != 0 {
			gid = int(m.GID)
		}
		if err := unix.Fchownat(f.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if m.Mask&fsyscall.SetMode != 0 {
		if f.kind() == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		if err := k.chmod(f.fd, m.Mode); err != nil {
			return err
		}
	}
	return k.setTimes(f.fd, m)
}

func (k kernel) truncate(f *found, o *file, size uint64) error {
	switch {
	case size > 1<<63-1:
		return unix.EFBIG
	case f.kind() == unix.S_IFDIR:
		return unix.EISDIR
	case f.kind() != unix.S_IFREG:
		return unix.EINVAL
	case o != nil && o.write:
		return retry(func() error { return unix.Ftruncate(o.fd, int64(size)) })
	case f.n.stdio != nil && f.n.stdio.write:
		return retry(func() error { return unix.Ftruncate(f.fd, int64(size)) })
	}
	return retry(func() error { return unix.Truncate(procPath(f.fd), int64(size)) })
}

// chmod works on an O_PATH descriptor. fchmodat2 is there since Linux 6.6.
func (k kernel) chmod(fd int, mode uint32) error {
	err := unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH)
	if err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == unix.EPERM || err == unix.EINVAL {
		return unix.Chmod(procPath(fd), mode)
	}
	return err
}

func (k kernel) setTimes(fd int, m *fsyscall.SetAttr) error {
	pick := func(set, now fsyscall.SetMask, t fsyscall.Time) unix.Timespec {
		switch {
		case m.Mask&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		case m.Mask&set != 0:
			return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)}
		}
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	ts := []unix.Timespec{
		pick(fsyscall.SetAtime, fsyscall.SetAtimeNow, m.Atime),
		pick(fsyscall.SetMtime, fsyscall.SetMtimeNow, m.Mtime),
	}
	if ts[0].Nsec == unix.UTIME_OMIT && ts[1].Nsec == unix.UTIME_OMIT {
		return nil
	}
	return k.utimens(fd, ts)
}

// utimens takes AT_EMPTY_PATH since Linux 5.8.
func (k kernel) utimens(fd int, ts []unix.Timespec) error {
	err := unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
	if err == unix.EINVAL || err == unix.ENOENT {
		return unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts, 0)
	}
	return err
}
