package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// target is a name in an open directory, there or not.
type target struct {
	s    *Server
	d    *dir
	name string
	pos  position
}

func (t target) done() { t.s.dirs.put(t.d) }

// mode is what the policy says of the name, before it is known what is there.
func (t target) mode() Mode { return min(t.pos.effective(), t.d.limit) }

func (t target) place() place { return place{t.d.n, t.name} }

// at finds the directory of a name. The caller calls done on the result.
func (c *call) at(id fsyscall.NodeID, name string) (target, error) {
	d, err := c.dir(id)
	if err != nil {
		return target{}, err
	}
	return target{c.s, d, name, d.pos.child(name)}, nil
}

// dir opens the directory that id names. The caller gives it back.
func (c *call) dir(id fsyscall.NodeID) (*dir, error) {
	n, err := c.getNode(id)
	if err != nil {
		return nil, err
	}
	d, err := c.s.openDir(n)
	if err != nil {
		return nil, stale(err)
	}
	return d, nil
}

// stale says of a NodeID that leads nowhere that it does: that the place it
// stands for is gone is for the server to find out by name.
func stale(err error) error {
	if err == unix.ENOENT {
		return unix.ESTALE
	}
	return err
}

// modeOf is what the policy says of the inode found at t.
func (t target) modeOf(st *unix.Statx_t) Mode {
	mode := min(t.pos.effective(), t.s.limitAt(t.d, t.pos, st))
	if mode == ModeBare && !isDir(st) && st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return ModeHide
	}
	return mode
}

// stat looks at what is at t. What the policy hides is not there.
func (t target) stat(st *unix.Statx_t) (Mode, error) {
	if t.mode() == ModeHide {
		return ModeHide, unix.ENOENT
	}
	if err := statAt(t.d.fd, t.name, st); err != nil {
		return ModeHide, err
	}
	mode := t.modeOf(st)
	if mode == ModeHide {
		return ModeHide, unix.ENOENT
	}
	return mode, nil
}

// found is an inode that a NodeID names.
type found struct {
	s    *Server
	n    *node
	d    *dir   // of its name; nil where it has none
	name string // in d
	fd   int    // O_PATH or open; -1 where it was only looked at
	own  bool   // fd is ours to close
	st   unix.Statx_t
	mode Mode
	seen bool // though st has several names, a change would be noticed
}

func (f *found) done() {
	if f.own {
		unix.Close(f.fd)
	}
	if f.d != nil {
		f.s.dirs.put(f.d)
	}
}

// fillAttr is Server.fillAttr for what was found.
func (f *found) fillAttr(a *fsyscall.Attr) {
	dir, name := f.fd, ""
	if dir < 0 {
		dir, name = f.d.fd, f.name
	}
	f.s.fillAttr(a, &f.st, f.mode, dir, name)
	if f.seen {
		a.Flags &^= fsyscall.AttrUnwatched
	}
	switch {
	case f.n == f.s.nodes.root:
		f.s.root.pos.qualify(a)
	case f.d != nil:
		f.d.pos.child(f.name).qualify(a)
	}
}

func (f *found) kind() uint16 { return f.st.Mode & unix.S_IFMT }

// find finds the inode that id names and its attributes; with open it also has
// a descriptor of it. The caller calls done on the result.
func (c *call) find(id fsyscall.NodeID, open bool) (*found, error) {
	n, err := c.getNode(id)
	if err != nil {
		return nil, err
	}
	return c.s.look(n, open)
}

func (s *Server) look(n *node, open bool) (*found, error) {
	if n == s.nodes.root {
		f := &found{s: s, n: n, d: s.root, fd: s.root.fd, mode: s.root.mode()}
		return f, statFD(f.fd, &f.st)
	}
	at, _ := s.nodes.where(n)
	if at.parent == nil {
		return s.lookNameless(n)
	}
	d, err := s.openDir(at.parent)
	if err != nil {
		return nil, stale(err)
	}
	f := &found{s: s, n: n, d: d, fd: -1}
	err = f.lookAt(target{s, d, at.name, d.pos.child(at.name)}, open)
	if err != nil {
		f.done()
		if err == unix.ENOENT || err == unix.ESTALE {
			if g, e := s.lookNameless(n); e == nil {
				return g, nil
			}
		}
		return nil, stale(err)
	}
	return f, nil
}

func (f *found) lookAt(t target, open bool) error {
	f.name = t.name
	if t.mode() == ModeHide {
		return unix.ENOENT
	}
	if open {
		fd, err := f.s.kernel.openPath(t.d.fd, t.name)
		if err != nil {
			return err
		}
		f.fd, f.own = fd, true
		if err := statFD(fd, &f.st); err != nil {
			return err
		}
	} else if err := statAt(t.d.fd, t.name, &f.st); err != nil {
		return err
	}
	if f.mode = t.modeOf(&f.st); f.mode == ModeHide {
		return unix.ENOENT
	}
	return f.s.nodes.found(f.n, statDev(&f.st), f.st.Ino)
}

// lookNameless finds an inode that no name leads to: a standard stream, or one
// that was unlinked while it is open.
func (s *Server) lookNameless(n *node) (*found, error) {
	fd, mode, err := s.dupNameless(n)
	if err != nil {
		return nil, err
	}
	f := &found{s: s, n: n, fd: fd, own: true, mode: mode}
	if err := statFD(fd, &f.st); err != nil {
		f.done()
		return nil, err
	}
	return f, nil
}

func (s *Server) dupNameless(n *node) (int, Mode, error) {
	if n.stdio != nil {
		s.nodes.mu.RLock() // against its being forgotten, and closed, meanwhile
		defer s.nodes.mu.RUnlock()
		if n.stdio.closed {
			return -1, ModeHide, unix.ESTALE
		}
		fd, err := unix.FcntlInt(uintptr(n.stdio.fd), unix.F_DUPFD_CLOEXEC, 0)
		return fd, n.stdio.mode(), err
	}
	file := s.files.anyOf(n)
	if file == nil {
		return -1, ModeHide, unix.ESTALE
	}
	defer file.put()
	fd, err := unix.FcntlInt(uintptr(file.fd), unix.F_DUPFD_CLOEXEC, 0)
	return fd, file.mode, err
}

// lookFile is find for a call that may name an open file instead of a node.
func (c *call) lookFile(id fsyscall.NodeID, file fsyscall.FileID, open bool) (*found, *file, error) {
	if file == 0 {
		f, err := c.find(id, open)
		return f, nil, err
	}
	o, err := c.getFile(file)
	if err != nil {
		return nil, nil, err
	}
	f := &found{s: c.s, n: o.n, fd: o.fd, mode: o.mode}
	if err := statFD(f.fd, &f.st); err != nil {
		o.put()
		return nil, nil, err
	}
	return f, o, nil
}
