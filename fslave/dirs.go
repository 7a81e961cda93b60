package fslave

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// trustFor is how long a directory's descriptor is used without looking
// whether its name still leads to it. It bounds how long the server can go on
// working below a directory that someone else has moved out of the export.
const trustFor = time.Second

// dir is an open directory of the cache. A caller that got one gives it back
// with dirCache.put.
type dir struct {
	fd       int // O_PATH
	n        *node
	pos      position
	limit    Mode // the least that an inode on the way to it is limited to
	dev, ino uint64

	// Guarded by dirCache.mu.
	refs    int
	since   time.Time // when the whole way from the root was last looked at
	epoch   uint64    // dirCache.epoch then
	elem    *list.Element
	evicted bool
}

// mode is what the policy says of the directory itself.
func (d *dir) mode() Mode { return min(d.pos.effective(), d.limit) }

// dirCache keeps descriptors of directories, least recently used last.
type dirCache struct {
	mu  sync.Mutex
	by  map[*node]*dir
	lru *list.List // of *dir
	max int
	// epoch rises when directories have moved: nothing from before is used
	// without being looked at again.
	epoch atomic.Uint64
}

func newDirCache(max int) *dirCache {
	return &dirCache{by: map[*node]*dir{}, lru: list.New(), max: max}
}

// fresh returns n's directory if it can be used without looking.
func (c *dirCache) fresh(n *node, now time.Time) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.by[n]
	if d == nil || d.epoch != c.epoch.Load() || now.Sub(d.since) >= trustFor {
		return nil
	}
	d.refs++
	c.lru.MoveToFront(d.elem)
	return d
}

// lookedAt returns when the way to d was last looked at, or now if it is the
// root.
func (c *dirCache) lookedAt(d *dir, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.elem != nil && d.since.Before(now) {
		return d.since
	}
	return now
}

// stale returns n's directory, whatever its age.
func (c *dirCache) stale(n *node) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.by[n]
	if d != nil {
		d.refs++
	}
	return d
}

// add puts d, with one reference, in the place of what was kept for its node.
func (c *dirCache) add(d *dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.by[d.n]; old != nil {
		c.evict(old)
	}
	d.refs++
	c.by[d.n] = d
	d.elem = c.lru.PushFront(d)
	for e := c.lru.Back(); e != nil && c.lru.Len() > c.max; {
		prev := e.Prev()
		if o := e.Value.(*dir); o.refs == 0 {
			c.evict(o)
		}
		e = prev
	}
}

func (c *dirCache) put(d *dir) {
	if d.elem == nil {
		return // the root
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d.refs--
	if d.refs == 0 && d.evicted {
		unix.Close(d.fd)
	}
}

func (c *dirCache) evict(d *dir) {
	if d.evicted {
		return
	}
	d.evicted = true
	delete(c.by, d.n)
	c.lru.Remove(d.elem)
	if d.refs == 0 {
		unix.Close(d.fd)
	}
}

func (c *dirCache) drop(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.by[n]; d != nil {
		c.evict(d)
	}
}

func (c *dirCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.by {
		c.evict(d)
	}
}

// openDir returns the directory that n names.
func (s *Server) openDir(n *node) (*dir, error) {
	if n == s.nodes.root {
		return s.root, nil
	}
	now := time.Now()
	if d := s.dirs.fresh(n, now); d != nil {
		return d, nil
	}
	epoch := s.dirs.epoch.Load()
	nodes, names, err := s.nodes.chain(n)
	if err != nil {
		return nil, err
	}
	cur := s.root
	for i := len(nodes) - 1; i >= 0; i-- {
		next := s.dirs.fresh(nodes[i], now)
		if next == nil {
			next, err = s.stepInto(cur, nodes[i], names[i], now, epoch)
		}
		s.dirs.put(cur)
		if err != nil {
			return nil, err
		}
		cur = next
	}
	return cur, nil
}

// stepInto opens the directory that n names in parent, or makes sure that the
// one kept is still there.
func (s *Server) stepInto(parent *dir, n *node, name string, now time.Time, epoch uint64) (*dir, error) {
	pos := parent.pos.child(name)
	if min(pos.effective(), parent.limit) == ModeHide {
		return nil, unix.ENOENT
	}
	since := s.dirs.lookedAt(parent, now)
	if d := s.dirs.stale(n); d != nil {
		var st unix.Statx_t
		err := statAt(parent.fd, name, &st)
		if err == nil && st.Ino == d.ino && statDev(&st) == d.dev && d.pos == pos && d.limit == s.limitAt(parent, pos, &st) {
			s.dirs.mu.Lock()
			d.since, d.epoch = since, epoch
			s.dirs.mu.Unlock()
			return d, nil
		}
		s.dirs.drop(n)
		s.dirs.put(d)
	}
	fd, err := s.kernel.openPath(parent.fd, name)
	if err != nil {
		return nil, err
	}
	d, err := s.admitDir(fd, parent, n, pos)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	d.since, d.epoch = since, epoch // nobody else has it yet
	s.dirs.add(d)
	return d, nil
}

// admitDir checks what was opened against what n is known to be and against
// the policy.
func (s *Server) admitDir(fd int, parent *dir, n *node, pos position) (*dir, error) {
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		return nil, err
	}
	limit := s.limitAt(parent, pos, &st)
	if limit == ModeHide {
		return nil, unix.ENOENT
	}
	if err := s.nodes.found(n, statDev(&st), st.Ino); err != nil {
		return nil, err
	}
	if !isDir(&st) {
		return nil, unix.ENOTDIR
	}
	return &dir{fd: fd, n: n, pos: pos, limit: limit, dev: statDev(&st), ino: st.Ino}, nil
}

// limitAt is the mode that an inode found at pos in parent is limited to by
// what it is rather than by its path. A place with a rule of its own follows
// the rule.
func (s *Server) limitAt(parent *dir, pos position, st *unix.Statx_t) Mode {
	if pos.ruled() {
		return parent.limit
	}
	limit := min(parent.limit, s.policy.limit(st))
	if limit > ModeHide && st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		limit = min(limit, s.links.limit(st))
	}
	return limit
}
