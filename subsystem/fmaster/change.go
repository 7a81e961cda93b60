package fmaster

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Changes come in two ways. Behind: when a lease says that the session's own
// knowledge of the directory is whole, the change is made in the tree, sent,
// and the program goes on; the client's answer is looked at when it comes. Or
// now: the client is asked and the answer waited for. Now is the way whenever
// the outcome is not certain, and always with --sync.

// behind tells whether a change of the entry name in dir can be made without
// waiting. s.mu is held.
func (s *Server) behind(dir *node, name string) bool {
	if s.cfg.Hello.Sync || s.cfg.Hello.NoCache || dir.synthetic || dir.mounts.child(name) != nil || dir.gone || dir.err != 0 {
		return false
	}
	d := dir.dir
	if d == nil || !d.leased || !d.until.IsZero() || !dir.known || !(dir.until.IsZero() || dir.pending > 0) {
		return false
	}
	if _, ruled := d.ruled[name]; dir.attr.Flags&fsyscall.AttrRuled != 0 && (d.ruled == nil || ruled) {
		return false
	}
	if dir.attr.Flags&fsyscall.AttrReadOnly != 0 || dir.attr.Access&(accessW|accessX) != accessW|accessX {
		return false
	}
	c := d.children[name]
	if c == nil {
		_, absent := d.absent[name]
		return d.whole || absent
	}
	if c.synthetic || c.err != 0 || !(c.until.IsZero() || c.pending > 0) {
		return false
	}
	const sticky = 0o1000
	me := s.cfg.Hello.UID
	if dir.attr.Mode&sticky != 0 && me != 0 && c.attr.UID != me && dir.attr.UID != me {
		return false
	}
	return true
}

// certainSelf is behind for a change of n itself that its owner may make.
func (s *Server) certainSelf(n *node) bool {
	me := s.cfg.Hello.UID
	return !s.cfg.Hello.Sync && s.certain(n) && n.err == 0 && !n.synthetic &&
		n.attr.Flags&fsyscall.AttrReadOnly == 0 && (me == 0 || n.attr.UID == me)
}

// refuse returns the error for a change in dir that needs no question.
func refuse(dir *node, name string) syscall.Errno {
	switch {
	case dir == nil:
		return syscall.ESTALE
	case len(name) > fsyscall.MaxName:
		return syscall.ENAMETOOLONG
	case !fsyscall.ValidName(name):
		return syscall.EINVAL
	case dir.mounts.child(name) != nil:
		return syscall.EBUSY
	case dir.synthetic || dir.attr.Flags&fsyscall.AttrReadOnly != 0:
		return syscall.EROFS
	}
	return 0
}

// begin counts a change that concerns the nodes; settle takes it back when the
// client has answered. Errors become the nodes' and are reported by Sync
// unless a program is told before.
func (s *Server) begin(nodes ...*node) {
	s.changes++
	for _, n := range nodes {
		n.changed = s.changes
		n.pending++
		n.gen++
	}
}

func (s *Server) settle(n *node, errno syscall.Errno) {
	n.pending--
	s.changes++
	n.changed = s.changes
	if errno != 0 {
		s.fail(n, n.path(), errno)
	}
	if n.pending == 0 && n.revoked {
		s.revokeLate(n)
	}
	s.drop(n)
}

// fail records that a change of n, which has or had the path p, did not
// happen.
func (s *Server) fail(n *node, p string, errno syscall.Errno) {
	if n.err != 0 {
		return // what follows from the first failure is not worth a line
	}
	n.err = errno
	s.lostN++
	if len(s.lost) < fsyscall.MaxLost {
		s.lost = append(s.lost, fsyscall.LostWrite{Path: p, Errno: fsyscall.Errno(errno)})
	}
	s.distrust(n)
	if n.parent != nil {
		s.distrust(n.parent)
	}
}

// distrust makes the tree ask again about n and its entries.
func (s *Server) distrust(n *node) {
	n.gen++
	n.until = time.Now()
	if n.dir != nil {
		n.dir.whole, n.dir.absent = false, nil
		for name, c := range n.dir.children {
			if !c.synthetic && c.pending == 0 {
				c.until = time.Now()
				n.dir.revoke(name)
				s.notify.entry(n, name)
			}
		}
	}
	s.dataChanged(n)
}

// endShared ends the lease of a file with several names of which the session
// moves one: the client watched the file by way of that name.
func (s *Server) endShared(n *node) {
	if !n.isDir() && n.attr.Nlink > 1 && n.until.IsZero() {
		n.until = time.Now().Add(s.unleased())
	}
}

// entered notes that dir's entries changed.
func (s *Server) entered(dir *node) {
	dir.gen++
	s.touch(dir, true)
}

// changeNow makes a change that names the nodes and waits for it; it repeats it
// once if that may help. s.mu is held, and let go of during the call.
func (s *Server) changeNow(call func() result, nodes ...*node) result {
	for try := 0; ; try++ {
		for _, n := range nodes {
			if errno := s.attach(n, ordered); errno != 0 {
				return result{errno: errno}
			}
		}
		s.begin(nodes...)
		s.mu.Unlock()
		res := call()
		s.mu.Lock()
		again := false
		for _, n := range nodes {
			s.settle(n, 0)
			again = s.mended(n, res.errno, try) || again
		}
		if !again {
			return res
		}
	}
}

// changedNow makes the attributes of dir be asked for again after a change
// whose answer did not bring them.
func (s *Server) changedNow(dir *node) {
	if s.cfg.Hello.Sync || s.cfg.Hello.NoCache || dir.dir == nil || !dir.dir.leased || !dir.until.IsZero() {
		dir.gen++
		if dir.pending == 0 {
			dir.until = time.Now()
		}
		return
	}
	s.entered(dir)
}

// Unlink implements fuse.RawFileSystem.
func (s *Server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, false)
}

// Rmdir implements fuse.RawFileSystem.
func (s *Server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, true)
}

func (s *Server) remove(dirID uint64, name string, isDir bool) fuse.Status {
	defer s.request(dirID)()
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[fsyscall.NodeID(dirID)]
	errno := refuse(dir, name)
	if errno == 0 {
		errno = s.attach(dir, ordered)
	}
	if errno != 0 {
		s.calls.unreserve(0)
		return fuse.Status(errno)
	}
	n := s.keptOpen(dir, name)
	op := fsyscall.OpUnlink
	msg := func() fsyscall.Message { return &fsyscall.Unlink{Dir: dir.wire, Name: name} }
	if isDir {
		op = fsyscall.OpRmdir
		msg = func() fsyscall.Message { return &fsyscall.Rmdir{Dir: dir.wire, Name: name} }
	}
	if s.behind(dir, name) && n != nil && (!isDir || n.dir != nil && n.dir.whole && n.dir.leased && n.dir.until.IsZero()) {
		if isDir && len(n.dir.children) > 0 {
			s.calls.unreserve(0)
			return fuse.Status(syscall.ENOTEMPTY)
		}
		s.begin(dir)
		p := n.path()
		if !isDir && len(n.open) == 0 && n.attr.Nlink <= 1 {
			s.calls.dropData(n)
		}
		s.removed(dir, name, n, isDir)
		s.calls.post(0, op, msg(), &fsyscall.Empty{}, func(h fsyscall.Header) {
			s.mu.Lock()
			if h.Errno != 0 {
				s.fail(dir, p, syscall.Errno(h.Errno))
				dir.err = 0 // the directory itself is whole
			}
			s.settle(dir, 0)
			s.mu.Unlock()
		})
		return fuse.OK
	}
	s.calls.unreserve(0)
	res := s.changeNow(func() result { return s.calls.call(ordered, op, msg(), &fsyscall.Empty{}) }, dir)
	s.changedNow(dir)
	if res.ok() && n != nil && dir.entries().children[name] == n {
		s.removed(dir, name, n, isDir)
		s.changedNow(dir)
	}
	if res.errno == syscall.ENOENT {
		s.vanished(dir, name)
	}
	return fuse.Status(res.errno)
}

// keptOpen returns the entry name of dir once the client has been asked to open
// what programs have open by it: they go on using it when a change that is sent
// from now on takes the name away. s.mu is held and may be let go of.
func (s *Server) keptOpen(dir *node, name string) *node {
	for range maxRetries {
		if n := dir.entries().children[name]; n == nil || !s.openInOrder(n) {
			return n
		}
	}
	return dir.entries().children[name]
}

// openInOrder sees to it that no open of n is overtaken by a change. It tells
// whether it let go of s.mu.
func (s *Server) openInOrder(n *node) (waited bool) {
	for i := 0; i < len(n.open); i++ {
		f := n.open[i]
		f.inOrder = true
		if s.ensureRemote(f) == 0 && f.opened != ordered && !f.isAnswered() {
			s.awaitOpen(f)
			waited = true
		}
	}
	return waited
}

// removed takes an entry out of the tree after, or together with, its removal.
func (s *Server) removed(dir *node, name string, n *node, isDir bool) {
	s.entered(dir)
	n.gen++
	if isDir {
		dir.attr.Nlink -= min(dir.attr.Nlink, 1)
		n.attr.Nlink = 0
	} else {
		n.attr.Nlink -= min(n.attr.Nlink, 1)
		s.touch(n, false)
	}
	if n.attr.Nlink == 0 {
		n.gone = true
		if s.byInode[n.key] == n {
			delete(s.byInode, n.key)
		}
	} else if n.attr.Nlink > 0 {
		n.until = time.Now() // its other names may be known to nobody here
	}
	s.displace(dir, name)
}
