package fmaster

import (
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
	s.stats.kernel.Add(1)
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
	switch {
	case errno == 0:
		s.fillEntry(n, out)
	case errno == syscall.ENOENT:
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
		if d := dir.dir; d != nil && d.listing != nil && !d.big && !s.cfg.Hello.NoCache {
			s.awaitListing(d)
			continue
		}
		n, errno := s.ask(dir, name, true)
		return s.orSynthetic(dir, name, mount, n, errno)
	}
	return nil, syscall.ESTALE
}

// awaitListing waits for the listing under way. s.mu is let go of.
func (s *Server) awaitListing(d *dirState) {
	ready := d.listing
	s.mu.Unlock()
	done := s.stats.wait(fsyscall.OpList)
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
			s.used(d)
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
			s.wanted(dir)
		}
		gen := dir.gen
		fresh := s.newNode()
		var reply fsyscall.AttrReply
		req := &fsyscall.Lookup{Dir: dir.wire, Name: name, ID: fresh.wire}
		s.mu.Unlock()
		res := s.calls.call(via, fsyscall.OpLookup, req, &reply)
		s.mu.Lock()
		if s.mended(dir, res.errno, try) {
			continue
		}
		return s.found(dir, name, gen, fresh, &reply.Attr, res, via)
	}
}

// mended tells whether a call that failed with errno is worth repeating: the
// client's numbers may lead to places that local programs have moved, while
// the names in the tree were seen to be good. It takes the number of n back,
// and if that was no help (try 1), or n is a directory, those of all above n
// and below these. s.mu is held.
func (s *Server) mended(n *node, errno syscall.Errno, try int) bool {
	switch errno {
	case syscall.ESTALE, syscall.ENOTDIR, syscall.ELOOP:
	default:
		return false
	}
	if try >= maxMends || n.stdio != nil {
		return false
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

// maxMends bounds how often a call is repeated.
const maxMends = 2

// found takes in the answer to a Lookup. fresh is the node that the client
// has been told of, used unless the inode has a node already.
func (s *Server) found(dir *node, name string, gen uint64, fresh *node, a *fsyscall.Attr, res result, via path) (*node, syscall.Errno) {
	d := dir.entries()
	current := dir.gen == gen
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
	}
	s.place(dir, name, n)
	if current {
		s.extend(dir, res.leased)
	}
	s.learn(n, a, res.leased && current)
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
		if n := s.byInode[key]; n != nil && !n.gone && (a.Nlink > 1 || n.stdio != nil) {
			return n
		}
	}
	return nil
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

func (s *Server) unleased() time.Duration {
	if s.cfg.Hello.NoCache {
		return 0
	}
	return unleased
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

// GetAttr implements fuse.RawFileSystem.
func (s *Server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.stats.kernel.Add(1)
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
		s.awaitListing(d) // it brings the directory's own attributes
		if n.fresh(time.Now()) {
			return 0
		}
	}
	if n.stdio != nil && f == nil && len(n.open) > 0 {
		f = n.open[0]
	}
	if n.parent == nil && n != s.root && n.stdio == nil && len(n.open) == 0 {
		if n.known {
			return 0 // nothing can ask about it any more; it was last seen so
		}
		return syscall.ESTALE
	}
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
		return syscall.ESTALE
	}
	if !res.ok() {
		return res.errno
	}
	if n.pending > 0 && !s.cfg.Hello.Sync {
		return 0 // its own changes came in between and are newer
	}
	s.learn(n, &reply.Attr, res.leased && n.gen == gen)
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
	s.stats.kernel.Add(1)
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
	s.stats.kernel.Add(1)
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
