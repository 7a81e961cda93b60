package fslave

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const (
	// maxDepth bounds the way from a node to the root. Linux lets trees be
	// deeper; no program that is not a test makes one.
	maxDepth = 4096
	// maxAlts bounds the further names remembered of an inode.
	maxAlts = 16
)

// place is a name in a directory.
type place struct {
	parent *node
	name   string
}

// node is what a NodeID names. All fields but id are guarded by nodeTable.mu.
type node struct {
	id    fsyscall.NodeID
	place place   // parent nil: the root, a stdio node, or gone
	alts  []place // further names given by Link or a second Attach
	// dev and ino are those recorded; zero ino is not yet known.
	dev, ino uint64
	kids     int  // nodes whose place is in this one
	pins     int  // calls under way that use it
	named    bool // the server has not forgotten it
	gone     bool // no place leads to it any more
	doubt    bool // someone has changed its name since it was found there
	stdio    *stdioFile
	files    []*file // open on it, for when no place leads to it
	// pending is closed when the lookup that names the node has ended; err is
	// its result. Nil: long ended.
	pending chan struct{}
	err     error
}

// nodeTable holds the names that the server has given.
type nodeTable struct {
	mu   sync.RWMutex
	root *node
	byID map[fsyscall.NodeID]*node
	// at has the nodes at a place. More than one is rare: a name that was
	// replaced by someone else and then looked up again.
	at    map[place][]*node
	count int // nodes alive, forgotten parents included
	max   int
}

func newNodeTable(max int) *nodeTable {
	root := &node{id: fsyscall.RootNode, named: true}
	return &nodeTable{
		root: root, max: max, count: 1,
		byID: map[fsyscall.NodeID]*node{fsyscall.RootNode: root},
		at:   map[place][]*node{},
	}
}

// pin returns the node that id names, whether or not the lookup that names it
// has ended, and keeps it although it be forgotten, until unpin.
func (t *nodeTable) pin(id fsyscall.NodeID) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil {
		return nil, unix.ESTALE
	}
	n.pins++
	return n, nil
}

func (t *nodeTable) unpin(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.pins--
	t.reap(n)
}

// ready waits for the lookup that names n.
func (t *nodeTable) ready(n *node) error {
	t.mu.RLock()
	pending := n.pending
	err := n.err
	t.mu.RUnlock()
	if pending == nil {
		return err
	}
	<-pending
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.err
}

// peek returns the node that id names, whether or not the lookup that names it
// has ended.
func (t *nodeTable) peek(id fsyscall.NodeID) (*node, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n := t.byID[id]; n != nil {
		return n, nil
	}
	return nil, unix.ESTALE
}

// attach lets id name the place. A node that is known keeps its identity; the
// place becomes a further name of it.
func (t *nodeTable) attach(dir fsyscall.NodeID, name string, id fsyscall.NodeID, dev, ino uint64) error {
	parent, err := t.peek(dir)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := place{parent, name}
	if n := t.byID[id]; n != nil {
		if n != t.root && n.stdio == nil && n.place != at && n.ino != 0 && n.ino == ino && n.dev == dev {
			t.addAlt(n, at)
		}
		return nil
	}
	_, err = t.add(id, at, dev, ino)
	return err
}

// add makes a node. The caller holds mu.
func (t *nodeTable) add(id fsyscall.NodeID, at place, dev, ino uint64) (*node, error) {
	if id == 0 {
		return nil, unix.EINVAL
	}
	if t.count >= t.max {
		return nil, unix.ENFILE
	}
	n := &node{id: id, dev: dev, ino: ino, named: true}
	t.byID[id] = n
	t.count++
	t.put(n, at)
	return n, nil
}

// put gives n its place. The caller holds mu.
func (t *nodeTable) put(n *node, at place) {
	n.place, n.gone = at, at.parent == nil
	if at.parent != nil {
		at.parent.kids++
		t.at[at] = append(t.at[at], n)
	}
}

// reap drops n, and then its parents, where neither the server nor a node
// below needs it.
func (t *nodeTable) reap(n *node) {
	for n != nil && !n.named && n.kids == 0 && n.pins == 0 && n != t.root {
		parent := t.drop(n)
		n = parent
	}
}

// drop forgets n and returns its parent, which may have to be reaped.
func (t *nodeTable) drop(n *node) *node {
	for _, at := range n.alts {
		t.removeAt(n, at)
	}
	n.alts = nil
	t.count--
	n.named = true // reaped once
	at := n.place
	if at.parent == nil {
		return nil
	}
	n.place, n.gone = place{}, true
	t.unindex(n, at)
	return at.parent
}

// forget takes names back and returns the nodes they named.
func (t *nodeTable) forget(ids []fsyscall.NodeID) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*node
	for _, id := range ids {
		n := t.byID[id]
		if n == nil || n == t.root {
			continue
		}
		delete(t.byID, id)
		if n.stdio != nil {
			n.stdio.close()
		}
		n.named = false
		t.reap(n)
		out = append(out, n)
	}
	return out
}

// found records who was met at n. It fails with ESTALE where that is not who
// was met before.
func (t *nodeTable) found(n *node, dev, ino uint64) error {
	t.mu.RLock()
	known, same, doubt := n.ino != 0, n.ino == ino && n.dev == dev, n.doubt
	t.mu.RUnlock()
	switch {
	case known && !same:
		return unix.ESTALE
	case known && !doubt:
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n.doubt = false
	if n.ino == 0 {
		n.dev, n.ino = dev, ino
	} else if n.ino != ino || n.dev != dev {
		return unix.ESTALE
	}
	return nil
}

// chain returns the nodes on the way from n up to the root, which is left out,
// and their names.
func (t *nodeTable) chain(n *node) ([]*node, []string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var nodes []*node
	var names []string
	for m := n; m != t.root; m = m.place.parent {
		if m.stdio != nil {
			return nil, nil, unix.EACCES // handed over alone, without what is in it
		}
		if m.place.parent == nil {
			return nil, nil, unix.ESTALE
		}
		if len(nodes) == maxDepth {
			return nil, nil, unix.ENAMETOOLONG
		}
		nodes = append(nodes, m)
		names = append(names, m.place.name)
	}
	return nodes, names, nil
}

// where returns the place of n, with a nil parent where it has none, and
// whether n is known to be there still.
func (t *nodeTable) where(n *node) (at place, sure bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.place, n.place.parent != nil && !n.doubt
}

func (t *nodeTable) parent(n *node) *node {
	at, _ := t.where(n)
	return at.parent
}

// isNamed tells whether the server has a number for n.
func (t *nodeTable) isNamed(n *node) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.named && t.byID[n.id] == n
}

// reserve makes id name the place before the lookup of it has been made, so
// that calls which come next can wait for it. It returns nil where id is known
// already.
func (t *nodeTable) reserve(parent *node, name string, id fsyscall.NodeID) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] != nil {
		return nil, nil
	}
	n, err := t.add(id, place{parent, name}, 0, 0)
	if err != nil {
		return nil, err
	}
	n.pending = make(chan struct{})
	return n, nil
}

// settle ends what reserve began.
func (t *nodeTable) settle(n *node, err error) {
	t.mu.Lock()
	close(n.pending)
	n.pending, n.err = nil, err
	if err != nil && t.byID[n.id] == n {
		delete(t.byID, n.id)
		n.named = false
		t.reap(n)
	}
	t.mu.Unlock()
}

// bind lets id name the inode just made or found at a place, whatever it
// named before.
func (t *nodeTable) bind(parent *node, name string, id fsyscall.NodeID, dev, ino uint64) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := place{parent, name}
	n := t.byID[id]
	if n == nil {
		return t.add(id, at, dev, ino)
	}
	if n == t.root || n.stdio != nil || n.pending != nil || t.below(parent, n) {
		return nil, unix.EINVAL
	}
	if n.place != at {
		for _, alt := range n.alts {
			t.removeAt(n, alt)
		}
		n.alts = nil
		old := n.place
		t.put(n, at)
		if old.parent != nil {
			t.removeAt(n, old)
		}
	}
	n.dev, n.ino = dev, ino
	return n, nil
}

// bindNameless lets id name an inode that no name leads to.
func (t *nodeTable) bindNameless(id fsyscall.NodeID, dev, ino uint64, stdio *stdioFile) (*node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] != nil {
		return nil, unix.EINVAL
	}
	n, err := t.add(id, place{}, dev, ino)
	if err != nil {
		return nil, err
	}
	n.stdio = stdio
	return n, nil
}

// closeStdio closes the descriptors of standard streams.
func (t *nodeTable) closeStdio() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.byID {
		if n.stdio != nil {
			n.stdio.close()
		}
	}
}
