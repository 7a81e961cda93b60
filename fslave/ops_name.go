package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func (c *call) attach() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Attach)
	return nil, c.s.nodes.attach(m.Dir, m.Name, m.ID, m.Dev, m.Ino)
}

func (c *call) forget() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Forget)
	for _, n := range c.s.nodes.forget(m.IDs) {
		c.s.watch.forget(n)
		c.s.dirs.drop(n)
	}
	return nil, nil
}

func (c *call) barrier() (fsyscall.Message, error) { return nil, nil }

func (c *call) lookup() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Lookup)
	reply := &fsyscall.AttrReply{}
	n, err := c.lookUp(m, &reply.Attr)
	if c.node != nil {
		c.s.nodes.settle(c.node, err)
	} else if err == nil && n == nil {
		err = unix.EINVAL
	}
	return reply, err
}

func (c *call) lookUp(m *fsyscall.Lookup, a *fsyscall.Attr) (*node, error) {
	t, err := c.at(m.Dir, m.Name)
	if err != nil {
		return nil, err
	}
	defer t.done()
	c.leased = c.s.watch.cover(t.d)
	var st unix.Statx_t
	mode, err := t.stat(&st)
	if err != nil {
		c.leased = c.leased && err == unix.ENOENT
		return nil, err
	}
	c.fillNamed(a, t, mode, &st)
	if c.node != nil {
		return c.node, c.s.nodes.found(c.node, a.Dev, a.Ino)
	}
	return c.s.nodes.bind(t.d.n, m.Name, m.ID, a.Dev, a.Ino)
}

// made answers a call that has made an inode at t: id names it.
func (c *call) made(t target, id fsyscall.NodeID, st *unix.Statx_t) (fsyscall.Message, *node, error) {
	reply := &fsyscall.AttrReply{}
	c.s.fillAttr(&reply.Attr, st, ModeReadWrite, t.d.fd, t.name)
	t.pos.qualify(&reply.Attr)
	n, err := c.s.nodes.bind(t.d.n, t.name, id, reply.Attr.Dev, reply.Attr.Ino)
	if err != nil {
		return nil, nil, err
	}
	c.leased = c.s.watch.covered(t.d)
	return reply, n, nil
}

// newName finds the place for a name to be made. A place that leads to
// something protected takes only directories: see position.anchor.
func (c *call) newName(dir fsyscall.NodeID, name string, directory bool) (target, error) {
	t, err := c.at(dir, name)
	if err != nil {
		return t, err
	}
	err = c.allow(min(t.mode(), t.d.mode()), true)
	if err == nil && t.pos.anchor() && !directory {
		err = unix.EPERM
	}
	if err != nil {
		// As everywhere, a name that is there comes before the permission.
		var st unix.Statx_t
		if _, e := t.stat(&st); e == nil {
			err = unix.EEXIST
		}
		t.done()
		return t, err
	}
	return t, nil
}

func (c *call) mkdir() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Mkdir)
	t, err := c.newName(m.Dir, m.Name, true)
	if err != nil {
		return nil, err
	}
	defer t.done()
	c.own.entry(t.place(), inCreate|inAttr)
	if err := unix.Mkdirat(t.d.fd, m.Name, m.Mode); err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err := statAt(t.d.fd, m.Name, &st); err != nil {
		return nil, err
	}
	// mkdir(2) drops the set-group-ID bit that the mode asks for.
	if want := uint16(m.Mode) & 0o7000; st.Mode&want != want && isDir(&st) {
		if err := c.chmodNew(t, uint32(st.Mode)&0o7777|m.Mode, &st); err != nil {
			return nil, err
		}
	}
	reply, n, err := c.made(t, m.ID, &st)
	if err == nil && c.leased {
		c.leased = c.s.coverNew(n)
	}
	return reply, err
}

// chmodNew gives a directory just made the bits that mkdirat leaves out.
func (c *call) chmodNew(t target, mode uint32, st *unix.Statx_t) error {
	fd, err := c.s.kernel.openPath(t.d.fd, t.name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now unix.Statx_t
	if err := statFD(fd, &now); err != nil || now.Ino != st.Ino || !isDir(&now) {
		return unix.ESTALE
	}
	if err := c.s.kernel.chmod(fd, mode&0o7777); err != nil {
		return err
	}
	return statFD(fd, st)
}

func (c *call) mknod() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Mknod)
	switch m.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, 0:
	default:
		return nil, unix.EPERM
	}
	t, err := c.newName(m.Dir, m.Name, false)
	if err != nil {
		return nil, err
	}
	defer t.done()
	c.own.entry(t.place(), inCreate)
	if err := unix.Mknodat(t.d.fd, m.Name, m.Mode, 0); err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err := statAt(t.d.fd, m.Name, &st); err != nil {
		return nil, err
	}
	reply, _, err := c.made(t, m.ID, &st)
	return reply, err
}

func (c *call) symlink() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Symlink)
	t, err := c.newName(m.Dir, m.Name, false)
	if err != nil {
		return nil, err
	}
	defer t.done()
	c.own.entry(t.place(), inCreate)
	if err := unix.Symlinkat(m.Target, t.d.fd, m.Name); err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err := statAt(t.d.fd, m.Name, &st); err != nil {
		return nil, err
	}
	reply, _, err := c.made(t, m.ID, &st)
	return reply, err
}

func (c *call) link() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Link)
	f, err := c.find(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	// The source changes too: its count of names, and its being reachable at a
	// place with other rules.
	if err := c.allow(f.mode, false); err != nil {
		return nil, err
	}
	if f.n.stdio != nil {
		return nil, unix.EXDEV
	}
	t, err := c.newName(m.Dir, m.Name, false)
	if err != nil {
		return nil, err
	}
	defer t.done()
	c.own.entry(t.place(), inCreate|inAttr)
	c.own.names(f.n, inAttr)
	if err := c.s.kernel.link(f.fd, t.d.fd, m.Name); err != nil {
		return nil, err
	}
	c.s.nodes.addName(f.n, t.place())
	reply := &fsyscall.AttrReply{}
	if err := statFD(f.fd, &f.st); err != nil {
		return nil, err
	}
	f.fillAttr(&reply.Attr)
	c.leased = c.s.watch.covered(t.d)
	return reply, nil
}

// link gives the inode that fd is open on a further name. Without
// CAP_DAC_READ_SEARCH, AT_EMPTY_PATH is refused before Linux 6.10.
func (k kernel) link(fd, dir int, name string) error {
	err := unix.Linkat(fd, "", dir, name, unix.AT_EMPTY_PATH)
	if err == unix.ENOENT || err == unix.EINVAL || err == unix.EPERM {
		return unix.Linkat(unix.AT_FDCWD, procPath(fd), dir, name, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

// oldName finds a name to be removed or moved and what is there.
func (c *call) oldName(dir fsyscall.NodeID, name string, st *unix.Statx_t) (target, error) {
	t, err := c.at(dir, name)
	if err != nil {
		return t, err
	}
	mode, err := t.stat(st)
	if err == nil {
		err = c.allow(min(mode, t.d.mode()), false)
	}
	if err != nil {
		t.done()
	}
	return t, err
}

func (c *call) unlink() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Unlink)
	return nil, c.remove(m.Dir, m.Name, 0)
}

func (c *call) rmdir() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Rmdir)
	return nil, c.remove(m.Dir, m.Name, unix.AT_REMOVEDIR)
}

func (c *call) remove(dir fsyscall.NodeID, name string, flags int) error {
	var st unix.Statx_t
	t, err := c.oldName(dir, name, &st)
	if err != nil {
		return err
	}
	defer t.done()
	c.own.entry(t.place(), inDelete|inAttr)
	c.own.inode(t.place(), inSelf|inAttr)
	if err := retry(func() error { return unix.Unlinkat(t.d.fd, name, flags) }); err != nil {
		return err
	}
	c.s.watch.moved(t.place())
	for _, n := range c.s.nodes.unlinked(t.place()) {
		c.s.dirs.drop(n)
	}
	c.leased = c.s.watch.covered(t.d)
	return nil
}

func (c *call) rename() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Rename)
	var st unix.Statx_t
	from, err := c.oldName(m.Dir, m.Name, &st)
	if err != nil {
		return nil, err
	}
	defer from.done()
	to, err := c.at(m.NewDir, m.NewName)
	if err != nil {
		return nil, err
	}
	defer to.done()
	if err := c.allowRename(from, to); err != nil {
		return nil, err
	}
	exchange := m.Flags&fsyscall.RenameExchange != 0
	for _, p := range []place{from.place(), to.place()} {
		c.own.entry(p, inMove|inAttr|inDelete)
		c.own.inode(p, inSelf|inAttr)
	}
	err = retry(func() error {
		return unix.Renameat2(from.d.fd, m.Name, to.d.fd, m.NewName, uint(m.Flags))
	})
	if err != nil {
		return nil, err
	}
	if st.Nlink > 1 && !isDir(&st) && !exchange && sameInode(from, &st) {
		return nil, nil // two names of one inode: rename(2) leaves both
	}
	if isDir(&st) || exchange {
		c.s.dirs.epoch.Add(1) // what is kept lies elsewhere now
	}
	c.s.watch.moved(from.place(), to.place())
	c.s.nodes.renamed(from.place(), to.place(), exchange)
	c.leased = c.s.watch.covered(from.d) && c.s.watch.covered(to.d)
	return nil, nil
}

// sameInode tells whether the inode st is still at t.
func sameInode(t target, st *unix.Statx_t) bool {
	var now unix.Statx_t
	return statAt(t.d.fd, t.name, &now) == nil && now.Ino == st.Ino && statDev(&now) == statDev(st)
}

// allowRename applies the policy to both ends of a rename. What leads to a
// protected path does not move, nothing is put in its place, and nothing that
// is protected is replaced.
func (c *call) allowRename(from, to target) error {
	if err := c.allow(min(to.mode(), to.d.mode()), true); err != nil {
		return err
	}
	if from.pos.anchor() || to.pos.anchor() {
		return unix.EPERM
	}
	var st unix.Statx_t
	if err := statAt(to.d.fd, to.name, &st); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return err
	}
	return c.allow(to.modeOf(&st), true)
}
