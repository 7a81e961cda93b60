package fmaster

import (
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// listMax bounds the entries that a directory may have to be asked for whole
// when a single name in it is wanted. Such an answer takes about 100 bytes an
// entry, a few milliseconds on a slow link.
const listMax = fsyscall.PrefetchMax

// forever is how long the kernel may keep what is under a lease.
const forever = 1 << 30 // seconds

// Lookup implements fuse.RawFileSystem.
func (s *Server) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer s.request(in.NodeId)()
	n, errno := s.lookup(fsyscall.NodeID(in.NodeId), name, out)
	if errno == syscall.ENOENT && n == nil && (out.EntryValid > 0 || out.EntryValidNsec > 0) {
		return fuse.OK // a negative entry that the kernel may keep
	}
	return fuse.Status(errno)
}

// lookup finds name in the directory dirID and fills out; one reference is
// counted for the kernel. For a name known not to exist it fills out with a
// negative entry and returns ENOENT.
func (s *Server) lookup(dirID fsyscall.NodeID, name string, out *fuse.EntryOut) (*node, syscall.Errno) {
	if !fsyscall.ValidName(name) {
		return nil, syscall.ENAMETOOLONG
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[dirID]
	if dir == nil {
		return nil, syscall.ESTALE
	}
	if n, errno, ok := s.lookupHidden(dir, name); ok {
		if errno == 0 {
			s.fillEntry(n, out)
			out.EntryValid, out.AttrValid = 0, 0
		}
		return n, errno
	}
	n, errno := s.find(dir, name)
	dir.recent |= fsyscall.UseListing
	switch {
	case errno == 0:
		s.use(n, fsyscall.UseName)
		s.lease(n)
		if n.isDir() && n.refs > 0 {
			n.lookedAgain = time.Now().UnixNano()
		}
		s.fillEntry(n, out)
	case errno == syscall.ENOENT:
		s.miss(dir, name)
		s.fillAbsent(dir, out)
	}
	return n, errno
}

// find returns the entry name of dir, asking the client if need be. s.mu is
// held and is let go of while the client is asked.
func (s *Server) find(dir *node, name string) (*node, syscall.Errno) {
	mount := dir.mounts.child(name)
	if mount != nil && mount.mounted || dir.synthetic {
		if mount == nil || mount.absent {
			return nil, syscall.ENOENT
		}
		return s.synthesize(dir, name, mount), 0
	}
	if dir.attr.Access&accessX == 0 && dir.known && dir.fresh(time.Now()) {
		// The forecast is refusal: let the client's kernel say so.
		n, errno := s.ask(dir, name, false)
		return s.orSynthetic(dir, name, mount, n, errno)
	}
	for range maxRetries {
		n, known := s.peek(dir, name)
		if known && n == nil {
			return s.orSynthetic(dir, name, mount, nil, syscall.ENOENT)
		}
		if known {
			n.mounts = mount
			return n, 0
		}
		if d := dir.dir; d != nil && !s.cfg.Hello.NoCache {
			ready := d.looking[name]
			if ready == nil && !d.big {
				ready = d.listing
			}
			if ready != nil {
				s.await(ready)
				continue
			}
		}
		n, errno := s.ask(dir, name, true)
		return s.orSynthetic(dir, name, mount, n, errno)
	}
	return nil, syscall.ESTALE
}

// await waits for an answer under way. s.mu is let go of.
func (s *Server) await(ready <-chan struct{}) {
	s.mu.Unlock()
	done := s.stats.wait()
	<-ready
	done()
	s.mu.Lock()
}

// maxRetries bounds how often an answer that was overtaken by a change is
// asked for again.
const maxRetries = 8

func (s *Server) orSynthetic(dir *node, name string, m *mountPoint, n *node, errno syscall.Errno) (*node, syscall.Errno) {
	if m == nil || m.pinned && m.children == nil {
		if n != nil {
			n.mounts = m
		}
		return n, errno
	}
	if errno != 0 || !n.isDir() {
		return s.synthesize(dir, name, m), 0
	}
	n.mounts = m
	return n, 0
}

// peek looks name up in what is known. A known nil is a name known not to
// exist. s.mu is held.
func (s *Server) peek(dir *node, name string) (n *node, known bool) {
	d := dir.dir
	now := time.Now()
	if d == nil {
		return nil, false
	}
	if n := d.children[name]; n != nil {
		_, stale := d.stale[name]
		if n.synthetic || n.pending > 0 || !stale && n.nameFresh(now) && n.usable(now) && !s.cfg.Hello.NoCache {
			s.stats.hits.Add(1)
			s.used(dir)
			return n, true
		}
		return nil, false
	}
	if !d.fresh(now) {
		return nil, false
	}
	if _, absent := d.absent[name]; absent || d.whole {
		s.stats.hits.Add(1)
		return nil, true
	}
	return nil, false
}

// A directory with more than listMax entries is asked for whole when singly
// names were wanted from it one by one: /usr/lib, where each library of a
// program is a name. More than bigMax, 800 kB, are never asked for.
const (
	singly = 3
	bigMax = fsyscall.PrefetchWhole
)

// listBig counts a name wanted from a big directory and asks for all of it, for
// the names to come, in time. s.mu is held.
func (s *Server) listBig(dir *node) {
	d := dir.dir
	if d.singly++; d.singly < singly || d.listing != nil || d.huge || s.cfg.Hello.NoCache {
		return
	}
	s.list(dir, bigMax, func(l listed) {
		s.mu.Lock()
		defer s.mu.Unlock()
		d.huge = d.huge || l.errno == syscall.EFBIG
		d.singly = 0
	})
}

// ask sends a Lookup and, where the directory was never listed, asks for the
// whole listing in the same flight. s.mu is let go of meanwhile.
func (s *Server) ask(dir *node, name string, list bool) (*node, syscall.Errno) {
	d := dir.entries()
	for try := 0; ; try++ {
		via := dir.via()
		if errno := s.attach(dir, via); errno != 0 {
			return nil, errno
		}
		if list && !s.cfg.Hello.NoCache && !d.big && d.listing == nil {
			s.list(dir, listMax, nil)
			s.lookBelow(dir, belowLevels)
			s.wanted(dir)
		}
		if list && d.big {
			s.listBig(dir)
		}
		gen, since := dir.gen, s.changes
		fresh := s.newNode()
		var reply fsyscall.AttrReply
		req := &fsyscall.Lookup{Dir: dir.wire, Name: name, ID: fresh.wire}
		s.mu.Unlock()
		res := s.calls.call(via, fsyscall.OpLookup, req, &reply)
		s.mu.Lock()
		if s.mended(dir, res.errno, try) {
			continue
		}
		return s.found(dir, name, asked{gen, since, fresh, via}, &reply.Attr, res)
	}
}

// mended tells whether a call that failed with errno is worth repeating: the
// client's numbers may lead to places that local programs have moved, while
// the names in the tree were seen to be good. It takes the number of n back,
// and if that was no help (try 1), or n is a directory, those of all above n
// and below these. After that it is the turn of n's other names. s.mu is held.
func (s *Server) mended(n *node, errno syscall.Errno, try int) bool {
	switch errno {
	case syscall.ESTALE, syscall.ENOTDIR, syscall.ELOOP:
	default:
		return false
	}
	switch {
	case n.stdio != nil:
		return false
	case try >= maxMends:
		return s.otherName(n, try-maxMends)
	}
	if try == 0 && !n.isDir() {
		if n.pending > 0 || n.parent == nil || n.attached == 0 {
			return false
		}
		s.forget(n)
		return true
	}
	var top *node
	for ; n != nil && n != s.root; n = n.parent {
		if n.parent != nil && n.attached != 0 {
			top = n
		}
	}
	if top == nil {
		return false
	}
	s.forgetTree(top)
	return true
}

// maxMends bounds how often a call is repeated by the same name, and maxNames
// how many others are tried.
const (
	maxMends = 2
	maxNames = 4
)

// otherName makes another name of n the one that the client is told of: this
// one may be gone, or be another file's, without that being known here yet.
func (s *Server) otherName(n *node, try int) bool {
	if n.isDir() || n.pending > 0 || n.attached == 0 || try >= min(len(n.more), maxNames) {
		return false
	}
	s.forget(n)
	n.prefer(n.more[0])
	return true
}

// asked is a Lookup on its way: what dir.gen and s.changes were when it was
// sent, the node that the client has been told of, and the stream.
type asked struct {
	gen, since uint64
	fresh      *node
	via        path
}

// lookLazily looks a name up without anybody waiting for it. done gets what it
// leads to, or nil, and the node that the answer would have made if the inode
// was new, and whether the answer came too late to count; s.mu is held. It
// returns false when the name cannot be asked for.
//
// The kernel keeps the session's changes of a directory and look-ups that it asks
// for apart. This one it knows nothing of: what the session has done meanwhile is
// newer than the answer, which then says nothing.
func (s *Server) lookLazily(dir *node, name string, done func(n, fresh *node, late bool)) bool {
	if s.attach(dir, inTurn) != 0 {
		return false
	}
	q := asked{dir.gen, s.changes, s.newNode(), inTurn}
	reply := &fsyscall.AttrReply{}
	req := &fsyscall.Lookup{Dir: dir.wire, Name: name, ID: q.fresh.wire}
	s.calls.begin(inTurn, fsyscall.OpLookup, req, &pendingCall{reply: reply, done: func(h fsyscall.Header, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if dir.gen != q.gen {
			s.countNodes--
			if h.Errno == 0 {
				s.calls.forget(q.fresh.wire, inTurn)
			}
			done(nil, q.fresh, true)
			return
		}
		n, errno := s.found(dir, name, q, &reply.Attr, result{syscall.Errno(h.Errno), h.Leased})
		if errno != 0 {
			n = nil
		}
		done(n, q.fresh, false)
	}})
	return true
}

// found takes in the answer to a Lookup. Its node is used unless the inode has
// one already.
func (s *Server) found(dir *node, name string, q asked, a *fsyscall.Attr, res result) (*node, syscall.Errno) {
	d, fresh, via := dir.entries(), q.fresh, q.via
	current := dir.gen == q.gen
	_, revoked := d.stale[name]
	if !current && dir.pending == 0 {
		res.leased = false
	}
	switch {
	case res.errno == syscall.ENOENT:
		if !current && d.children[name] != nil && d.children[name].pending > 0 {
			return d.children[name], 0 // the session made it meanwhile
		}
		s.vanished(dir, name)
		if current {
			s.extend(dir, res.leased)
			if d.absent == nil || len(d.absent) >= maxAbsent {
				d.absent = make(map[string]struct{})
			}
			d.absent[name] = struct{}{}
		}
		return nil, syscall.ENOENT
	case res.errno == syscall.ESTALE || res.errno == syscall.EBADF:
		s.stale(dir)
		return nil, syscall.ESTALE
	case res.errno != 0:
		return nil, res.errno
	}
	if old := d.children[name]; old != nil && old.pending > 0 {
		s.countNodes--
		s.calls.forget(fresh.wire, via)
		return old, 0
	}
	n := s.nodeFor(dir, name, a)
	switch {
	case n == nil:
		n = fresh
		s.told(n, via)
	case n.pending == 0 && (n.attached == 0 || revoked || !n.isDir() && n.link != (link{dir, name})):
		// The name it was known by may be gone; this one is good.
		s.countNodes--
		s.forgetTree(n)
		n.wire = fresh.wire
		s.told(n, via)
		n.prefer(link{dir, name})
	default:
		s.countNodes--
		s.calls.forget(fresh.wire, via)
		s.named(n, dir, name)
	}
	s.place(dir, name, n)
	if current {
		s.extend(dir, res.leased)
	}
	s.learnSince(n, a, res.leased && current, q.since)
	s.bind(n, res.leased && current)
	if !current {
		n.until, n.named = time.Now(), time.Now() // answered, but not to be kept
	}
	return n, 0
}

// maxAbsent bounds the names known not to exist in one directory; when it is
// reached they are forgotten.
const maxAbsent = 4096

// nodeFor returns the node that stands for the inode with the attributes a, if
// there is one: the entry's own, or that of another hard link.
func (s *Server) nodeFor(dir *node, name string, a *fsyscall.Attr) *node {
	key := inodeKey{a.Dev, a.Ino}
	if old := dir.entries().children[name]; old != nil && !old.synthetic {
		if !old.known || old.key == key && old.attr.Mode&modeType == a.Mode&modeType {
			return old
		}
	}
	if a.Mode&modeType == modeRegular && (a.Nlink > 1 || s.byInode[key] != nil) {
		if n := s.byInode[key]; n != nil && !n.gone && (a.Nlink > 1 || n.stdio != nil || n.remotelyOpen()) {
			return n
		}
	}
	return nil
}

// remotelyOpen tells whether the client has n open for a program: no other inode
// can have its number.
func (n *node) remotelyOpen() bool {
	return slices.ContainsFunc(n.open, func(f *file) bool { return f.remote })
}

// named sees to it that the client is told of n by the name that it is about to
// get, if it had lost the last one known.
func (s *Server) named(n, dir *node, name string) {
	switch {
	case n.parent != nil || n.attached == 0 || n.stdio != nil:
	case n.pending == 0:
		s.forget(n)
	case s.attach(dir, ordered) == 0:
		s.calls.attach(ordered, &fsyscall.Attach{Dir: dir.wire, Name: name, ID: n.wire, Ino: n.key.ino, Dev: n.key.dev})
	}
}

// extend renews how long what is known of dir's entries as a set (that the
// listing is whole, that names are absent) may be kept. What was learned
// before a lease is not under it.
func (s *Server) extend(dir *node, leased bool) {
	d := dir.entries()
	d.leased = leased
	if leased && !s.cfg.Hello.NoCache {
		if !d.until.IsZero() {
			d.whole, d.absent = false, nil
			d.until = time.Time{}
		}
		return
	}
	d.until = time.Now().Add(s.unleased())
}

// vanished removes an entry that the client no longer has.
func (s *Server) vanished(dir *node, name string) {
	if n := dir.entries().children[name]; n != nil && !n.synthetic && n.pending == 0 {
		s.displace(dir, name)
		if n.refs > 0 {
			s.notify.entry(dir, name)
		}
	}
}

// stale drops what is known of a node that the client does not find where it
// was, so that the kernel's next look-up asks.
func (s *Server) stale(n *node) {
	n.until = time.Now()
	n.gen++
	if n != s.root && n.pending == 0 {
		s.forget(n)
	}
	if n.parent != nil {
		p := n.parent
		p.gen++
		if d := p.dir; d != nil {
			d.whole, d.absent = false, nil
			d.revoke(n.name)
		}
		s.notify.entry(p, n.name)
	}
}
