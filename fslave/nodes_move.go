package fslave

import "slices"

// How names come, go and move. The tree of nodes is kept in step with what the
// server does, and with moves of others that are known at both ends.

// A directory may have several nodes: the server takes a number back and gives
// another one, while the nodes below that have changes on their way stay below
// the first. What happens to a name in one of them happens in all.

// same returns the places that are the same name in the same directory as at, with
// that itself. The caller holds mu.
func (t *nodeTable) same(at place) []place {
	dirs := t.twins(at.parent)
	places := make([]place, len(dirs))
	for i, d := range dirs {
		places[i] = place{d, at.name}
	}
	return places
}

// twins returns the nodes that stand for the directory d, which is the first.
func (t *nodeTable) twins(d *node) []*node {
	dirs := []*node{d}
	if d == t.root || d.place.parent == nil || d.ino == 0 {
		return dirs
	}
	for _, at := range t.same(d.place) {
		for _, m := range t.at[at] {
			if m != d && m.ino == d.ino && m.dev == d.dev {
				dirs = append(dirs, m)
			}
		}
	}
	return dirs
}

func (t *nodeTable) addAlt(n *node, at place) {
	for _, old := range n.alts {
		if old == at {
			return
		}
	}
	if n.gone && n.stdio == nil {
		t.put(n, at)
		return
	}
	if len(n.alts) == maxAlts {
		t.removeAt(n, n.alts[0])
		n.alts = n.alts[1:]
	}
	n.alts = append(n.alts, at)
	at.parent.kids++
	t.at[at] = append(t.at[at], n)
}

// removeAt takes n out of the index, and its directory out of the table if
// nothing needs it any more. The caller holds mu.
func (t *nodeTable) removeAt(n *node, at place) {
	t.unindex(n, at)
	t.reap(at.parent)
}

// unindex takes n out of the index alone. The caller holds mu.
func (t *nodeTable) unindex(n *node, at place) {
	list := t.at[at]
	for i, m := range list {
		if m == n {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(t.at, at)
	} else {
		t.at[at] = list
	}
	at.parent.kids--
}

// leave takes the place at from n; a further name takes over, or n is gone.
func (t *nodeTable) leave(n *node, at place) {
	if n.place != at {
		for i, alt := range n.alts {
			if alt == at {
				n.alts = append(n.alts[:i], n.alts[i+1:]...)
				t.removeAt(n, at)
				return
			}
		}
		return
	}
	if len(n.alts) > 0 {
		n.place = n.alts[0]
		n.alts = n.alts[1:]
	} else {
		n.place, n.gone = place{}, true
	}
	t.removeAt(n, at)
}

// unlinked notes that the name at a place is gone.
func (t *nodeTable) unlinked(at place) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*node
	for _, at := range t.same(at) {
		list := append([]*node(nil), t.at[at]...)
		for _, n := range list {
			t.leave(n, at)
		}
		all = append(all, list...)
	}
	return all
}

// renamed moves the nodes at a place, and with them all below, to another,
// whose own nodes lose that name or, with exchange, get the other one.
func (t *nodeTable) renamed(from, to place, exchange bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	froms, tos := t.same(from), t.same(to)
	if slices.Contains(tos, from) {
		return
	}
	moving := make([][]*node, len(froms))
	for i, from := range froms {
		moving[i] = append([]*node(nil), t.at[from]...)
	}
	for _, to := range tos {
		for _, n := range append([]*node(nil), t.at[to]...) {
			if exchange {
				t.moveTo(n, to, from)
			} else {
				t.leave(n, to)
			}
		}
	}
	for i, from := range froms {
		for _, n := range moving[i] {
			t.moveTo(n, from, to)
		}
	}
}

func (t *nodeTable) moveTo(n *node, from, to place) {
	if t.below(to.parent, n) {
		// The kernel would not have done it: the table is out of date.
		t.leave(n, from)
		return
	}
	if n.place == to || slices.Contains(n.alts, to) {
		t.leave(n, from)
		return
	}
	to.parent.kids++
	t.at[to] = append(t.at[to], n)
	if n.place == from {
		n.place = to
	} else {
		for i := range n.alts {
			if n.alts[i] == from {
				n.alts[i] = to
			}
		}
	}
	t.removeAt(n, from)
}

// below tells whether n is dir or lies below it.
func (t *nodeTable) below(n, dir *node) bool {
	for range maxDepth {
		if n == dir {
			return true
		}
		if n == nil || n.place.parent == nil {
			return false
		}
		n = n.place.parent
	}
	return true
}

// doubt notes that someone else has changed what a place leads to, and returns
// the nodes there.
func (t *nodeTable) doubt(at place) []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.allAt(at)
	for _, n := range all {
		n.doubt = true
	}
	return all
}

// allAt returns the nodes at a place. The caller holds mu.
func (t *nodeTable) allAt(at place) []*node {
	var all []*node
	for _, at := range t.same(at) {
		all = append(all, t.at[at]...)
	}
	return all
}

// leads tells whether nodes have their place in n.
func (t *nodeTable) leads(n *node) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.kids > 0
}

// followed moves the nodes of one inode that someone else has moved.
func (t *nodeTable) followed(from, to place, id inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.same(to), from) {
		return
	}
	for _, from := range t.same(from) {
		for _, n := range append([]*node(nil), t.at[from]...) {
			if n.dev == id.dev && n.ino == id.ino {
				t.moveTo(n, from, to)
			}
		}
	}
}

// nodesAt returns the nodes at a place.
func (t *nodeTable) nodesAt(at place) []*node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.allAt(at)
}

// places returns every name that n is known by.
func (t *nodeTable) places(n *node) []place {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n.place.parent == nil {
		return nil
	}
	return append([]place{n.place}, n.alts...)
}

// addName gives n a further name.
func (t *nodeTable) addName(n *node, at place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.place != at {
		t.addAlt(n, at)
	}
}
