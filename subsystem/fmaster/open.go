package fmaster

import (
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// inlineMax is the size up to which a file's content comes with its open.
const inlineMax = 128 << 10

// file is an open regular file. Server.mu guards all but ahead.
type file struct {
	id    fsyscall.FileID
	node  *node
	flags fsyscall.OpenFlags
	// remote: the client was asked to open it. Otherwise its content is known
	// whole and kept until it is closed.
	remote bool
	// opened is the stream that the open went by, and answered is closed when
	// its reply has come. Until then what uses the file must go the same way.
	opened   path
	answered chan struct{}
	err      syscall.Errno // the open failed after it was reported done
	// posixOwners and flockOwners have held locks through this file.
	posixOwners map[uint64]struct{}
	flockOwners map[uint64]struct{}

	ahead readAhead
}

// fileVia returns the stream for a call that looks at f, and orderedFile makes
// sure that an ordered call may use it. They wait if the open went another way
// and is not answered. s.mu is held and may be let go of.
func (s *Server) fileVia(f *file) path {
	if via := f.node.via(); via == ordered && f.opened != ordered {
		s.awaitOpen(f)
	} else if f.isAnswered() {
		return via
	} else {
		return f.opened
	}
	return f.node.via()
}

func (s *Server) orderedFile(f *file) {
	if f.opened != ordered {
		s.awaitOpen(f)
	}
}

func (f *file) isAnswered() bool {
	if f.answered == nil {
		return true
	}
	select {
	case <-f.answered:
		return true
	default:
		return false
	}
}

func (s *Server) awaitOpen(f *file) {
	if f.isAnswered() {
		return
	}
	s.mu.Unlock()
	done := s.stats.wait(fsyscall.OpOpen)
	<-f.answered
	done()
	s.mu.Lock()
}

func (f *file) writable() bool { return f.flags&fsyscall.OpenAccMode != fsyscall.OpenReadOnly }

// lazilyOpen tells whether a program has n open without the client knowing.
func (n *node) lazilyOpen() bool {
	for _, f := range n.open {
		if !f.remote {
			return true
		}
	}
	return false
}

// wireFlags keeps of open(2)'s flags those that cross the wire.
func wireFlags(flags uint32) fsyscall.OpenFlags {
	keep := fsyscall.OpenAccMode | fsyscall.OpenDSync | fsyscall.OpenSync | fsyscall.OpenNoATime
	w := fsyscall.OpenFlags(flags) & keep
	if flags&syscall.O_DIRECT != 0 {
		w |= fsyscall.OpenDirect
	}
	if w&fsyscall.OpenAccMode == fsyscall.OpenAccMode {
		w = w&^fsyscall.OpenAccMode | fsyscall.OpenReadWrite
	}
	return w
}

const fmodeExec = 0x20 // Linux's __FMODE_EXEC, which reaches FUSE's open

// wants is the access that open flags ask for.
func wants(flags uint32) uint8 {
	if flags&fmodeExec != 0 {
		return accessX
	}
	switch flags & syscall.O_ACCMODE {
	case syscall.O_RDONLY:
		return accessR
	case syscall.O_WRONLY:
		return accessW
	}
	return accessR | accessW
}

// Open implements fuse.RawFileSystem.
func (s *Server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.stats.kernel.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if n.synthetic {
		return fuse.Status(syscall.EACCES)
	}
	if n.err != 0 {
		return fuse.Status(s.tell(n))
	}
	f := &file{id: s.newFileID(), node: n, flags: wireFlags(in.Flags)}
	mask := wants(in.Flags)
	if mask&accessW != 0 && n.attr.Flags&fsyscall.AttrReadOnly != 0 && n.stdio == nil {
		return fuse.Status(syscall.EROFS)
	}
	var errno syscall.Errno
	if s.certain(n) && n.attr.Access&mask == mask && (!f.writable() || n.ours) {
		errno = s.openBehind(f)
	} else {
		errno = s.openNow(f, mask)
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	s.files[f.id] = f
	n.open = append(n.open, f)
	out.Fh = uint64(f.id)
	out.OpenFlags = s.openedFlags(n)
	return fuse.OK
}

// openedFlags tells the kernel whether its pages of n are still good.
func (s *Server) openedFlags(n *node) uint32 {
	if s.cfg.Hello.NoCache {
		return 0
	}
	return fuse.FOPEN_KEEP_CACHE // learn and revoke invalidate what is not
}

// certain tells whether what is known of n is under a lease or the session's
// own doing, so that an open need not wait for the client to agree.
func (s *Server) certain(n *node) bool {
	return !s.cfg.Hello.NoCache && n.known && n.stdio == nil && (n.until.IsZero() || n.pending > 0) && (n.parent != nil || n.attached != 0)
}

// openBehind opens f without waiting for the client.
func (s *Server) openBehind(f *file) syscall.Errno {
	n := f.node
	if !f.writable() && n.attr.Size <= inlineMax {
		hit := s.content.has(n) || n.fetching != nil
		s.wantedContent(n, hit)
		if hit && n.parent != nil {
			s.stats.hits.Add(1)
			return 0
		}
	}
	return s.openRemote(f, func(errno syscall.Errno) { f.err = errno })
}

// openRemote sends the open of f. done is called with s.mu held. s.mu is held.
func (s *Server) openRemote(f *file, done func(syscall.Errno)) syscall.Errno {
	n := f.node
	if !f.writable() && n.attr.Size > 0 && n.attr.Size <= inlineMax && !s.content.has(n) && n.pending == 0 {
		f.ahead.inline = make(chan struct{})
	}
	f.remote, f.answered = true, make(chan struct{})
	errno := s.sendOpen(f, done, 0)
	if errno != 0 {
		f.remote, f.answered, f.ahead.inline = false, nil, nil
	}
	return errno
}

// sendOpen sends the open of f, again if a try failed in a way that may be
// mended.
func (s *Server) sendOpen(f *file, done func(syscall.Errno), try int) syscall.Errno {
	n := f.node
	via := path(n.pending > 0 || f.writable())
	if errno := s.attach(n, via); errno != 0 {
		return errno
	}
	f.opened = via
	req := s.openRequest(f)
	gen := n.gen
	reply := &fsyscall.OpenReply{}
	s.calls.begin(via, fsyscall.OpOpen, req, &pendingCall{reply: reply, done: func(h fsyscall.Header, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		errno := syscall.Errno(h.Errno)
		if s.mended(n, errno, try) {
			if errno = s.sendOpen(f, done, try+1); errno == 0 {
				return
			}
		}
		if errno == 0 && n.pending == 0 {
			if n.gen == gen {
				s.learn(n, &reply.Attr, h.Leased || n.until.IsZero())
			}
			if req.Inline > 0 && n.gen == gen && len(reply.Data) < int(req.Inline) {
				s.content.put(n, reply.Data)
			}
		}
		done(errno)
		close(f.answered)
		if f.ahead.inline != nil {
			close(f.ahead.inline)
		}
	}})
	return 0
}

func (s *Server) openRequest(f *file) *fsyscall.Open {
	n := f.node
	req := &fsyscall.Open{ID: n.wire, File: f.id, Flags: f.flags}
	if me := s.cfg.Hello.UID; me == 0 || n.attr.UID == me {
		// Reads are answered from caches and made ahead, so that the time of the
		// last one means nothing. Only the owner may leave it alone.
		req.Flags |= fsyscall.OpenNoATime
	}
	if n.stdio != nil && n.attr.Flags&fsyscall.AttrReadOnly != 0 {
		req.ID = n.stdio.id // the export policy has it read-only, the user's redirection may not
	}
	if f.ahead.inline != nil {
		req.Inline = uint32(n.attr.Size) + 1
	}
	return req
}

// openNow opens f and waits for the client's answer. s.mu is let go of.
func (s *Server) openNow(f *file, mask uint8) syscall.Errno {
	if mask == accessX {
		if errno := s.mayAccess(f.node, accessX); errno != 0 {
			return errno
		}
	}
	ch := make(chan syscall.Errno, 1)
	if errno := s.openRemote(f, func(e syscall.Errno) { ch <- e }); errno != 0 {
		return errno
	}
	s.mu.Unlock()
	done := s.stats.wait(fsyscall.OpOpen)
	errno := <-ch
	done()
	s.mu.Lock()
	if errno == syscall.ESTALE && f.node.parent != nil {
		s.stale(f.node)
	}
	return errno
}

// ensureRemote opens f on the client if that was not necessary so far, and
// reports an open that failed late. s.mu is held.
func (s *Server) ensureRemote(f *file) syscall.Errno {
	if f.err != 0 {
		return f.err
	}
	if f.remote {
		return 0
	}
	return s.openRemote(f, func(e syscall.Errno) { f.err = e })
}

// Release implements fuse.RawFileSystem.
func (s *Server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	s.stats.kernel.Add(1)
	if s.calls.reserve(0) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.calls.unreserve(0)
		return
	}
	n := f.node
	f.ahead.mu.Lock()
	f.ahead.reset(s)
	f.ahead.mu.Unlock()
	delete(s.files, f.id)
	for i := range n.open {
		if n.open[i] == f {
			n.open = append(n.open[:i], n.open[i+1:]...)
			break
		}
	}
	if !f.remote {
		s.calls.unreserve(0)
		s.drop(n)
		return
	}
	s.sendTimes(f)
	for owner := range f.flockOwners {
		s.unlock(f, owner, true)
	}
	via := f.opened
	if via == urgent && !f.isAnswered() {
		// Not counted as a change: nothing follows from it.
		s.calls.unreserve(0)
		s.calls.begin(urgent, fsyscall.OpRelease, &fsyscall.Release{File: f.id},
			&pendingCall{lazy: true, reply: &fsyscall.Empty{}, done: func(fsyscall.Header, error) {}})
		s.drop(n)
		return
	}
	p := n.path()
	s.calls.post(0, fsyscall.OpRelease, &fsyscall.Release{File: f.id}, &fsyscall.Empty{}, func(h fsyscall.Header) {
		if h.Errno == 0 || f.err != 0 || !f.writable() {
			return // closed; or it was never open, or nothing was written through it
		}
		s.mu.Lock()
		s.fail(n, p, syscall.Errno(h.Errno))
		s.mu.Unlock()
	})
	s.drop(n)
}

// stdioNode says that a node is a standard stream's file. id is the number by
// which the client knows the descriptor.
type stdioNode struct {
	cmd  uint32
	slot uint8
	id   fsyscall.NodeID
}

// lookupHidden serves the paths that StdioPath names. s.mu is held.
func (s *Server) lookupHidden(dir *node, name string) (n *node, errno syscall.Errno, ok bool) {
	if dir == s.root && name == s.token {
		n := s.newNode()
		n.synthetic, n.known = true, true
		n.attr = fsyscall.Attr{Mode: modeDir | 0o711, Nlink: 2, Access: accessX, Flags: fsyscall.AttrReadOnly}
		n.stdio = &stdioNode{}
		return n, 0, true
	}
	if dir.stdio == nil || !dir.synthetic {
		return nil, 0, false
	}
	a, b, _ := strings.Cut(name, ".")
	cmd, err1 := strconv.ParseUint(a, 10, 32)
	slot, err2 := strconv.ParseUint(b, 10, 8)
	if err1 != nil || err2 != nil || slot > 2 {
		return nil, syscall.ENOENT, true
	}
	n, errno = s.bindStdio(&stdioNode{cmd: uint32(cmd), slot: uint8(slot)})
	return n, errno, true
}

// bindStdio gives the file behind a standard stream a node. If the file has one
// by its path, or gets one later (see nodeFor), it is the same, so that both
// show the same content.
func (s *Server) bindStdio(st *stdioNode) (*node, syscall.Errno) {
	fresh := s.newNode()
	st.id = fresh.wire
	var reply fsyscall.AttrReply
	s.mu.Unlock()
	res := s.calls.call(ordered, fsyscall.OpStdioNode, &fsyscall.StdioNode{Cmd: st.cmd, Slot: st.slot, ID: fresh.wire}, &reply)
	s.mu.Lock()
	if !res.ok() {
		return nil, res.errno
	}
	if n := s.byInode[inodeKey{reply.Attr.Dev, reply.Attr.Ino}]; n != nil && !n.gone {
		n.stdio = st
		return n, 0
	}
	fresh.attached = attachedBoth
	s.wires[fresh.wire] = fresh
	fresh.stdio = st
	s.setAttr(fresh, &reply.Attr, false)
	s.nodes[fresh.id] = fresh
	return fresh, 0
}

// readAhead fetches a file ahead of a program that reads it in order.
type readAhead struct {
	mu     sync.Mutex
	next   uint64 // where the program is expected to read
	window int
	parts  []*part
	// inline is closed when the content that comes with the open has come.
	inline chan struct{}
}

// part is one call of the read-ahead.
type part struct {
	off   uint64
	size  int
	ready chan struct{}
	data  []byte // shorter than size at the end of the file
	errno syscall.Errno
}

// Read-ahead of one file: calls of partSize, up to maxWindow in flight, which
// is what a link of 1 Gbit/s carries in a round trip of 80 ms. It doubles from
// firstWindow with each part that is read in order.
const (
	slack       = 1 << 20 // the kernel's own read-ahead sends reads out of order by this much
	partSize    = 256 << 10
	firstWindow = 256 << 10
	maxWindow   = 10 << 20
	// maxAheadBytes bounds the read-ahead of all files together. Beyond it
	// windows do not grow.
	maxAheadBytes = 64 << 20
)

// Read implements fuse.RawFileSystem.
func (s *Server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.stats.kernel.Add(1)
	if len(buf) > int(in.Size) {
		buf = buf[:in.Size]
	}
	s.mu.Lock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.mu.Unlock()
		return nil, fuse.EBADF
	}
	if n, ok := s.readContent(f, buf, in.Offset); ok {
		s.mu.Unlock()
		s.stats.hits.Add(1)
		return fuse.ReadResultData(buf[:n]), fuse.OK
	}
	inline := f.ahead.inline
	if inline == nil {
		inline = f.node.fetching
	}
	if inline != nil {
		select {
		case <-inline:
		default:
			s.mu.Unlock()
			done := s.stats.wait(fsyscall.OpOpen)
			<-inline
			done()
			s.mu.Lock()
			if n, ok := s.readContent(f, buf, in.Offset); ok {
				s.mu.Unlock()
				return fuse.ReadResultData(buf[:n]), fuse.OK
			}
		}
	}
	errno := s.ensureRemote(f)
	if errno != 0 {
		s.mu.Unlock()
		return nil, fuse.Status(errno)
	}
	via := s.fileVia(f)
	size := f.node.attr.Size
	s.mu.Unlock()
	n, errno := s.readAhead(f, buf, in.Offset, size, via)
	if errno == syscall.EBADF {
		// The open that it followed failed, and may have been repeated since.
		s.mu.Lock()
		s.awaitOpen(f)
		errno = f.err
		via = s.fileVia(f)
		s.mu.Unlock()
		if errno == 0 {
			f.ahead.mu.Lock()
			f.ahead.reset(s)
			f.ahead.mu.Unlock()
			n, errno = s.readDirect(f, buf, in.Offset, via)
		}
	}
	if errno != 0 {
		s.mu.Lock()
		if f.err != 0 {
			errno = f.err
		}
		s.mu.Unlock()
		return nil, fuse.Status(errno)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// readContent serves a read from the kept content. s.mu is held.
func (s *Server) readContent(f *file, buf []byte, off uint64) (int, bool) {
	data := s.content.get(f.node)
	if data == nil {
		return 0, false
	}
	if off >= uint64(len(data)) {
		return 0, true
	}
	return copy(buf, data[off:]), true
}

// readAhead reads through the file's read-ahead.
func (s *Server) readAhead(f *file, buf []byte, off, fileSize uint64, via path) (int, syscall.Errno) {
	a := &f.ahead
	a.mu.Lock()
	switch {
	case a.covers(off):
	case via == urgent && off >= a.next && off-a.next <= slack:
	case via == urgent && off < a.next && a.next-off <= slack:
		a.mu.Unlock()
		return s.readDirect(f, buf, off, via)
	default:
		// Not in order, or there are changes that the read must see.
		a.reset(s)
		a.next = off + uint64(len(buf))
		a.mu.Unlock()
		return s.readDirect(f, buf, off, via)
	}
	a.extend(s, f, off, len(buf), fileSize)
	a.next = max(a.next, off+uint64(len(buf)))
	parts := a.parts
	a.mu.Unlock()
	n, errno := s.gather(parts, buf, off)
	a.mu.Lock()
	a.discard(s, a.next)
	a.mu.Unlock()
	return n, errno
}

func (a *readAhead) covers(off uint64) bool {
	for _, p := range a.parts {
		if off >= p.off && off < p.off+uint64(p.size) {
			return true
		}
	}
	return false
}

// extend sends the calls that bring what is read now and what is likely to be
// read next. a.mu is held.
func (a *readAhead) extend(s *Server, f *file, off uint64, size int, fileSize uint64) {
	end := off
	if k := len(a.parts); k > 0 {
		end = a.parts[k-1].off + uint64(a.parts[k-1].size)
	}
	switch {
	case a.window == 0 || s.aheadBytes.Load() > maxAheadBytes:
		a.window = max(firstWindow, size)
	case end-min(end, off) < uint64(a.window)/2:
		a.window = min(2*a.window, maxWindow)
	}
	goal := off + uint64(size) + uint64(a.window)
	if end-min(end, off) >= uint64(a.window)/2+uint64(size) {
		goal = off + uint64(size) // enough is on its way
	}
	goal = max(min(goal, fileSize), off+uint64(size))
	for end < goal {
		n := partSize
		if end+uint64(n) > goal && goal < fileSize {
			n = int(max(goal-end, 4096))
		}
		p := &part{off: end, size: n, ready: make(chan struct{})}
		a.parts = append(a.parts[:len(a.parts):len(a.parts)], p)
		s.aheadBytes.Add(int64(n))
		reply := &fsyscall.Data{}
		s.calls.begin(urgent, fsyscall.OpRead, &fsyscall.Read{File: f.id, Off: end, Size: uint32(n)}, &pendingCall{
			reply: reply, done: func(h fsyscall.Header, _ error) {
				p.data, p.errno = reply.Data, syscall.Errno(h.Errno)
				close(p.ready)
			},
		})
		end += uint64(n)
	}
}

// discard lets go of parts that lie well before off. a.mu is held.
func (a *readAhead) discard(s *Server, off uint64) {
	for len(a.parts) > 0 && a.parts[0].off+uint64(a.parts[0].size)+slack <= off {
		s.aheadBytes.Add(-int64(a.parts[0].size))
		a.parts = a.parts[1:]
	}
}

// reset lets go of everything. a.mu is held.
func (a *readAhead) reset(s *Server) {
	for _, p := range a.parts {
		s.aheadBytes.Add(-int64(p.size))
	}
	a.parts, a.window = nil, 0
}

// gather copies what the parts hold of [off, off+len(buf)).
func (s *Server) gather(parts []*part, buf []byte, off uint64) (int, syscall.Errno) {
	n := 0
	for _, p := range parts {
		at := off + uint64(n)
		if at < p.off || at >= p.off+uint64(p.size) {
			continue
		}
		select {
		case <-p.ready:
		default:
			done := s.stats.wait(fsyscall.OpRead)
			<-p.ready
			done()
		}
		if p.errno != 0 {
			return n, p.errno
		}
		if at-p.off < uint64(len(p.data)) {
			n += copy(buf[n:], p.data[at-p.off:])
		}
		if len(p.data) < p.size || n == len(buf) {
			return n, 0
		}
	}
	return n, 0
}

func (s *Server) readDirect(f *file, buf []byte, off uint64, via path) (int, syscall.Errno) {
	var reply fsyscall.Data
	res := s.calls.call(via, fsyscall.OpRead, &fsyscall.Read{File: f.id, Off: off, Size: uint32(len(buf))}, &reply)
	return copy(buf, reply.Data), res.errno
}

// dataChanged drops what is kept of n's content, here and in the kernel. s.mu
// is held.
func (s *Server) dataChanged(n *node) {
	s.content.remove(n)
	s.resetAhead(n)
	if n.refs > 0 {
		s.notify.inode(n, true)
	}
}

// resetAhead drops what was read ahead of n.
func (s *Server) resetAhead(n *node) {
	for _, f := range n.open {
		f.ahead.mu.Lock()
		f.ahead.reset(s)
		f.ahead.mu.Unlock()
	}
}

// Lseek implements fuse.RawFileSystem for SEEK_DATA and SEEK_HOLE.
func (s *Server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	const seekData, seekHole = 3, 4
	if in.Whence != seekData && in.Whence != seekHole {
		return fuse.EINVAL
	}
	s.mu.Lock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.mu.Unlock()
		return fuse.EBADF
	}
	if errno := s.ensureRemote(f); errno != 0 {
		s.mu.Unlock()
		return fuse.Status(errno)
	}
	via := s.fileVia(f)
	s.mu.Unlock()
	var reply fsyscall.SeekReply
	res := s.calls.call(via, fsyscall.OpSeek, &fsyscall.Seek{File: f.id, Off: in.Offset, Hole: in.Whence == seekHole}, &reply)
	out.Offset = reply.Off
	return fuse.Status(res.errno)
}

// Fsync implements fuse.RawFileSystem: it waits until everything posted before
// is on the client's disk.
func (s *Server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.mu.Lock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.mu.Unlock()
		return fuse.EBADF
	}
	n := f.node
	errno := s.ensureRemote(f)
	if errno == 0 {
		s.orderedFile(f)
	}
	s.mu.Unlock()
	if errno != 0 {
		return fuse.Status(errno)
	}
	res := s.calls.call(ordered, fsyscall.OpFsync, &fsyscall.Fsync{ID: n.wire, File: f.id, Data: in.FsyncFlags&1 != 0}, &fsyscall.Empty{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.err != 0 {
		return fuse.Status(s.tell(n))
	}
	return fuse.Status(res.errno)
}

// sendTimes gives a file that was written behind the time that the session has
// shown since, so that it does not change when the session ends. s.mu is held.
func (s *Server) sendTimes(f *file) {
	n := f.node
	if !n.dirtyTimes || !f.writable() || !f.remote {
		return
	}
	n.dirtyTimes = false
	begin(n)
	s.calls.begin(ordered, fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: n.wire, File: f.id, Mask: fsyscall.SetMtime, Mtime: n.attr.Mtime},
		&pendingCall{lazy: true, reply: &fsyscall.AttrReply{}, done: func(h fsyscall.Header, _ error) {
			s.mu.Lock()
			s.settle(n, 0) // a file that is not the user's own keeps the client's time
			s.mu.Unlock()
		}})
}

// Flush implements fuse.RawFileSystem: close(2). It reports a change of the file
// that failed, and drops the closing process's fcntl locks.
func (s *Server) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	s.stats.kernel.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		return fuse.OK
	}
	s.unlockOwner(f, in.LockOwner)
	s.sendTimes(f)
	if f.node.err != 0 {
		return fuse.Status(s.tell(f.node))
	}
	return fuse.OK
}
