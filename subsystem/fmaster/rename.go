package fmaster

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Rename implements fuse.RawFileSystem.
func (s *Server) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	defer s.request(in.NodeId)()
	if in.Flags > uint32(fsyscall.RenameExchange) {
		return fuse.EINVAL // whiteouts and combinations that the kernel refuses anyway
	}
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	from, to := s.nodes[fsyscall.NodeID(in.NodeId)], s.nodes[fsyscall.NodeID(in.Newdir)]
	errno := refuse(from, oldName)
	if errno == 0 {
		errno = refuse(to, newName)
	}
	for _, d := range []*node{from, to} {
		if errno == 0 {
			errno = s.attach(d, ordered)
		}
	}
	if errno != 0 {
		s.calls.unreserve(0)
		return fuse.Status(errno)
	}
	r := rename{from, to, oldName, newName, fsyscall.RenameFlags(in.Flags)}
	if r.flags == 0 {
		s.keptOpen(to, newName)
	}
	if s.renameCertain(r) {
		return fuse.Status(s.renameBehind(r))
	}
	s.calls.unreserve(0)
	return fuse.Status(s.renameNow(r))
}

type rename struct {
	from, to         *node
	oldName, newName string
	flags            fsyscall.RenameFlags
}

func (r rename) message() *fsyscall.Rename {
	return &fsyscall.Rename{Dir: r.from.wire, Name: r.oldName, NewDir: r.to.wire, NewName: r.newName, Flags: r.flags}
}

// renameCertain tells whether a rename can be made without waiting: both ends
// known, a file or a directory that replaces nothing, and one file system.
func (s *Server) renameCertain(r rename) bool {
	if !s.behind(r.from, r.oldName) || !s.behind(r.to, r.newName) || r.flags == fsyscall.RenameExchange || r.same() {
		return false
	}
	n, old := r.from.dir.children[r.oldName], r.to.dir.children[r.newName]
	if n == nil || n.mounts != nil || r.from.attr.Dev != r.to.attr.Dev || r.from.attr.Dev == 0 {
		return false
	}
	if n.isDir() && r.from != r.to && (n.attr.Access&accessW == 0 || s.isAbove(n, r.to)) {
		return false // ".." has to be changed in it; or it would be moved into itself
	}
	return old == nil || !old.isDir() && !n.isDir()
}

// same tells whether both names are of one file, in which case rename(2) succeeds
// and does nothing. The kernel sees to it where it knows, which is not for the
// hard links of a symbolic link.
func (r rename) same() bool {
	n, old := r.from.entries().children[r.oldName], r.to.entries().children[r.newName]
	return n != nil && old != nil && (n == old || n.key == old.key && n.key != inodeKey{})
}

func (s *Server) isAbove(n, below *node) bool {
	for ; below != nil; below = below.parent {
		if below == n {
			return true
		}
	}
	return false
}

func (s *Server) renameBehind(r rename) syscall.Errno {
	if r.flags == fsyscall.RenameNoReplace && r.to.dir.children[r.newName] != nil {
		s.calls.unreserve(0)
		return syscall.EEXIST
	}
	n := r.from.dir.children[r.oldName]
	s.begin(r.from, r.to, n)
	s.renamed(r)
	p := n.path()
	s.calls.post(0, fsyscall.OpRename, r.message(), &fsyscall.Empty{}, func(h fsyscall.Header) {
		s.mu.Lock()
		if h.Errno != 0 {
			s.fail(n, p, syscall.Errno(h.Errno))
			s.distrust(r.from)
			s.distrust(r.to)
		}
		for _, x := range []*node{n, r.from, r.to} {
			s.settle(x, 0)
		}
		s.mu.Unlock()
	})
	return 0
}

func (s *Server) renameNow(r rename) syscall.Errno {
	res := s.changeNow(func() result {
		return s.calls.call(ordered, fsyscall.OpRename, r.message(), &fsyscall.Empty{})
	}, r.from, r.to)
	if res.ok() && !r.same() {
		s.renamed(r)
	} else if res.errno == syscall.ENOENT {
		s.vanished(r.from, r.oldName)
	}
	s.changedNow(r.from)
	s.changedNow(r.to)
	return res.errno
}

// renamed moves the entries in the tree. The kernel does the same with its own.
func (s *Server) renamed(r rename) {
	n, old := r.from.entries().children[r.oldName], r.to.entries().children[r.newName]
	if n == nil {
		// Nothing known moved; what stood at the target is another now.
		s.displace(r.to, r.newName)
		s.entered(r.from)
		s.entered(r.to)
		return
	}
	n.pending++ // keeps it while it has no name
	if r.flags == fsyscall.RenameExchange && old != nil {
		old.pending++
		s.displace(r.from, r.oldName)
		s.displace(r.to, r.newName)
		s.place(r.from, r.oldName, old)
		old.pending--
		s.touch(old, false)
		s.endShared(old)
	} else {
		s.displace(r.from, r.oldName)
		if old != nil {
			s.removed(r.to, r.newName, old, old.isDir())
		}
		if n.isDir() && r.from != r.to {
			r.from.attr.Nlink -= min(r.from.attr.Nlink, 1)
			r.to.attr.Nlink++
		}
	}
	s.place(r.to, r.newName, n)
	n.pending--
	s.touch(n, false)
	s.endShared(n)
	if d := r.from.dir; d != nil && d.absent != nil {
		d.absent[r.oldName] = struct{}{}
	}
	s.entered(r.from)
	s.entered(r.to)
	n.gen++
}
