package fslave

import (
	"container/list"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Leases rest on inotify: a directory is watched before it is looked at for a
// leased answer, and every event in it that is not the server's own doing is
// sent to the server as a revocation.
//
// # Telling own changes from others
//
// The kernel queues an event before the system call that causes it returns.
// So each change that the server asks for is bracketed:
//
//	begin   everything queued is taken: it came before and is foreign
//	change  the call says which events it will cause, then causes them
//	end     everything queued is taken: what the call said is swallowed,
//	        all else is foreign
//
// Events taken by the watcher's goroutine in between are judged the same way.
// Nothing is compared by time or by state, so the granularity of timestamps
// does not matter, and an event cannot be swallowed before or after the
// bracket. A call that failed has caused nothing: what was swallowed for it is
// foreign after all.
//
// What remains: a local program that, within the microseconds of a bracket,
// causes on the same name an event of the very kind the call causes. For a
// name made, removed or moved the second of the two fails, or undoes the
// first and so causes another kind. For content, a foreign write(2) into a
// file within the server's own write of it is swallowed; the foreign writer's
// close(2), or its next write, is not (closing is another kind of event), so
// the server hears of it then.
//
// What inotify does not say at all: stores through a shared mapping, until
// the file is closed; changes made on another machine to a network file system.
// Changes by way of another name of the inode outside of watched directories
// take a watch of the inode; where there is none, AttrUnwatched says so.

const (
	inCreate = unix.IN_CREATE
	inDelete = unix.IN_DELETE
	inMove   = unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	inAttr   = unix.IN_ATTRIB
	inData   = unix.IN_MODIFY
	inClose  = unix.IN_CLOSE_WRITE
	inSelf   = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

	// IN_EXCL_UNLINK: what happens to a file that has lost its name is not
	// told under a name that may be another's by now.
	inWatched = inCreate | inDelete | inMove | inAttr | inData | inClose | inSelf |
		unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK
)

// watched is a directory with a watch. Several nodes may name one.
type watched struct {
	wd    int32
	nodes []*node
	elem  *list.Element
}

// watcher has the watches of a Server. Its methods are safe for concurrent
// use.
type watcher struct {
	s      *Server
	fd     int // of inotify; -1: no watches
	stopFD int // of an eventfd that ends run

	mu      sync.Mutex
	byWD    map[int32]*watched
	byNode  map[*node]*watched
	lru     *list.List // of *watched, least recently used last
	max     int        // of both kinds
	inodes  map[int32]*watchedInode
	inodeAt map[*node]map[string]*watchedInode // by directory and name
	changes []*ownChange
	moves   []move // of which the first half was seen
	buf     []byte
	seen    map[seenKey]bool // in what is in buf
	queue   *revocations

	wg sync.WaitGroup
}

// seenKey names work that repeated events need only once: all of them had
// happened before the first was looked at.
type seenKey struct{ from, to place }

// move is the first half of a rename. The second comes next in the queue or
// not at all, when the name has left the watched directories.
type move struct {
	cookie uint32
	from   place
}

// newWatcher returns a watcher, one that never watches where the kernel has
// no inotify to give.
func newWatcher(s *Server) *watcher {
	w := &watcher{
		s: s, fd: -1, byWD: map[int32]*watched{}, byNode: map[*node]*watched{}, lru: list.New(),
		inodes: map[int32]*watchedInode{}, inodeAt: map[*node]map[string]*watchedInode{},
		max: s.cfg.MaxWatches, buf: make([]byte, 64<<10), seen: map[seenKey]bool{},
	}
	w.queue = newRevocations(s)
	if w.max <= 0 {
		w.max = watchLimit()
	}
	if s.cfg.NoWatch {
		return w
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		s.stats.watchesFailed.Add(1)
		return w
	}
	if w.stopFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		unix.Close(fd)
		s.stats.watchesFailed.Add(1)
		return w
	}
	w.fd = fd
	return w
}

// watchLimit is a quarter of what the user may have, so that four sessions fit
// before one of them meets the limit; a watch holds some 1 KiB of kernel memory.
func watchLimit() int {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches")
	n, err2 := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || err2 != nil {
		return 2048
	}
	return min(max(n/4, 128), 1<<18)
}

func (w *watcher) start() {
	w.wg.Go(w.queue.run)
	if w.fd < 0 {
		return
	}
	fd := w.fd // stop changes it
	w.wg.Go(func() { w.run(fd) })
}

// drainPause is how long the watcher's goroutine leaves events alone after it
// has taken some. The brackets take those of own changes meanwhile, and a
// stream of changes does not wake it for each.
const drainPause = time.Millisecond

// run takes events as they come, until stop. It waits in poll(2) rather than in
// the runtime's poller, which would be woken by every event.
func (w *watcher) run(fd int) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(w.stopFD), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || fds[1].Revents != 0:
			return
		}
		w.mu.Lock()
		w.drain()
		w.mu.Unlock()
		time.Sleep(drainPause)
	}
}

func (w *watcher) stop() {
	w.mu.Lock()
	fd := w.fd
	w.fd = -1
	w.mu.Unlock()
	if fd >= 0 {
		_, _ = unix.Write(w.stopFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	w.queue.stop()
	w.wg.Wait()
	if fd >= 0 {
		unix.Close(fd)
		unix.Close(w.stopFD)
	}
}

// covered tells whether d is watched.
func (w *watcher) covered(d *dir) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byNode[d.n] != nil
}

// cover sees to it that d is watched, and tells whether it is. What is looked
// at in d afterwards may be leased.
func (w *watcher) cover(d *dir) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byNode[d.n]; x != nil {
		w.lru.MoveToFront(x.elem)
		return true
	}
	if w.fd < 0 || !w.s.nodes.isNamed(d.n) {
		return false // a revocation would name what the server does not know
	}
	if w.lru.Len() > 0 && w.lru.Len()+len(w.inodes) >= w.max {
		w.giveUp(w.lru.Back().Value.(*watched))
		w.s.stats.dropped.Add(1)
	}
	wd, err := unix.InotifyAddWatch(w.fd, procPath(d.fd), inWatched)
	if err != nil {
		w.s.stats.watchesFailed.Add(1)
		return false
	}
	x := w.byWD[int32(wd)]
	if x == nil {
		x = &watched{wd: int32(wd)}
		x.elem = w.lru.PushFront(x)
		w.byWD[x.wd] = x
	}
	x.nodes = append(x.nodes, d.n)
	w.byNode[d.n] = x
	return true
}

// giveUp ends a watch for the sake of another. The server hears of it first.
func (w *watcher) giveUp(x *watched) {
	for _, n := range x.nodes {
		w.queue.add(n.id, "", fsyscall.RevokeTree)
	}
	w.queue.flush()
	w.remove(x)
}

func (w *watcher) remove(x *watched) {
	for _, n := range x.nodes {
		delete(w.byNode, n)
		w.uncoverAll(n)
	}
	delete(w.byWD, x.wd)
	w.lru.Remove(x.elem)
	if w.fd >= 0 {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(x.wd)) // it may be gone already
	}
}

// forget ends the watch of a node that the server has forgotten.
func (w *watcher) forget(n *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.detach(n)
}

func (w *watcher) detach(n *node) {
	x := w.byNode[n]
	if x == nil {
		return
	}
	if len(x.nodes) == 1 {
		w.remove(x)
		return
	}
	delete(w.byNode, n)
	w.uncoverAll(n)
	for i, m := range x.nodes {
		if m == n {
			x.nodes = append(x.nodes[:i], x.nodes[i+1:]...)
			break
		}
	}
}

// watchNode covers the directory that id's name is in.
func (c *call) watchNode(id fsyscall.NodeID) bool {
	n, err := c.getNode(id)
	if err != nil {
		return false
	}
	parent := n
	if n != c.s.nodes.root {
		if parent = c.s.nodes.parent(n); parent == nil {
			return false
		}
	}
	return c.s.coverNode(parent)
}

func (s *Server) coverNode(n *node) bool {
	s.watch.mu.Lock()
	known := s.watch.byNode[n]
	if known != nil {
		s.watch.lru.MoveToFront(known.elem)
	}
	s.watch.mu.Unlock()
	if known != nil {
		return true
	}
	d, err := s.openDir(n)
	if err != nil {
		return false
	}
	defer s.dirs.put(d)
	return s.watch.cover(d)
}

// watchFile covers the directory of a file that is read.
func (s *Server) watchFile(f *file) bool {
	at, sure := s.nodes.where(f.n)
	return sure && s.coverNode(at.parent)
}

// fileCovered tells whether the directory of a file that was changed is
// watched.
func (s *Server) fileCovered(f *file) bool {
	at, sure := s.nodes.where(f.n)
	if !sure {
		return false
	}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return s.watch.byNode[at.parent] != nil
}

// coverNew covers a directory that the session has just made, so that it is
// known to be empty.
func (s *Server) coverNew(n *node) bool {
	d, err := s.openDir(n)
	if err != nil {
		return false
	}
	defer s.dirs.put(d)
	if !s.watch.cover(d) {
		return false
	}
	// Someone may have been quicker.
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var buf [256]byte
	size, err := unix.Getdents(fd, buf[:])
	return err == nil && size <= 48 // "." and ".." take 24 bytes each
}

// ownChange is a change that the server asked for, while it is made.
type ownChange struct {
	w         *watcher
	expected  []expected
	swallowed []event
}

// expected are events that an own change causes.
type expected struct {
	n    *node // the watched directory
	name string
	mask uint32
}

// begin starts a bracket. It returns nil where nothing is watched.
func (w *watcher) begin() *ownChange {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 || len(w.byWD) == 0 {
		return nil
	}
	w.drain()
	o := &ownChange{w: w}
	w.changes = append(w.changes, o)
	return o
}

// end ends a bracket.
func (o *ownChange) end(done bool) {
	if o == nil {
		return
	}
	w := o.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drain()
	for i, x := range w.changes {
		if x == o {
			w.changes = append(w.changes[:i], w.changes[i+1:]...)
			break
		}
	}
	if !done {
		clear(w.seen)
		for _, e := range o.swallowed {
			w.foreign(e)
		}
	}
}

func (o *ownChange) expect(e ...expected) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.expected = append(o.expected, e...)
}

// entry says that the change causes events for a name.
func (o *ownChange) entry(at place, mask uint32) {
	if o != nil {
		o.expect(expected{at.parent, at.name, mask})
	}
}

// names says that the change causes events for every name of n.
func (o *ownChange) names(n *node, mask uint32) {
	if o == nil {
		return
	}
	for _, at := range o.w.s.nodes.places(n) {
		o.expect(expected{at.parent, at.name, mask})
	}
}

// self says that the change causes events of the directory n itself.
func (o *ownChange) self(n *node, mask uint32) {
	if o != nil {
		o.expect(expected{n, "", mask})
	}
}

// inode is self for every node at a place, which loses that name: a file's
// other names show it too, where the inode is watched.
func (o *ownChange) inode(at place, mask uint32) {
	if o == nil {
		return
	}
	for _, n := range o.w.s.nodes.nodesAt(at) {
		o.expect(expected{n, "", mask})
		o.names(n, inAttr)
	}
}

// queueDelay is how long revocations wait for others to go with.
const queueDelay = 2 * time.Millisecond
