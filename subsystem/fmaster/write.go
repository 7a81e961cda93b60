package fmaster

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Write implements fuse.RawFileSystem for writes that arrive in one piece.
func (s *Server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return s.write(in, data)
}

// Writev implements fuse.RawFileSystem for writes that arrive in pieces.
func (s *Server) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		return s.write(in, data[0])
	}
	var all []byte
	for _, d := range data {
		all = append(all, d...)
	}
	return s.write(in, all)
}

const writeCache = 1 // FUSE_WRITE_CACHE: the kernel writes a mapped page back

func (s *Server) write(in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	defer s.request(in.NodeId)()
	if err := s.calls.reserve(len(data)); err != nil {
		return 0, fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fsyscall.FileID(in.Fh)]
	var errno syscall.Errno
	switch {
	case f == nil:
		errno = syscall.EBADF
	case f.node.err != 0:
		errno = f.node.err
	default:
		if errno = s.ensureRemote(f); errno == 0 {
			s.orderedFile(f)
		}
	}
	if errno != 0 {
		s.calls.unreserve(len(data))
		return 0, fuse.Status(errno)
	}
	n := f.node
	req := &fsyscall.Write{
		File: f.id, Off: in.Offset, Data: data,
		Append: in.Flags&syscall.O_APPEND != 0 && in.WriteFlags&writeCache == 0,
	}
	if s.writeBehind(n) {
		s.wrote(n, in.Offset, data)
		s.begin(n)
		reply := &fsyscall.WriteReply{}
		s.calls.postData(n, len(data), fsyscall.OpWrite, req, reply, func(h fsyscall.Header) {
			s.mu.Lock()
			s.settle(n, syscall.Errno(h.Errno))
			if h.Errno == 0 && reply.Count > 0 {
				s.trueBlocks(n, &reply.Attr)
			}
			s.mu.Unlock()
		})
		return uint32(len(data)), fuse.OK
	}
	s.calls.unreserve(len(data))
	s.begin(n)
	var reply fsyscall.WriteReply
	s.mu.Unlock()
	res := s.calls.call(ordered, fsyscall.OpWrite, req, &reply)
	s.mu.Lock()
	s.settle(n, 0)
	if !res.ok() {
		return 0, fuse.Status(res.errno)
	}
	s.content.remove(n)
	s.resetAhead(n)
	s.setAttr(n, &reply.Attr, res.leased)
	s.notify.inode(n, false)
	return uint32(reply.Count), fuse.OK
}

// writeBehind tells whether writes to n need not be waited for: its size is
// known under a lease, or it is the session's own making.
func (s *Server) writeBehind(n *node) bool {
	return !s.cfg.Hello.Sync && !s.cfg.Hello.NoCache && n.known && (n.until.IsZero() || n.pending > 0 || n.attr.Ino&provisionalBit != 0)
}

// wrote applies a write to what is known of n.
func (s *Server) wrote(n *node, off uint64, data []byte) {
	s.content.write(n, off, data)
	n.paged = true
	s.resetAhead(n)
	const page = 4096 // what file systems allocate, nearly all
	end := off + uint64(len(data))
	if whole := (n.attr.Size + 511) / 512; n.attr.Blocks < whole && off < n.attr.Size {
		// Into a hole, perhaps: trueBlocks will know.
		n.attr.Blocks = min(whole, n.attr.Blocks+((end+page-1)/page-off/page)*(page/512))
	}
	if end > n.attr.Size {
		from := max(off, (n.attr.Size+page-1)/page*page) / page * page
		if end > from {
			n.attr.Blocks += (end - from + page - 1) / page * (page / 512)
		}
		n.attr.Size = end
	}
	if s.cfg.Hello.UID != 0 {
		killPrivileges(&n.attr)
	}
	s.touch(n, true)
	n.dirtyTimes = true
}

// trueBlocks takes over what only the client's file system knows, once all
// changes of n are answered.
func (s *Server) trueBlocks(n *node, a *fsyscall.Attr) {
	if n.pending == 0 && n.attr.Blocks != a.Blocks {
		n.attr.Blocks = a.Blocks
		s.notify.inode(n, false)
	}
}

// SetAttr implements fuse.RawFileSystem.
func (s *Server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer s.request(in.NodeId)()
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n != nil && in.Valid&fuse.FATTR_SIZE != 0 {
		s.awaitPages(n)
	}
	errno := s.setAttrOf(n, in)
	if errno != 0 {
		return fuse.Status(errno)
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		n.xattrs = nil // an access control list has changed with it
	}
	s.fillAttr(n, &out.Attr)
	out.AttrValid, out.AttrValidNsec = s.validity(n)
	return fuse.OK
}

// setAttrOf uses up or gives back the place reserved by its caller.
func (s *Server) setAttrOf(n *node, in *fuse.SetAttrIn) syscall.Errno {
	reserved := true
	defer func() {
		if reserved {
			s.calls.unreserve(0)
		}
	}()
	switch {
	case n == nil:
		return syscall.ESTALE
	case n.synthetic, n.attr.Flags&fsyscall.AttrReadOnly != 0 && n.stdio == nil:
		return syscall.EROFS
	case n.err != 0:
		return n.err
	}
	req := s.setRequest(n, in)
	via := ordered
	if in.Valid&fuse.FATTR_FH != 0 {
		if f := s.files[fsyscall.FileID(in.Fh)]; f != nil && f.node == n {
			if errno := s.ensureRemote(f); errno != 0 {
				return errno
			}
			s.orderedFile(f)
			req.File = f.id
		}
	}
	if req.File == 0 && n.parent == nil && len(n.open) > 0 {
		if errno := s.ensureRemote(n.open[0]); errno != 0 {
			return errno
		}
		s.orderedFile(n.open[0])
		if len(n.open) == 0 {
			return syscall.ESTALE
		}
		req.File = n.open[0].id
	}
	if req.File == 0 {
		if errno := s.attach(n, via); errno != 0 {
			return errno
		}
	}
	if s.setCertain(n, req) {
		reserved = false
		could := n.attr.Access
		s.applySet(n, req)
		if n.isDir() && n.attr.Access != could {
			s.forgetNames(n)
		}
		s.begin(n)
		reply := &fsyscall.AttrReply{}
		s.calls.post(0, fsyscall.OpSetAttr, req, reply, func(h fsyscall.Header) {
			s.mu.Lock()
			s.settle(n, syscall.Errno(h.Errno))
			if h.Errno == 0 {
				s.trueBlocks(n, &reply.Attr)
			}
			s.mu.Unlock()
		})
		return 0
	}
	return s.setNow(n, req)
}

func (s *Server) setNow(n *node, req *fsyscall.SetAttr) syscall.Errno {
	var reply fsyscall.AttrReply
	set := func() result {
		req.ID = n.wire
		return s.calls.call(ordered, fsyscall.OpSetAttr, req, &reply)
	}
	var res result
	if req.File == 0 {
		res = s.changeNow(set, n)
	} else {
		s.begin(n)
		s.mu.Unlock()
		res = set()
		s.mu.Lock()
		s.settle(n, 0)
	}
	if !res.ok() {
		if res.errno == syscall.ESTALE && n.parent != nil {
			s.stale(n)
		}
		return res.errno
	}
	if req.Mask&fsyscall.SetSize != 0 {
		s.content.remove(n)
		s.resetAhead(n)
	}
	if req.Mask&(fsyscall.SetMtime|fsyscall.SetMtimeNow) != 0 {
		n.dirtyTimes = false
	}
	s.setAttr(n, &reply.Attr, res.leased)
	if n.isDir() {
		s.forgetNames(n)
	}
	return 0
}

// forgetNames makes the kernel look every name in n up again: whether the
// user may is another matter after a change of n's mode.
func (s *Server) forgetNames(n *node) {
	if n.dir == nil || n.mounts != nil {
		return
	}
	for name, c := range n.dir.children {
		if c.refs > 0 && !c.synthetic && c.mounts == nil {
			s.notify.again(n, name, c)
		}
	}
}

func (s *Server) setRequest(n *node, in *fuse.SetAttrIn) *fsyscall.SetAttr {
	req := &fsyscall.SetAttr{ID: n.wire}
	if mode, ok := in.GetMode(); ok {
		req.Mask |= fsyscall.SetMode
		req.Mode = mode & 0o7777
	}
	if uid, ok := in.GetUID(); ok {
		req.Mask |= fsyscall.SetUID
		req.UID = s.ids.inUID(uid)
	}
	if gid, ok := in.GetGID(); ok {
		req.Mask |= fsyscall.SetGID
		req.GID = s.ids.inGID(gid)
	}
	if size, ok := in.GetSize(); ok {
		req.Mask |= fsyscall.SetSize
		req.Size = size
	}
	times := []struct {
		set, now   uint32
		mask, nmsk fsyscall.SetMask
		sec        uint64
		nsec       uint32
		to         *fsyscall.Time
	}{
		{fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, fsyscall.SetAtime, fsyscall.SetAtimeNow, in.Atime, in.Atimensec, &req.Atime},
		{fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, fsyscall.SetMtime, fsyscall.SetMtimeNow, in.Mtime, in.Mtimensec, &req.Mtime},
	}
	for _, t := range times {
		switch {
		case in.Valid&t.set == 0:
		case in.Valid&t.now != 0:
			req.Mask |= t.nmsk
		default:
			req.Mask |= t.mask
			*t.to = fsyscall.Time{Sec: int64(t.sec), Nsec: t.nsec}
		}
	}
	return req
}

// setCertain tells whether the client will agree to a change of attributes.
func (s *Server) setCertain(n *node, req *fsyscall.SetAttr) bool {
	if n.stdio != nil || n.isDir() && (n.mounts != nil || n.dir == nil || !n.dir.leased) {
		return false
	}
	if req.Mask == fsyscall.SetSize && req.File != 0 {
		return s.writeBehind(n) && req.Size <= n.attr.Size
	}
	if !s.certainSelf(n) {
		return false
	}
	root := s.cfg.Hello.UID == 0
	if req.Mask&fsyscall.SetUID != 0 && !root && req.UID != n.attr.UID {
		return false
	}
	if req.Mask&fsyscall.SetGID != 0 && !root && req.GID != n.attr.GID {
		return false
	}
	if req.Mask&fsyscall.SetSize != 0 && (n.attr.Access&accessW == 0 || req.Size > n.attr.Size) {
		return false
	}
	return req.Mask&fsyscall.SetMode == 0 || n.attr.Mode&modeType != modeLink
}

// applySet applies a change of attributes to what is known of n.
func (s *Server) applySet(n *node, req *fsyscall.SetAttr) {
	a := &n.attr
	now := s.clock.now()
	if req.Mask&fsyscall.SetSize != 0 {
		s.content.truncate(n, req.Size)
		s.resetAhead(n)
		a.Size = req.Size
		a.Blocks = min(a.Blocks, (a.Size+511)/512)
		a.Mtime = now
		n.dirtyTimes = true
		if s.cfg.Hello.UID != 0 {
			killPrivileges(a)
		}
	}
	if req.Mask&(fsyscall.SetUID|fsyscall.SetGID) != 0 {
		if req.Mask&fsyscall.SetUID != 0 {
			a.UID = req.UID
		}
		if req.Mask&fsyscall.SetGID != 0 {
			a.GID = req.GID
		}
		killPrivileges(a)
	}
	if req.Mask&fsyscall.SetMode != 0 {
		s.takeMode(n, a.Mode&modeType|req.Mode)
	}
	switch {
	case req.Mask&fsyscall.SetAtimeNow != 0:
		a.Atime, req.Atime = now, now
		req.Mask = req.Mask&^fsyscall.SetAtimeNow | fsyscall.SetAtime
	case req.Mask&fsyscall.SetAtime != 0:
		a.Atime = req.Atime
	}
	switch {
	case req.Mask&fsyscall.SetMtimeNow != 0:
		a.Mtime, req.Mtime = now, now
		req.Mask = req.Mask&^fsyscall.SetMtimeNow | fsyscall.SetMtime
		n.dirtyTimes = false
	case req.Mask&fsyscall.SetMtime != 0:
		a.Mtime = req.Mtime
		n.dirtyTimes = false
	}
	a.Ctime, n.asClient = now, false
}

// killPrivileges does to a what the client's kernel does to a file that is
// written, cut or given away: a program that has changed no longer runs as its
// owner or group.
func killPrivileges(a *fsyscall.Attr) {
	if a.Mode&modeType != syscall.S_IFREG {
		return
	}
	a.Mode &^= syscall.S_ISUID
	if a.Mode&0o010 != 0 {
		a.Mode &^= syscall.S_ISGID
	}
}

// Fallocate implements fuse.RawFileSystem.
func (s *Server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	s.mu.Lock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.mu.Unlock()
		return fuse.EBADF
	}
	n := f.node
	errno := s.ensureRemote(f)
	if errno != 0 {
		s.mu.Unlock()
		return fuse.Status(errno)
	}
	s.orderedFile(f)
	s.begin(n)
	s.mu.Unlock()
	res := s.calls.call(ordered, fsyscall.OpFallocate, &fsyscall.Fallocate{File: f.id, Mode: in.Mode, Off: in.Offset, Len: in.Length}, &fsyscall.Empty{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(n, 0)
	if res.ok() {
		s.changedFile(n)
	}
	return fuse.Status(res.errno)
}

// changedFile makes everything about a file be asked for again after a change
// whose answer did not bring it.
func (s *Server) changedFile(n *node) {
	n.gen++
	n.until = time.Now()
	n.dirtyTimes = false
	s.dataChanged(n)
}

// CopyFileRange implements fuse.RawFileSystem: the bytes never leave the client.
func (s *Server) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	src, dst := s.files[fsyscall.FileID(in.FhIn)], s.files[fsyscall.FileID(in.FhOut)]
	if src == nil || dst == nil {
		s.mu.Unlock()
		return 0, fuse.EBADF
	}
	errno := s.ensureRemote(src)
	if errno == 0 {
		errno = s.ensureRemote(dst)
	}
	if errno != 0 {
		s.mu.Unlock()
		return 0, fuse.Status(errno)
	}
	s.orderedFile(src)
	s.orderedFile(dst)
	n := dst.node
	s.begin(n)
	s.mu.Unlock()
	var reply fsyscall.WriteReply
	res := s.calls.call(ordered, fsyscall.OpCopyRange, &fsyscall.CopyRange{
		Src: src.id, SrcOff: in.OffIn, Dst: dst.id, DstOff: in.OffOut, Len: min(in.Len, maxCopy),
	}, &reply)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(n, 0)
	if !res.ok() {
		return 0, fuse.Status(res.errno)
	}
	s.dataChanged(n)
	s.setAttr(n, &reply.Attr, res.leased)
	return uint32(reply.Count), fuse.OK
}

// maxCopy bounds one copy on the client, so that others get their turn there.
const maxCopy = 64 << 20
