package fmaster

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// readAhead fetches a file ahead of a program that reads it in order.
type readAhead struct {
	mu     sync.Mutex
	next   uint64 // where the program is expected to read
	begun  uint64 // where it began to read in order
	window int
	parts  []*part
	// collectable: the file may be put together, from its beginning;
	// collector does so.
	collectable bool
	collector   *collector
	// bounded: the file may be asked for whole; scattered counts the reads out
	// of order; pinned: it was asked for, and parts has all of it.
	bounded   bool
	program   bool // it will be mapped, and read here and there
	scattered int
	pinned    bool
	owed      int64 // see repay
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

	// Under readAhead.mu.
	buffer  []byte // what data is a part of
	readers int    // who uses data
	used    bool   // somebody did
	into    *collector
	dropped bool // no longer one of readAhead.parts
}

// unused gives the part's buffer back. readAhead.mu is held.
func (p *part) unused(s *Server) {
	if p.dropped && p.readers == 0 && p.buffer != nil {
		s.calls.bufs.put(p.buffer)
		p.buffer, p.data = nil, nil
	}
}

// Read-ahead of one file: calls of partSize, up to a window ahead of the
// program. The window doubles when what is to be read now is still on its way,
// but never beyond twice what was read in order so far, so that of what was
// fetched at least a third was used, nor beyond what a link of 10 Gbit/s
// carries in the round trip: more would only lie about.
const (
	slack       = 1 << 20 // the kernel's own read-ahead sends reads out of order by this much
	partSize    = 256 << 10
	firstWindow = 256 << 10
	// maxWindow: 1 Gbit/s in a round trip of 80 ms.
	maxWindow = 10 << 20
	// leastMost is what the window may grow to on the shortest link: there it is
	// the processes on the way that are to be kept busy.
	leastMost = 4 << 20
	// mostRate is that of 10 Gbit/s, in bytes per second.
	mostRate = 1.25e9
	// maxAheadBytes bounds the read-ahead of all files together. Beyond it
	// windows do not grow.
	maxAheadBytes = 64 << 20
)

// Read implements fuse.RawFileSystem.
func (s *Server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer s.request(in.NodeId)()
	if len(buf) > int(in.Size) {
		buf = buf[:in.Size]
	}
	s.mu.Lock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.mu.Unlock()
		return nil, fuse.EBADF
	}
	f.node.paged = true
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
			s.await(inline)
			if n, ok := s.readContent(f, buf, in.Offset); ok {
				s.mu.Unlock()
				return fuse.ReadResultData(buf[:n]), fuse.OK
			}
		}
	}
	errno := s.ensureRemote(f)
	if errno != 0 {
		defer s.mu.Unlock()
		return readLast(f, buf, in.Offset, errno)
	}
	via := s.fileVia(f)
	size := f.node.attr.Size
	s.mu.Unlock()
	data, errno := s.readAhead(f, buf, in.Offset, size, via)
	if p, ok := data.(*pieces); ok {
		s.device.InPieces(in.Unique, p)
		data = fuse.ReadResultData(nil)
	}
	if ofOpen(errno) {
		// The open that it followed may have been repeated since.
		s.mu.Lock()
		s.awaitOpen(f)
		errno = f.err
		via = s.fileVia(f)
		s.mu.Unlock()
		if errno == 0 {
			f.ahead.mu.Lock()
			f.ahead.reset(s)
			f.ahead.mu.Unlock()
			data, errno = s.readDirect(f, buf, in.Offset, via)
		}
	}
	if errno != 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.err != 0 {
			errno = f.err
		}
		return readLast(f, buf, in.Offset, errno)
	}
	return data, fuse.OK
}

// ofOpen tells whether a read failed because the open that it followed had: with
// the error of that, or because there is no such file any more.
func ofOpen(errno syscall.Errno) bool {
	switch errno {
	case syscall.EBADF, syscall.ESTALE, syscall.ENOTDIR, syscall.ELOOP, syscall.EACCES, syscall.EPERM:
		return true
	}
	return false
}

// readLast ends a read that failed. A file that has lost its name before the
// client was told that it is open is as it was then.
func readLast(f *file, buf []byte, off uint64, errno syscall.Errno) (fuse.ReadResult, fuse.Status) {
	if errno != syscall.ESTALE || f.last == nil {
		return nil, fuse.Status(errno)
	}
	return fuse.ReadResultData(buf[:copy(buf, f.last[min(off, uint64(len(f.last))):])]), fuse.OK
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
	n := copy(buf, data[off:])
	if f.remote {
		f.ahead.mu.Lock()
		f.ahead.repay(s, n)
		f.ahead.mu.Unlock()
	}
	return n, true
}

// readAhead reads through the file's read-ahead.
func (s *Server) readAhead(f *file, buf []byte, off, fileSize uint64, via path) (fuse.ReadResult, syscall.Errno) {
	a := &f.ahead
	a.mu.Lock()
	switch {
	case a.covers(off):
	case a.program && off < fileSize && a.wantsWhole(s, via, fileSize):
		s.askWhole(f, off, fileSize)
	case via == urgent && off >= a.next && off-a.next <= slack:
	case off < fileSize && a.wantsWhole(s, via, fileSize):
		s.askWhole(f, off, fileSize)
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
	if !a.pinned {
		a.extend(s, f, off, len(buf), fileSize)
	}
	a.next = max(a.next, off+uint64(len(buf)))
	parts := a.overlap(off, len(buf))
	a.mu.Unlock()
	data, errno := s.gather(parts, len(buf), off)
	r := &pieces{s: s, a: a, parts: parts, data: data}
	a.mu.Lock()
	if a.pinned {
		a.repay(s, r.Size())
	} else {
		a.discard(s, a.next)
	}
	a.mu.Unlock()
	if errno != 0 || r.Size() == 0 {
		r.Done() // go-fuse calls it for an answer with data only
		return fuse.ReadResultData(nil), errno
	}
	return r, 0
}

// pieces is an answer to a read that lies in parts of the read-ahead, which go
// to the kernel from where they are.
type pieces struct {
	s     *Server
	a     *readAhead
	parts []*part // of which data has pieces, until Done
	data  [][]byte
}

// Slices implements go-fuse's interface for an answer in pieces.
func (r *pieces) Slices() ([][]byte, fuse.Status) { return r.data, fuse.OK }

// Bytes implements fuse.ReadResult.
func (r *pieces) Bytes(buf []byte) ([]byte, fuse.Status) {
	n := 0
	for _, d := range r.data {
		n += copy(buf[n:], d)
	}
	return buf[:n], fuse.OK
}

// Size implements fuse.ReadResult.
func (r *pieces) Size() int {
	n := 0
	for _, d := range r.data {
		n += len(d)
	}
	return n
}

// Done implements fuse.ReadResult: the kernel has the answer.
func (r *pieces) Done() {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	for _, p := range r.parts {
		p.readers--
		p.unused(r.s)
	}
	r.parts, r.data = nil, nil
}

// overlap returns the parts that have something of [off, off+n), with the
// caller as one of their readers. a.mu is held.
func (a *readAhead) overlap(off uint64, n int) []*part {
	i, j := 0, len(a.parts)
	for i < j && a.parts[i].off+uint64(a.parts[i].size) <= off {
		i++
	}
	for j > i && a.parts[j-1].off >= off+uint64(n) {
		j--
	}
	for _, p := range a.parts[i:j] {
		p.readers++
		p.used = true
	}
	return a.parts[i:j:j]
}

func (a *readAhead) covers(off uint64) bool {
	for _, p := range a.parts {
		if off >= p.off && off < p.off+uint64(p.size) {
			return true
		}
	}
	return false
}

// mostWindow is what the window of one file may grow to.
func (s *Server) mostWindow() int {
	return max(leastMost, int(min(maxWindow, s.calls.link.Stats().MinRTT.Seconds()*mostRate)))
}

// late tells whether anything of [off, off+size) was asked for and has not
// come. a.mu is held.
func (a *readAhead) late(off uint64, size int) bool {
	for _, p := range a.parts {
		if p.off >= off+uint64(size) || p.off+uint64(p.size) <= off {
			continue
		}
		select {
		case <-p.ready:
		default:
			return true
		}
	}
	return false
}

// grow makes the window larger for a program that has read up to end. a.mu is
// held.
func (a *readAhead) grow(end uint64, most int) {
	read := end - min(a.begun, end)
	a.window = max(a.window, min(2*a.window, int(min(2*read, maxWindow)), most))
}

// extend sends the calls that bring what is read now and what is likely to be
// read next. a.mu is held.
func (a *readAhead) extend(s *Server, f *file, off uint64, size int, fileSize uint64) {
	if off == 0 && len(a.parts) == 0 && a.collectable {
		a.collect(s, fileSize)
	}
	end := off
	if k := len(a.parts); k > 0 {
		end = a.parts[k-1].off + uint64(a.parts[k-1].size)
	}
	need := off + uint64(size)
	switch {
	case a.window == 0:
		a.begun, a.window = off, max(firstWindow, size)
	case s.aheadBytes.Load() > maxAheadBytes:
		a.window = max(firstWindow, size)
	case a.late(off, size):
		a.grow(need, s.mostWindow())
	}
	if end >= need+uint64(a.window)/2 {
		return // enough is on its way: several calls leave together, later
	}
	goal := max(min(need+uint64(a.window), fileSize), need)
	for end < goal {
		n := partSize
		if end+uint64(n) > goal && goal < fileSize {
			if end >= need {
				return // a whole part, the next time
			}
			n = int(max(goal-end, 4096))
		}
		p := &part{off: end, size: n, ready: make(chan struct{})}
		a.parts = append(a.parts[:len(a.parts):len(a.parts)], p)
		s.aheadBytes.Add(int64(n))
		s.stats.read.Add(int64(n))
		s.fetchPart(f, p)
		end += uint64(n)
	}
}

// fetchPart asks the client for a part. readAhead.mu is held.
func (s *Server) fetchPart(f *file, p *part) {
	p.into = f.ahead.collector
	reply := &fsyscall.Data{}
	call := &pendingCall{reply: reply}
	call.done = func(h fsyscall.Header, _ error) {
		p.data, p.errno = reply.Data, syscall.Errno(h.Errno)
		close(p.ready)
		f.ahead.mu.Lock()
		content := f.ahead.add(s, p)
		p.buffer = call.buffer
		p.unused(s)
		f.ahead.mu.Unlock()
		if content != nil {
			s.keepCollected(f, content, p.into.whole)
		}
	}
	s.calls.begin(urgent, fsyscall.OpRead, &fsyscall.Read{File: f.id, Off: p.off, Size: uint32(p.size)}, call)
}

// discard lets go of parts that lie well before off. a.mu is held.
func (a *readAhead) discard(s *Server, off uint64) {
	for len(a.parts) > 0 && a.parts[0].off+uint64(a.parts[0].size)+slack <= off {
		a.drop(s, a.parts[0])
		a.parts = a.parts[1:]
	}
}

// reset lets go of everything. a.mu is held.
func (a *readAhead) reset(s *Server) {
	for _, p := range a.parts {
		a.drop(s, p)
	}
	a.parts, a.window, a.pinned = nil, 0, false
	a.collectable = false
	a.uncollect(s)
}

// drop is told that a part is no longer one of a.parts. a.mu is held.
func (a *readAhead) drop(s *Server, p *part) {
	s.aheadBytes.Add(-int64(p.size))
	if !p.used {
		s.stats.readUnused.Add(int64(p.size))
	}
	p.dropped = true
	p.unused(s)
}

// gather returns what the parts hold of [off, off+size).
func (s *Server) gather(parts []*part, size int, off uint64) (data [][]byte, errno syscall.Errno) {
	n := 0
	for _, p := range parts {
		at := off + uint64(n)
		if at < p.off || at >= p.off+uint64(p.size) {
			continue
		}
		select {
		case <-p.ready:
		default:
			done := s.stats.wait()
			<-p.ready
			done()
		}
		if p.errno != 0 {
			return nil, p.errno
		}
		if at-p.off < uint64(len(p.data)) {
			d := p.data[at-p.off:]
			d = d[:min(len(d), size-n)]
			data = append(data, d)
			n += len(d)
		}
		if len(p.data) < p.size || n == size {
			return data, 0
		}
	}
	return data, 0
}

func (s *Server) readDirect(f *file, buf []byte, off uint64, via path) (fuse.ReadResult, syscall.Errno) {
	var reply fsyscall.Data
	call := &pendingCall{reply: &reply}
	res := s.calls.await(via, fsyscall.OpRead, &fsyscall.Read{File: f.id, Off: off, Size: uint32(len(buf))}, call)
	n := copy(buf, reply.Data)
	s.calls.bufs.put(call.buffer)
	return fuse.ReadResultData(buf[:n]), res.errno
}

// dataChanged drops what is kept of n's content, here and in the kernel. s.mu
// is held.
func (s *Server) dataChanged(n *node) {
	s.lastContent(n)
	s.content.remove(n)
	s.resetAhead(n)
	n.paged = false
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
