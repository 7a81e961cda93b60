package fmaster

import (
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
	inOrder  bool          // it must not be overtaken by a change that follows
	byStream bool          // opened by the number of a standard stream
	err      syscall.Errno // the open failed after it was reported done
	// posixOwners and flockOwners have held locks through this file.
	posixOwners map[uint64]struct{}
	flockOwners map[uint64]struct{}
	// recalled is content to be used if the client's answer to the open shows
	// the file unchanged; last is what a file that is not open on the client
	// had when that changed.
	recalled *recalled
	last     []byte
	// openedAs has the attributes that came with the client's answer to the
	// open, when the node's gen was openedGen.
	openedAs  *fsyscall.Attr
	openedGen uint64

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
	done := s.stats.wait()
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
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if n.synthetic {
		return fuse.Status(syscall.EACCES)
	}
	f := &file{id: s.newFileID(), node: n, flags: wireFlags(in.Flags)}
	if !f.writable() {
		s.use(n, fsyscall.UseContent)
		f.recalled = s.recall(n)
	}
	if n.err != 0 {
		return fuse.Status(n.err)
	}
	mask := wants(in.Flags)
	if mask&accessW != 0 && n.attr.Flags&fsyscall.AttrReadOnly != 0 && n.stdio == nil {
		return fuse.Status(syscall.EROFS)
	}
	var errno syscall.Errno
	lent := n.stdio != nil && n.stdio.unopened && !s.cfg.Hello.Sync
	if lent {
		n.stdio.unopened = false
	}
	if lent || s.certain(n) && n.attr.Access&mask == mask && (!f.writable() || n.ours) {
		errno = s.openBehind(f)
	} else {
		errno = s.openNow(f, mask)
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	s.files[f.id] = f
	n.open = append(n.open, f)
	if f.writable() {
		s.awaitPages(n)
	} else {
		s.givePages(n)
	}
	out.Fh = uint64(f.id)
	out.OpenFlags = s.openedFlags(f)
	return fuse.OK
}

// openedFlags tells the kernel what it need not ask about f: for pages of it
// that it has, since learn and revoke invalidate those that are not good any
// more, and at close(2). There is nothing to report to a reader, and no lock to
// drop unless programs lock the file; the first one who does so through a
// descriptor like f loses its lock when the last duplicate of that is closed.
func (s *Server) openedFlags(f *file) uint32 {
	var flags uint32
	if !s.cfg.Hello.NoCache {
		flags |= fuse.FOPEN_KEEP_CACHE
	}
	if !f.writable() && !f.node.locking {
		flags |= fuse.FOPEN_NOFLUSH
	}
	return flags
}

// certain tells whether what is known of n is under a lease or the session's
// own doing, so that an open need not wait for the client to agree.
func (s *Server) certain(n *node) bool {
	return !s.cfg.Hello.NoCache && n.known && n.stdio == nil && (n.until.IsZero() || n.pending > 0) && (n.parent != nil || n.attached != 0)
}

// openBehind opens f without waiting for the client.
func (s *Server) openBehind(f *file) syscall.Errno {
	n := f.node
	if f.recalled != nil {
		s.useRecalled(n, f.recalled)
		f.recalled = nil
	}
	if !f.writable() {
		hit := s.content.has(n) || n.fetching != nil
		if n.attr.Size <= inlineMax {
			s.wantedContent(n, hit)
		}
		if hit && n.parent != nil && !s.content.full() {
			s.stats.hits.Add(1)
			return 0
		}
	}
	return s.openRemote(f, func(errno syscall.Errno) { f.err = errno })
}

// openRemote sends the open of f. done is called with s.mu held. s.mu is held.
func (s *Server) openRemote(f *file, done func(syscall.Errno)) syscall.Errno {
	n := f.node
	if !f.writable() && n.attr.Size > 0 && n.attr.Size <= inlineMax && !s.content.has(n) && n.pending == 0 && f.recalled == nil {
		f.ahead.inline = make(chan struct{})
	}
	if s.collectable(f) {
		f.ahead.mu.Lock()
		f.ahead.collectable, f.ahead.bounded = s.cfg.Cache != nil, n.until.IsZero()
		f.ahead.program = n.isProgram() && n.attr.Size > inlineMax
		f.ahead.mu.Unlock()
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
	via := path(n.pending > 0 || f.writable() || f.inOrder)
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
		if (errno == syscall.EACCES || errno == syscall.EPERM) && n.stdio != nil && !f.byStream {
			// What the user may not open any more the redirection still has open.
			f.byStream = true
			if errno = s.sendOpen(f, done, try); errno == 0 {
				return
			}
		}
		if s.mended(n, errno, try) {
			if errno = s.sendOpen(f, done, try+1); errno == 0 {
				return
			}
		}
		if errno == 0 {
			f.openedAs, f.openedGen = &reply.Attr, gen
		}
		if errno == 0 && n.pending == 0 {
			if n.gen == gen {
				s.learn(n, &reply.Attr, h.Leased || n.until.IsZero())
			}
			switch {
			case n.gen != gen:
			case req.Inline > 0 && len(reply.Data) < int(req.Inline):
				s.takeContent(n, &reply.Attr, reply.Data)
			case f.recalled != nil:
				s.useRecalled(n, f.recalled)
			}
		}
		f.recalled = nil
		done(errno)
		close(f.answered)
		if f.ahead.inline != nil {
			close(f.ahead.inline)
		}
	}})
	return 0
}

// noATime is the flag with which n is opened: reads are answered from caches and
// made ahead, so that the time of the last one means nothing. Only the owner may
// leave it alone.
func (s *Server) noATime(n *node) fsyscall.OpenFlags {
	if me := s.cfg.Hello.UID; me == 0 || n.attr.UID == me {
		return fsyscall.OpenNoATime
	}
	return 0
}

func (s *Server) openRequest(f *file) *fsyscall.Open {
	n := f.node
	req := &fsyscall.Open{ID: n.wire, File: f.id, Flags: f.flags}
	req.Flags |= s.noATime(n)
	if n.stdio != nil && (f.byStream || n.attr.Flags&fsyscall.AttrReadOnly != 0) {
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
	done := s.stats.wait()
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
