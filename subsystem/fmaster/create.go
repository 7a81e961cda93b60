package fmaster

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// newChild makes a node for something that the session creates.
func (s *Server) newChild(dir *node, name string, mode uint32) *node {
	n := s.newNode()
	t := s.clock.now()
	gid := s.cfg.Hello.GID
	if dir.attr.Mode&syscall.S_ISGID != 0 {
		gid = dir.attr.GID
		if mode&modeType == modeDir {
			mode |= syscall.S_ISGID
		}
	}
	n.attr = fsyscall.Attr{
		Ino: s.provisionalIno(), Dev: dir.attr.Dev, Mode: mode, Nlink: 1,
		UID: s.cfg.Hello.UID, GID: gid, Atime: t, Mtime: t, Ctime: t,
		Access: s.ownAccess(mode), Flags: fsyscall.AttrNoXattr,
	}
	n.known, n.ours = true, true
	if mode&modeType == modeDir {
		n.attr.Nlink = 2
		n.entries().whole, n.dir.leased = true, true
	}
	s.place(dir, name, n)
	s.told(n, ordered)
	s.untimed(n)
	return n
}

// ownAccess is the access that the client's user has to its own file.
func (s *Server) ownAccess(mode uint32) uint8 {
	if s.cfg.Hello.UID == 0 {
		if mode&modeType == modeDir || mode&0o111 != 0 {
			return 7
		}
		return accessR | accessW
	}
	return uint8(mode >> 6 & 7)
}

// create sends the creation of name in dir in the way that is possible. id and
// done make the message and the node for both ways.
type creation struct {
	dir  *node
	name string
	mode uint32
	op   fsyscall.Op
	msg  func(dir, id fsyscall.NodeID) fsyscall.Message
	// prepare completes the node that a creation behind made.
	prepare func(*node)
}

// make carries out a creation. s.mu is held and may be let go of; a place for
// one posted change was reserved, and it is used or given back.
func (s *Server) make(c creation) (*node, syscall.Errno) {
	if errno := refuse(c.dir, c.name); errno != 0 {
		s.calls.unreserve(0)
		return nil, errno
	}
	if s.behind(c.dir, c.name) {
		if c.dir.dir.children[c.name] != nil {
			s.calls.unreserve(0)
			return nil, syscall.EEXIST
		}
		if errno := s.attach(c.dir, ordered); errno != 0 {
			s.calls.unreserve(0)
			return nil, errno
		}
		n := s.newChild(c.dir, c.name, c.mode)
		if c.prepare != nil {
			c.prepare(n)
		}
		s.makeBehind(c, n)
		return n, 0
	}
	s.calls.unreserve(0)
	return s.makeNow(c)
}

func (s *Server) makeBehind(c creation, n *node) {
	dir := c.dir
	s.begin(dir, n)
	s.entered(dir)
	if n.isDir() {
		dir.attr.Nlink++
	}
	reply := &fsyscall.AttrReply{}
	s.calls.post(0, c.op, c.msg(dir.wire, n.wire), reply, func(h fsyscall.Header) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if h.Errno == 0 {
			s.identify(n, &reply.Attr)
			n.attr.Dev = reply.Attr.Dev
			if n.dir != nil && !h.Leased {
				n.dir.leased = false
				n.dir.until = time.Now()
			}
			if !h.Leased && n.until.IsZero() {
				n.until = time.Now().Add(unleased)
				s.bind(n, false)
			}
		}
		s.settle(n, syscall.Errno(h.Errno))
		s.settle(dir, 0)
	})
}

func (s *Server) makeNow(c creation) (*node, syscall.Errno) {
	dir := c.dir
	n := s.newNode()
	var reply fsyscall.AttrReply
	res := s.changeNow(func() result {
		return s.calls.call(ordered, c.op, c.msg(dir.wire, n.wire), &reply)
	}, dir)
	s.changedNow(dir)
	if !res.ok() {
		s.countNodes--
		if res.errno == syscall.ESTALE {
			s.stale(dir)
		}
		return nil, res.errno
	}
	s.told(n, ordered)
	s.setAttr(n, &reply.Attr, res.leased)
	s.place(dir, c.name, n)
	s.bind(n, res.leased)
	if c.prepare != nil {
		c.prepare(n)
	}
	return n, 0
}

// makeEntry is make for the kernel: the answer is an entry.
func (s *Server) makeEntry(c creation, dirID uint64, out *fuse.EntryOut) fuse.Status {
	defer s.request(dirID)()
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.dir = s.nodes[fsyscall.NodeID(dirID)]
	n, errno := s.make(c)
	if errno != 0 {
		return fuse.Status(errno)
	}
	s.fillEntry(n, out)
	return fuse.OK
}

// Mkdir implements fuse.RawFileSystem.
func (s *Server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	mode := in.Mode & 0o7777
	return s.makeEntry(creation{
		name: name, mode: modeDir | mode, op: fsyscall.OpMkdir,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Mkdir{Dir: dir, Name: name, ID: id, Mode: mode}
		},
	}, in.NodeId, out)
}

// Mknod implements fuse.RawFileSystem.
func (s *Server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch in.Mode & modeType {
	case 0, modeRegular, syscall.S_IFIFO, syscall.S_IFSOCK:
	default:
		return fuse.EPERM
	}
	mode := in.Mode & (modeType | 0o7777)
	if mode&modeType == 0 {
		mode |= modeRegular
	}
	return s.makeEntry(creation{
		name: name, mode: mode, op: fsyscall.OpMknod,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Mknod{Dir: dir, Name: name, ID: id, Mode: mode}
		},
	}, in.NodeId, out)
}

// Symlink implements fuse.RawFileSystem.
func (s *Server) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if len(target) >= fsyscall.MaxTarget {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	return s.makeEntry(creation{
		name: name, mode: modeLink | 0o777, op: fsyscall.OpSymlink,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Symlink{Dir: dir, Name: name, ID: id, Target: target}
		},
		prepare: func(n *node) {
			n.target, n.hasLink = target, true
			n.attr.Size = uint64(len(target))
		},
	}, in.NodeId, out)
}

// Create implements fuse.RawFileSystem.
func (s *Server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer s.request(in.NodeId)()
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[fsyscall.NodeID(in.NodeId)]
	mode := in.Mode & 0o7777
	f := &file{id: s.newFileID(), flags: wireFlags(in.Flags), remote: true, opened: ordered}
	n, errno := s.make(creation{
		dir: dir, name: name, mode: modeRegular | mode, op: fsyscall.OpCreate,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Create{Dir: dir, Name: name, ID: id, File: f.id, Flags: f.flags, Mode: mode}
		},
		prepare: func(n *node) {
			if !s.cfg.Hello.NoCache {
				s.content.put(n, []byte{})
			}
		},
	})
	if errno == syscall.EEXIST && in.Flags&syscall.O_EXCL == 0 {
		// Someone on the client was faster, or it was known but not to the
		// kernel: open it.
		n, errno = s.find(dir, name)
		if errno == 0 && !n.isRegular() {
			errno = syscall.ESTALE // the kernel looks again and sees what it is
			s.notify.entry(dir, name)
		}
		if errno == 0 {
			f.node, f.remote = n, false
			errno = s.openNow(f, wants(in.Flags))
		}
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	f.node = n
	s.files[f.id] = f
	n.open = append(n.open, f)
	if f.writable() {
		s.awaitPages(n)
	}
	s.fillEntry(n, &out.EntryOut)
	out.OpenOut = fuse.OpenOut{Fh: uint64(f.id), OpenFlags: s.openedFlags(f)}
	return fuse.OK
}

// Tmpfile implements fuse.RawFileSystem.
func (s *Server) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[fsyscall.NodeID(in.NodeId)]
	if errno := refuse(dir, "tmpfile"); errno != 0 {
		return fuse.Status(errno)
	}
	if errno := s.attach(dir, ordered); errno != 0 {
		return fuse.Status(errno)
	}
	n := s.newNode()
	f := &file{id: s.newFileID(), node: n, flags: wireFlags(in.Flags), remote: true, opened: ordered}
	var reply fsyscall.AttrReply
	s.mu.Unlock()
	res := s.calls.call(ordered, fsyscall.OpTmpFile, &fsyscall.TmpFile{Dir: dir.wire, ID: n.wire, File: f.id, Flags: f.flags, Mode: in.Mode & 0o7777}, &reply)
	s.mu.Lock()
	if !res.ok() {
		return fuse.Status(res.errno)
	}
	s.told(n, ordered)
	s.setAttr(n, &reply.Attr, false)
	s.files[f.id] = f
	n.open = append(n.open, f)
	s.fillEntry(n, &out.EntryOut)
	out.OpenOut = fuse.OpenOut{Fh: uint64(f.id), OpenFlags: s.openedFlags(f)}
	return fuse.OK
}

// Link implements fuse.RawFileSystem.
func (s *Server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n, dir := s.nodes[fsyscall.NodeID(in.Oldnodeid)], s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if errno := refuse(dir, name); errno != 0 {
		return fuse.Status(errno)
	}
	if n.synthetic {
		return fuse.Status(syscall.EXDEV)
	}
	var reply fsyscall.AttrReply
	res := s.changeNow(func() result {
		return s.calls.call(ordered, fsyscall.OpLink, &fsyscall.Link{ID: n.wire, Dir: dir.wire, Name: name}, &reply)
	}, dir, n)
	s.changedNow(dir)
	if !res.ok() {
		return fuse.Status(res.errno)
	}
	n.gone = false
	s.setAttr(n, &reply.Attr, res.leased)
	s.byInode[n.key] = n
	s.place(dir, name, n)
	s.bind(n, res.leased)
	s.fillEntry(n, out)
	return fuse.OK
}
