package fmaster

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func (s *Server) unleased() time.Duration {
	if s.cfg.Hello.NoCache {
		return 0
	}
	return unleased
}

// GetAttr implements fuse.RawFileSystem.
func (s *Server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	var f *file
	if in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		f = s.files[fsyscall.FileID(in.Fh())]
	}
	if errno := s.refresh(n, f); errno != 0 {
		return fuse.Status(errno)
	}
	s.fillAttr(n, &out.Attr)
	out.AttrValid, out.AttrValidNsec = s.validity(n)
	return fuse.OK
}

// refresh makes sure that n's attributes may be used. s.mu is held and let go
// of while the client is asked.
func (s *Server) refresh(n *node, f *file) syscall.Errno {
	now := time.Now()
	if n.fresh(now) && (!s.cfg.Hello.NoCache || n.synthetic) || n.pending > 0 && n.known && !s.cfg.Hello.Sync {
		s.stats.hits.Add(1)
		return 0
	}
	if d := n.dir; d != nil && d.listing != nil && !n.known {
		s.await(d.listing) // it brings the directory's own attributes
		if n.fresh(time.Now()) {
			return 0
		}
	}
	if n.stdio != nil && f == nil && len(n.open) > 0 {
		f = n.open[0]
	}
	if n.parent == nil && n != s.root && n.stdio == nil && (len(n.open) == 0 || n.hasLast()) {
		if n.known {
			return 0 // nothing can ask about it any more; it was last seen so
		}
		return syscall.ESTALE
	}
	s.lease(n)
	var reply fsyscall.AttrReply
	gen := n.gen
	res, errno := s.getAttr(n, f, &reply)
	for try := 0; errno == 0 && s.mended(n, res.errno, try); try++ {
		gen = n.gen
		res, errno = s.getAttr(n, f, &reply)
	}
	if errno != 0 {
		return errno
	}
	if res.errno == syscall.ESTALE || res.errno == syscall.ENOENT {
		if n.parent != nil {
			s.stale(n)
		}
		if n.hasLast() {
			return 0 // the name leads elsewhere, but who has it open may go on
		}
		return syscall.ESTALE
	}
	if !res.ok() {
		return res.errno
	}
	if n.pending > 0 && !s.cfg.Hello.Sync {
		return 0 // its own changes came in between and are newer
	}
	s.learn(n, &reply.Attr, res.leased && n.gen == gen)
	n.asClient = n.asClient && n.gen == gen
	if n == s.root && s.mainDev == 0 {
		s.mainDev = reply.Attr.Dev
	}
	return 0
}

// getAttr asks for n's attributes, through an open file where it has no name.
// s.mu is held and let go of meanwhile.
func (s *Server) getAttr(n *node, f *file, reply *fsyscall.AttrReply) (result, syscall.Errno) {
	req := &fsyscall.GetAttr{ID: n.wire}
	via := n.via()
	if f == nil && n.parent == nil && len(n.open) > 0 {
		f = n.open[0]
	}
	if f != nil && f.remote {
		req.File = f.id
		via = s.fileVia(f)
	} else if errno := s.attach(n, via); errno != 0 {
		return result{}, errno
	}
	req.ID = n.wire
	s.mu.Unlock()
	res := s.calls.call(via, fsyscall.OpGetAttr, req, reply)
	s.mu.Lock()
	return res, 0
}

// Access implements fuse.RawFileSystem.
func (s *Server) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	mask := uint8(in.Mask & 7)
	if errno := s.refresh(n, nil); errno != 0 {
		return fuse.Status(errno)
	}
	if mask&accessW != 0 && n.attr.Flags&fsyscall.AttrReadOnly != 0 {
		return fuse.Status(syscall.EROFS)
	}
	if n.attr.Access&mask == mask {
		return fuse.OK
	}
	if n.synthetic {
		return fuse.EACCES
	}
	return fuse.Status(s.mayAccess(n, mask))
}

// mayAccess asks the client's kernel. s.mu is held and let go of.
func (s *Server) mayAccess(n *node, mask uint8) syscall.Errno {
	return s.look(n, func(via path) result {
		return s.calls.call(via, fsyscall.OpAccess, &fsyscall.Access{ID: n.wire, Mask: mask}, &fsyscall.Empty{})
	}).errno
}

// look makes a call that names n, and repeats it once if that may help. s.mu is
// held, and let go of by the call.
func (s *Server) look(n *node, call func(via path) result) result {
	for try := 0; ; try++ {
		via := n.via()
		if errno := s.attach(n, via); errno != 0 {
			return result{errno: errno}
		}
		s.mu.Unlock()
		res := call(via)
		s.mu.Lock()
		if !s.mended(n, res.errno, try) {
			return res
		}
	}
}

// Readlink implements fuse.RawFileSystem.
func (s *Server) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	for range maxRetries {
		target, errno := s.readLink(n)
		if errno != syscall.ESTALE || n.parent == nil {
			return []byte(target), fuse.Status(errno)
		}
		// Another link may have been put in its place since it was looked up: the
		// walk under way may as well have come a moment later.
		dir, name := n.parent, n.name
		if n, errno = s.find(dir, name); errno != 0 || n.attr.Mode&modeType != modeLink {
			break
		}
	}
	return nil, fuse.Status(syscall.ESTALE)
}

// readLink returns the text of a symbolic link. s.mu is held and let go of.
func (s *Server) readLink(n *node) (string, syscall.Errno) {
	if n.hasLink && (n.fresh(time.Now()) || n.pending > 0) {
		return n.target, 0
	}
	gen := n.gen
	var reply fsyscall.ReadLinkReply
	res := s.look(n, func(via path) result {
		return s.calls.call(via, fsyscall.OpReadLink, &fsyscall.ReadLink{ID: n.wire}, &reply)
	})
	if res.errno == syscall.ESTALE && n.parent != nil {
		s.stale(n)
	}
	if !res.ok() {
		return "", res.errno
	}
	if n.gen == gen && res.leased {
		n.target, n.hasLink = reply.Target, true
	}
	return reply.Target, 0
}

// validity is how long the kernel may keep n's attributes.
func (s *Server) validity(n *node) (sec uint64, nsec uint32) { return s.keep(n, n.until) }

func (s *Server) keep(n *node, until time.Time) (sec uint64, nsec uint32) {
	switch {
	case n.synthetic:
		return forever, 0
	case s.cfg.Hello.NoCache:
		return 0, 0
	case until.IsZero():
		return forever, 0
	}
	left := max(0, time.Until(until))
	return uint64(left / time.Second), uint32(left % time.Second)
}

// absentValidity is how long the kernel may keep that a name in dir does not
// exist.
func (s *Server) absentValidity(dir *node) (sec uint64, nsec uint32) {
	switch d := dir.dir; {
	case dir.synthetic:
		return forever, 0
	case s.cfg.Hello.NoCache || d == nil:
		return 0, 0
	case d.until.IsZero():
		return forever, 0
	default:
		left := max(0, time.Until(d.until))
		return uint64(left / time.Second), uint32(left % time.Second)
	}
}

// fillEntry fills the answer to a look-up and counts it.
func (s *Server) fillEntry(n *node, out *fuse.EntryOut) {
	s.ref(n)
	n.recent |= fsyscall.UseName
	*out = fuse.EntryOut{NodeId: uint64(n.id), Generation: 1}
	s.fillAttr(n, &out.Attr)
	out.AttrValid, out.AttrValidNsec = s.validity(n)
	out.EntryValid, out.EntryValidNsec = s.keep(n, n.named)
}

func (s *Server) fillAbsent(dir *node, out *fuse.EntryOut) {
	*out = fuse.EntryOut{}
	out.EntryValid, out.EntryValidNsec = s.absentValidity(dir)
}

const blockSize = 4096

func (s *Server) fillAttr(n *node, out *fuse.Attr) {
	a := &n.attr
	uid, gid := s.ids.out(a)
	*out = fuse.Attr{
		Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: a.Atime.Nsec, Mtimensec: a.Mtime.Nsec, Ctimensec: a.Ctime.Nsec,
		Mode: a.Mode, Nlink: a.Nlink, Owner: fuse.Owner{Uid: uid, Gid: gid},
		Rdev: uint32(a.Rdev), Blksize: blockSize,
	}
}
