package fmaster

import (
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// listed is what a listing brings.
type listed struct {
	self    fsyscall.Attr
	entries []fsyscall.Entry
	names   []dirEntry // instead of entries, once there are too many
	ruled   []string
	errno   syscall.Errno
	leased  bool
}

// maxListed bounds the entries that are kept with their attributes while a
// listing arrives. A larger directory keeps names and types alone, about 60
// bytes an entry.
const maxListed = 64 << 10

func (l *listed) take(s *Server, part *fsyscall.ListReply) {
	l.self = part.Self
	l.ruled = append(l.ruled, part.Ruled...)
	if l.names == nil && len(l.entries)+len(part.Entries) <= maxListed {
		l.entries = append(l.entries, part.Entries...)
		return
	}
	for _, list := range [][]fsyscall.Entry{l.entries, part.Entries} {
		for i := range list {
			e := &list[i]
			l.names = append(l.names, dirEntry{e.Name, s.visibleIno(&e.Attr), e.Attr.Mode & modeType})
		}
	}
	l.entries = nil
}

// list asks for the entries of dir without waiting, at most max of them (zero:
// all). done, if not nil, gets the answer; it is called without locks. What
// comes is taken into the tree before. dir.listing is closed at the end. s.mu
// is held.
func (s *Server) list(dir *node, max uint32, done func(listed)) syscall.Errno {
	return s.listBy(dir.via(), dir, max, done)
}

func (s *Server) listBy(via path, dir *node, max uint32, done func(listed)) syscall.Errno {
	if errno := s.attach(dir, via); errno != 0 {
		return errno
	}
	s.calls.begin(via, fsyscall.OpList, &fsyscall.List{ID: dir.wire, Max: max}, s.listing(dir, done))
	return 0
}

// listing prepares for the answer to a List of dir. s.mu is held.
func (s *Server) listing(dir *node, done func(listed)) *pendingCall {
	d := dir.entries()
	ready := make(chan struct{})
	d.listing = ready
	gen, since := dir.gen, s.changes
	var l listed
	last := &fsyscall.ListReply{}
	return &pendingCall{
		reply: last,
		more:  func(m fsyscall.Message) { l.take(s, m.(*fsyscall.ListReply)) },
		done: func(h fsyscall.Header, _ error) {
			l.errno, l.leased = syscall.Errno(h.Errno), h.Leased
			if h.Errno == 0 {
				l.take(s, last)
			}
			s.mu.Lock()
			if d.listing == ready {
				d.listing = nil
			}
			s.takeListing(dir, gen, since, &l)
			s.cameIn(dir)
			if below := d.below; below > 0 {
				d.below = 0
				s.lookBelow(dir, below)
			}
			s.mu.Unlock()
			close(ready)
			if done != nil {
				done(l)
			}
		},
	}
}

// maxNodes bounds the entries that listings put into the tree, about 400 bytes
// each: 500 MiB for a walk of over a million files, during which the kernel
// holds them all. Directories listed beyond it are answered but not kept, and
// beyond guessNodes none are listed ahead, as they could not be kept.
const (
	maxNodes   = 5 << 18
	guessNodes = maxNodes / 8 * 7
)

// takeListing takes an answered listing into the tree that was asked for when
// gen was dir.gen and since was s.changes. s.mu is held.
func (s *Server) takeListing(dir *node, gen, since uint64, l *listed) {
	d := dir.entries()
	switch l.errno {
	case 0:
	case syscall.EFBIG:
		d.big = true
		return
	case syscall.ESTALE:
		if dir.gen != gen {
			return // the session has moved or removed it meanwhile
		}
		if !s.mended(dir, l.errno, 0) {
			s.stale(dir)
		}
		return
	default:
		return
	}
	if l.names != nil {
		d.big = true
		return
	}
	if dir.gen != gen || s.cfg.Hello.NoCache {
		return // overtaken by a change: good for the one who asked, not to be kept
	}
	if s.countNodes+len(l.entries) > maxNodes {
		s.trim(s.countNodes + len(l.entries) - maxNodes)
		if s.countNodes+len(l.entries) > maxNodes {
			return
		}
	}
	s.extend(dir, l.leased)
	d.ruled = nil
	for _, name := range l.ruled {
		if d.ruled == nil {
			d.ruled = make(map[string]struct{})
		}
		d.ruled[name] = struct{}{}
	}
	seen := make(map[string]struct{}, len(l.entries))
	for i := range l.entries {
		e := &l.entries[i]
		seen[e.Name] = struct{}{}
		if m := dir.mounts.child(e.Name); m != nil && m.mounted {
			continue
		}
		s.takeEntry(dir, e, l.leased, since)
	}
	for name, n := range d.children {
		if _, ok := seen[name]; !ok && !n.synthetic && n.pending == 0 {
			s.vanished(dir, name)
		}
	}
	d.whole, d.absent, d.big = true, nil, false
	d.walked = 0
	if dir.pending == 0 {
		s.learn(dir, &l.self, l.leased)
	}
}

func (s *Server) takeEntry(dir *node, e *fsyscall.Entry, leased bool, since uint64) *node {
	if old := dir.entries().children[e.Name]; old != nil && (old.pending > 0 || old.synthetic) {
		return old
	}
	n := s.nodeFor(dir, e.Name, &e.Attr)
	if n == nil {
		n = s.newNode()
		n.mounts = dir.mounts.child(e.Name)
	} else {
		s.named(n, dir, e.Name)
	}
	s.learnSince(n, &e.Attr, leased, since)
	if e.Attr.Mode&modeType == modeLink {
		n.target, n.hasLink = e.Target, true
	}
	s.place(dir, e.Name, n)
	s.bind(n, leased)
	return n
}

// dirHandle is an open directory.
type dirHandle struct {
	node    *node
	entries []dirEntry
	read    bool // entries were taken
	// kept: the entries are nodes of the tree, so that the kernel may be given
	// their attributes with them.
	kept bool
}

type dirEntry struct {
	name string
	ino  uint64
	mode uint32
}

// OpenDir implements fuse.RawFileSystem.
func (s *Server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if errno := s.refresh(n, nil); errno != 0 {
		return fuse.Status(errno)
	}
	if n.attr.Access&accessR == 0 && !n.synthetic {
		if errno := s.mayAccess(n, accessR); errno != 0 {
			return fuse.Status(errno)
		}
	}
	s.lastDir++
	s.dirs[s.lastDir] = &dirHandle{node: n}
	out.Fh = s.lastDir
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (s *Server) ReleaseDir(in *fuse.ReleaseIn) {
	s.mu.Lock()
	delete(s.dirs, in.Fh)
	s.mu.Unlock()
}

// ReadDir implements fuse.RawFileSystem.
func (s *Server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(in, func(_ *dirHandle, e dirEntry) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.mode})
	})
}

// ReadDirPlus implements fuse.RawFileSystem.
func (s *Server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return s.readDir(in, func(h *dirHandle, e dirEntry) bool {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.mode})
		if entry == nil {
			return false
		}
		if !h.kept || e.name == "." || e.name == ".." {
			return true // without a node: the kernel takes the name alone
		}
		n, known := s.peek(h.node, e.name)
		if known && n != nil && n.attr.Mode&modeType == e.mode {
			s.fillEntry(n, entry)
		}
		return true
	})
}

func (s *Server) readDir(in *fuse.ReadIn, add func(*dirHandle, dirEntry) bool) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.dirs[in.Fh]
	if h == nil {
		return fuse.Status(syscall.EBADF)
	}
	if !h.read || in.Offset == 0 {
		if errno := s.snapshot(h); errno != 0 {
			return fuse.Status(errno)
		}
	}
	for i := in.Offset; i < uint64(len(h.entries)); i++ {
		if !add(h, h.entries[i]) {
			break
		}
	}
	return fuse.OK
}

// snapshot takes the entries that h shows until it is rewound. s.mu is held
// and let go of while the client is asked.
func (s *Server) snapshot(h *dirHandle) syscall.Errno {
	n := h.node
	s.use(n, fsyscall.UseListing)
	for try := range maxRetries {
		d := n.entries()
		if n.synthetic || d.whole && d.fresh(time.Now()) && !s.cfg.Hello.NoCache {
			s.stats.hits.Add(1)
			s.fromTree(h)
			s.runAhead(n)
			return 0
		}
		if d.listing != nil && !d.big {
			s.await(d.listing)
			continue
		}
		ch := make(chan listed, 1)
		if errno := s.list(n, 0, func(l listed) { ch <- l }); errno != 0 {
			return errno
		}
		s.wanted(n)
		s.mu.Unlock()
		done := s.stats.wait()
		l := <-ch
		done()
		s.mu.Lock()
		if l.errno == syscall.ESTALE && try == 0 {
			continue
		}
		if l.errno != 0 {
			return l.errno
		}
		if d.whole && d.fresh(time.Now()) && !s.cfg.Hello.NoCache {
			continue
		}
		s.fromListing(h, &l)
		return 0
	}
	return syscall.EIO
}

func (s *Server) fromTree(h *dirHandle) {
	n := h.node
	h.begin(len(n.dir.children))
	for name, m := range n.mounts.all() {
		if n.dir.children[name] == nil && !m.absent && !m.pinned {
			s.synthesize(n, name, m)
		}
	}
	for name, c := range n.dir.children {
		h.entries = append(h.entries, dirEntry{name, c.attr.Ino, c.attr.Mode & modeType})
	}
	// An order that does not change from one reading to the next.
	slices.SortFunc(h.entries[2:], func(a, b dirEntry) int { return strings.Compare(a.name, b.name) })
	h.kept = true
}

// fromListing is fromTree for a listing that the tree did not keep.
func (s *Server) fromListing(h *dirHandle, l *listed) {
	h.begin(len(l.entries) + len(l.names))
	mounts := h.node.mounts.all()
	seen := make(map[string]bool, len(mounts))
	add := func(e dirEntry) {
		if m := mounts[e.name]; m != nil {
			if m.mounted {
				return
			}
			seen[e.name] = true
		}
		h.entries = append(h.entries, e)
	}
	for i := range l.entries {
		e := &l.entries[i]
		add(dirEntry{e.Name, s.visibleIno(&e.Attr), e.Attr.Mode & modeType})
	}
	for _, e := range l.names {
		add(e)
	}
	for name, m := range mounts {
		if !seen[name] && !m.absent && !m.pinned {
			c := s.synthesize(h.node, name, m)
			h.entries = append(h.entries, dirEntry{name, c.attr.Ino, c.attr.Mode & modeType})
		}
	}
	h.kept = false
}

func (h *dirHandle) begin(n int) {
	up := h.node
	if up.parent != nil {
		up = up.parent
	}
	h.read = true
	h.entries = append(make([]dirEntry, 0, n+2),
		dirEntry{".", h.node.attr.Ino, modeDir}, dirEntry{"..", up.attr.Ino, modeDir})
}

// all returns the mount points directly below m, which may be nil.
func (m *mountPoint) all() map[string]*mountPoint {
	if m == nil {
		return nil
	}
	return m.children
}

// FsyncDir implements fuse.RawFileSystem.
func (s *Server) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil || n.synthetic {
		s.mu.Unlock()
		return fuse.OK
	}
	errno := s.attach(n, ordered)
	s.mu.Unlock()
	if errno != 0 {
		return fuse.Status(errno)
	}
	res := s.calls.call(ordered, fsyscall.OpFsync, &fsyscall.Fsync{ID: n.wire}, &fsyscall.Empty{})
	return fuse.Status(res.errno)
}
