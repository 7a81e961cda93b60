package fmaster

import (
	"strings"
	"syscall"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const (
	modeType    = syscall.S_IFMT
	modeDir     = syscall.S_IFDIR
	modeRegular = syscall.S_IFREG
	modeLink    = syscall.S_IFLNK

	accessR = 4
	accessW = 2
	accessX = 1
)

// inodeKey identifies an inode of the client.
type inodeKey struct{ dev, ino uint64 }

type attachState uint8

const (
	attachedUrgent  attachState = 1
	attachedOrdered attachState = 2
	attachedBoth                = attachedUrgent | attachedOrdered
)

// link is a name of a node.
type link struct {
	parent *node
	name   string
}

// node is an inode of the view. All fields are guarded by Server.mu.
type node struct {
	id fsyscall.NodeID // the kernel's number for it
	// wire is the client's number for it. It changes whenever the client was
	// told to forget: a number is never given twice, since messages on two
	// streams may overtake each other.
	wire fsyscall.NodeID
	link // the name by which the client is told of it; parent nil: it has none
	// more has the further names of a hard-linked file.
	more []link

	attr fsyscall.Attr
	// key is the client's own identity of the inode, which attr.Ino and Dev
	// are not while the session has made it up (see Server.provisionalIno).
	key   inodeKey
	until time.Time // attr may be used until then; zero: under lease
	// named is until for the entry that leads to it. The two are apart because
	// attributes may also come by an open file, whose name may be gone, and
	// because those of a directory are watched only if it is watched itself.
	named time.Time
	known bool // attr was ever received or made
	// asClient: attr, but for Ino, is as a look at the client last had it, and
	// the session has changed nothing since.
	asClient bool
	// changed is the number of the session's last change to it that was begun,
	// or answered. A look that was begun before may be older.
	changed uint64
	target  string // of a symbolic link, when hasLink
	hasLink bool
	xattrs  map[string]xattr // what is known of them; nil value: absent

	refs uint64 // the kernel's count of look-ups
	// lookedAgain is when the kernel last got an answer about a directory that it
	// knew already, in Unix nanoseconds; see notifier.again.
	lookedAgain int64
	attached    attachState
	pending     int // changes to it, or in it, that the client has not answered
	gen         uint64

	dir   *dirState // of a directory
	open  []*file
	gone  bool // its last name was removed
	err   syscall.Errno
	stdio *stdioNode
	// dirtyTimes: Mtime was made up by changes since it was last set.
	dirtyTimes bool
	dropped    bool
	locking    bool // a program has asked for a lock on it
	ours       bool // made by the session and not touched by anybody else since
	revoked    bool // while changes were on their way
	// fetching is closed when the content asked for ahead has come; guessed is
	// what it takes of the prefetcher's budget until it is used.
	fetching   chan struct{}
	guessed    int
	guessEpoch uint32
	// paged: the kernel has pages of it, as far as we know; paging is closed when
	// those that are on their way are there. See pages.go.
	paged  bool
	paging chan struct{}
	// used is what programs used of it, expect what they are likely to, and recent
	// what they used since it was last asked for again; see again.go.
	used, expect, recent fsyscall.UseWhat

	// mounts is the part of the tree of mount points at and below this
	// directory; nil for nearly all.
	mounts *mountPoint
	// synthetic: the client knows nothing of it.
	synthetic bool
}

// unleased is how long an answer without a lease may be kept.
const unleased = time.Second

func (n *node) isDir() bool { return n.attr.Mode&modeType == modeDir }

func (n *node) isRegular() bool { return n.attr.Mode&modeType == modeRegular }

// fresh tells whether n's attributes may be used without asking.
func (n *node) fresh(now time.Time) bool {
	if n.synthetic {
		return true
	}
	return n.known && (n.until.IsZero() || now.Before(n.until))
}

// nameFresh tells whether n's entry may be used.
func (n *node) nameFresh(now time.Time) bool {
	return n.synthetic || n.known && (n.named.IsZero() || now.Before(n.named))
}

// usable tells whether a look-up may be answered with n: it brings attributes,
// which a directory is asked for apart.
func (n *node) usable(now time.Time) bool { return n.isDir() || n.fresh(now) }

// path is the node's path in the view, for people.
func (n *node) path() string {
	if n.parent == nil {
		if n.id == fsyscall.RootNode {
			return "/"
		}
		return "(deleted)"
	}
	var parts []string
	for ; n.parent != nil; n = n.parent {
		parts = append(parts, n.name)
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(parts[i])
	}
	return b.String()
}

// newNode makes a node that the client is not told of yet. s.mu is held.
func (s *Server) newNode() *node {
	s.countNodes++
	id := s.newID()
	return &node{id: id, wire: id}
}

func (s *Server) newID() fsyscall.NodeID {
	s.lastNode++
	return fsyscall.NodeID(s.lastNode)
}

// told records that the client knows n by its number, from a message on via.
func (s *Server) told(n *node, via path) {
	bit := attachedUrgent
	if via == ordered {
		bit = attachedOrdered
	}
	n.attached |= bit
	s.wires[n.wire] = n
}

func (s *Server) newFileID() fsyscall.FileID {
	s.lastFile++
	return fsyscall.FileID(s.lastFile)
}

// provisionalBit marks inode numbers that the session made up for files whose
// creation the client has not answered. They stay for the session: a program
// that has seen an inode number must not see it change.
const provisionalBit = 1 << 62

func (s *Server) provisionalIno() uint64 {
	s.lastIno++
	return provisionalBit | s.lastIno
}

// place enters n as name in dir, in place of what was there.
func (s *Server) place(dir *node, name string, n *node) {
	d := dir.entries()
	if old := d.children[name]; old != nil && old != n {
		s.displace(dir, name)
	}
	d.children[name] = n
	delete(d.absent, name)
	delete(d.stale, name)
	if n.parent == nil {
		n.link = link{dir, name}
	} else if n.link != (link{dir, name}) {
		for _, l := range n.more {
			if l == (link{dir, name}) {
				return
			}
		}
		n.more = append(n.more, link{dir, name})
	}
}

// prefer makes l the name by which the client is told of n.
func (n *node) prefer(l link) {
	if n.link == l {
		return
	}
	for i := range n.more {
		if n.more[i] == l {
			n.more = append(n.more[:i], n.more[i+1:]...)
			break
		}
	}
	if n.parent != nil {
		n.more = append(n.more, n.link)
	}
	n.link = l
}

// displace removes the entry name from dir; the node loses that name.
func (s *Server) displace(dir *node, name string) *node {
	d := dir.entries()
	n := d.children[name]
	if n == nil {
		return nil
	}
	delete(d.children, name)
	delete(d.stale, name)
	l := link{dir, name}
	if n.link == l {
		n.link = link{}
		if len(n.more) > 0 {
			n.link = n.more[0]
			n.more = n.more[1:]
			s.renumber(n)
		}
	} else {
		for i := range n.more {
			if n.more[i] == l {
				n.more = append(n.more[:i], n.more[i+1:]...)
				break
			}
		}
	}
	s.drop(n)
	return n
}

// renumber is called when n lost the name by which the client was told of it
// but has another.
func (s *Server) renumber(n *node) {
	if n.pending == 0 {
		s.forget(n)
		return
	}
	// Changes that use the number are on their way: give it the other name
	// before the change that takes the first one away.
	if n.attached != 0 && s.attach(n.parent, ordered) == 0 {
		s.calls.attach(ordered, &fsyscall.Attach{Dir: n.parent.wire, Name: n.name, ID: n.wire, Ino: n.key.ino, Dev: n.key.dev})
	}
}

// drop forgets n if nothing refers to it any more.
func (s *Server) drop(n *node) {
	if n == s.root || n.refs > 0 || n.parent != nil || len(n.open) > 0 || n.pending > 0 {
		return
	}
	if n.dropped {
		return
	}
	n.dropped = true
	s.countNodes--
	if s.byInode[n.key] == n {
		delete(s.byInode, n.key)
	}
	s.content.remove(n)
	s.unguess(n)
	if n.dir != nil {
		for name := range n.dir.children {
			s.displace(n, name)
		}
	}
	delete(s.nodes, n.id)
	s.forget(n)
}

// forget takes the client's number for n back. While changes to n are on their
// way it is not called, so the notice overtakes no use of the number.
func (s *Server) forget(n *node) {
	if n.attached == 0 {
		return
	}
	s.calls.forget(n.wire, n.attached&attachedOrdered != 0)
	delete(s.wires, n.wire)
	n.wire = s.newID()
	n.attached = 0
	n.ours = false
	if n.dir != nil && !n.dropped {
		s.endLease(n)
	}
}

// forgetTree takes the client's numbers for n and all below it back: below a
// directory that may have moved, they may lead elsewhere. What has changes on
// their way keeps its number.
func (s *Server) forgetTree(n *node) {
	todo := []*node{n}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n.synthetic || n.pending > 0 || n.stdio != nil {
			continue
		}
		if n.dir != nil {
			for _, c := range n.dir.children {
				if c.attached != 0 || c.dir != nil {
					todo = append(todo, c)
				}
			}
		}
		if n != s.root {
			s.forget(n)
		}
	}
}

// endLease gives up what is known of a directory's entries: the client revokes
// by the number that it has been told to forget.
func (s *Server) endLease(n *node) {
	d, now := n.dir, time.Now()
	n.gen++
	n.until = now
	for name := range d.absent {
		s.notify.entry(n, name)
	}
	d.whole, d.absent, d.leased, d.until = false, nil, false, now
	for name, c := range d.children {
		if !c.synthetic && c.pending == 0 {
			c.until = now
			d.revoke(name)
			s.notify.again(n, name, c)
		}
	}
	if n.refs > 0 {
		s.notify.inode(n, false)
	}
}

// ref counts one look-up of n by the kernel.
func (s *Server) ref(n *node) {
	n.refs++
	s.nodes[n.id] = n
}

// Forget implements fuse.RawFileSystem.
func (s *Server) Forget(id, nlookup uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(id)]
	if n == nil || n == s.root {
		return
	}
	n.refs -= min(n.refs, nlookup)
	if n.refs > 0 {
		return
	}
	n.paged = false
	s.drop(n)
	if n.refs == 0 && n.parent != nil && n.attached != 0 && n.pending == 0 && len(n.open) == 0 && !n.isDir() {
		// It stays as an entry of its directory's listing, but the client need
		// not have a number for it.
		s.forget(n)
		delete(s.nodes, n.id)
	}
}

// attach makes sure that the client knows n by its number before a message on
// the stream via uses it. It reports ESTALE for a node without a name. s.mu
// is held.
func (s *Server) attach(n *node, via path) syscall.Errno {
	bit := attachedUrgent
	if via == ordered {
		bit = attachedOrdered
	}
	if n.attached&bit != 0 {
		return 0
	}
	if n.synthetic || n.parent == nil {
		if n.attached != 0 {
			return 0 // made by an ordered call, which this one follows
		}
		return syscall.ESTALE
	}
	errno := s.attach(n.parent, via)
	for range n.more {
		if errno == 0 {
			break
		}
		// The directory of this name is gone; that of another may not be.
		n.prefer(n.more[0])
		errno = s.attach(n.parent, via)
	}
	if errno != 0 {
		return errno
	}
	s.calls.attach(via, &fsyscall.Attach{Dir: n.parent.wire, Name: n.name, ID: n.wire, Ino: n.key.ino, Dev: n.key.dev})
	s.told(n, via)
	return 0
}

// via returns the stream for a call that looks at n: the ordered one while
// changes to it are on their way.
func (n *node) via() path { return path(n.pending > 0) }

// learn takes over attributes that a look at the client brought. s.mu is held.
func (s *Server) learn(n *node, a *fsyscall.Attr, leased bool) {
	if n.known && n.pending == 0 && (n.attr.Mtime != a.Mtime || n.attr.Size != a.Size || n.key != inodeKey{a.Dev, a.Ino} ||
		n.asClient && n.attr.Ctime != a.Ctime) {
		s.dataChanged(n)
	}
	s.setAttr(n, a, leased)
	n.asClient = n.pending == 0
}

// learnSince is learn for a look that was begun when since was s.changes. What
// the session has changed since is not made older by it.
func (s *Server) learnSince(n *node, a *fsyscall.Attr, leased bool, since uint64) {
	if n.known && (n.pending > 0 || n.changed > since) {
		return
	}
	s.learn(n, a, leased)
}

// setAttr takes over attributes that came from the client, among them those
// that follow from the session's own changes. s.mu is held.
func (s *Server) setAttr(n *node, a *fsyscall.Attr, leased bool) {
	s.identify(n, a)
	made := n.attr.Ino
	n.attr = *a
	if made&provisionalBit != 0 {
		n.attr.Ino = made
	} else {
		n.attr.Ino = s.visibleIno(a)
	}
	n.known, n.asClient = true, false
	if !n.isRegular() {
		n.dirtyTimes = false // the client's
	}
	n.until = time.Time{}
	if !leased || a.Flags&fsyscall.AttrUnwatched != 0 || n.isDir() && (n.dir == nil || !n.dir.leased) {
		n.until = time.Now().Add(s.unleased())
	}
}

// bind records that n was found by a name.
func (s *Server) bind(n *node, leased bool) {
	n.named = time.Time{}
	if !leased || s.cfg.Hello.NoCache {
		n.named = time.Now().Add(s.unleased())
	}
}

// identify records which inode of the client n is.
func (s *Server) identify(n *node, a *fsyscall.Attr) {
	key := inodeKey{a.Dev, a.Ino}
	if n.key == key {
		return
	}
	if s.byInode[n.key] == n {
		delete(s.byInode, n.key)
	}
	n.key = key
	if a.Mode&modeType == modeRegular {
		s.byInode[key] = n
	}
}

// visibleIno is the inode number that programs see: the client's own on the
// file system of the user's home, and elsewhere one that cannot be mistaken
// for such, because the whole view shows one device number.
func (s *Server) visibleIno(a *fsyscall.Attr) uint64 {
	if s.mainDev == 0 || a.Dev == s.mainDev {
		return a.Ino
	}
	return (a.Ino ^ a.Dev*0x9e3779b97f4a7c15) &^ provisionalBit
}

// touch records that the session changed n now: content or entries.
func (s *Server) touch(n *node, data bool) {
	t := s.clock.now()
	n.attr.Ctime, n.asClient = t, false
	if data {
		n.attr.Mtime = t
		s.untimed(n)
	}
}
