package fmaster

import (
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// maxAhead bounds the entries of listings that were asked for before any
// program wanted them and that nobody has used yet: about 1.6 MB of answers.
// An unlucky guess costs no more than that, and no waiting. It holds for a walk
// of a tree that has been seen to begin. Before that, what lies below a
// directory in use is worth firstAhead entries, 800 kB, and more as such
// guesses are used.
const (
	maxAhead   = 16 << 10
	firstAhead = 8 << 10
)

// leastEntries is what a listing costs at least: it is a call, and a watch.
const leastEntries = 32

// belowLevels is how far below a directory that a program uses the listings are
// guessed: a path to a file there crosses several directories, each a round
// trip if it were asked for in its turn.
const belowLevels = 3

// fanOut is how many directories another may have for them to be guessed before
// any walk: what has more is a store rather than a tree to step into. There,
// those are guessed that are not named like the rest.
const fanOut = 64

// maxCut bounds the directories remembered because the budget ended within
// them.
const maxCut = 64

// assumedEntries is what a listing takes of the budget until it has come.
const assumedEntries = 64

// Prepare asks, in one flight and without waiting, for the directories on the
// way to p (an absolute path of the view) and for p itself, a directory that a
// command is about to use. With below it goes on to the directories in p.
func (s *Server) Prepare(p string, below bool) {
	if s.cfg.Hello.NoCache {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.root
	s.prepareOne(at)
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			break
		}
		m := at.mounts.child(name)
		if m != nil && m.mounted || !fsyscall.ValidName(name) {
			return // the server's own
		}
		next := at.entries().children[name]
		if next == nil {
			next = s.newNode()
			next.mounts = m
			s.place(at, name, next)
		}
		at = next
		s.prepareOne(at)
	}
	s.prepareFS(at)
	if below {
		at.entries().worked = true
		s.lookBelow(at, belowLevels)
	}
}

// expectPrefetched takes in what the client asks for in the session's stead.
// It must be called before any other number is given out.
func (s *Server) expectPrefetched(h *fsyscall.Hello) {
	dirs := fsyscall.PrefetchDirs(h.Prefetched)
	s.mu.Lock()
	defer s.mu.Unlock()
	nodes := make([]*node, len(dirs))
	for i, dir := range dirs {
		n := s.root
		if i > 0 {
			at := nodes[dir.Dir]
			n = s.newNode()
			n.mounts = at.mounts.child(dir.Name)
			s.told(n, urgent)
			if m := n.mounts; m == nil || !m.mounted {
				s.place(at, dir.Name, n)
			}
		}
		nodes[i] = n
		s.calls.expect(uint32(1+i), fsyscall.OpList, s.listing(n, nil))
	}
	asked, tag := fsyscall.PrefetchStdio(dirs, h.StdioAsked)
	for i, call := range asked {
		b, pending := s.newBinding()
		s.binding[stdioKey{call.Cmd, call.Slot}] = b
		s.calls.expect(tag+uint32(i), fsyscall.OpStdioNode, pending)
	}
}

func (s *Server) prepareOne(n *node) {
	if n.listingWanted() {
		s.list(n, listMax, nil)
	}
}

// listingWanted tells whether the listing of n is neither known nor on its way, nor
// too long to be asked for whole.
func (n *node) listingWanted() bool {
	d := n.entries()
	return !d.whole && d.listing == nil && !d.big && !n.synthetic
}

// wanted notes that a program needed the entries of dir from the client. The
// second directory with the same parent makes a walk of that likely, and the
// second such walk one of the directory above. A store is walked only if it is
// in the order of its names.
func (s *Server) wanted(dir *node) {
	for p := dir.parent; p != nil && p.dir != nil; dir, p = p, p.parent {
		before := p.dir.before
		p.dir.before = dir
		if len(p.dir.children) > fanOut && before != nil && (before.parent != p || !next(before, dir)) {
			return
		}
		p.dir.wanted++
		if p.dir.wanted < 2 || !p.dir.whole || p.synthetic || !p.mayBeTree() {
			return
		}
		s.listChildren(p, walk)
		if p.dir.wanted > 2 {
			return
		}
	}
}

// namedAhead bounds the listings, in entries, of directories of which a program
// has wanted nothing but their attributes, while nobody has used them.
const namedAhead = firstAhead / 4

// lease is called when a program uses the attributes of n. Those of a directory are
// good for a moment only, until it is listed: then they are under a lease, and the
// next use needs no question.
func (s *Server) lease(n *node) {
	if !n.isDir() || !n.known || n.until.IsZero() || n.mounts != nil || n.pending > 0 || !n.mayBeTree() || s.cfg.Hello.NoCache ||
		n.attr.Access&(accessR|accessX) != accessR|accessX || s.aheadUnused+assumedEntries > namedAhead {
		return
	}
	if n.listingWanted() {
		s.listAheadBy(inTurn, n, guess{levels: 1})
	}
}

// runAhead is called when a program reads the listing of n. If it has read that
// of the parent too, it is likely to read those of the other directories there,
// and of those below.
func (s *Server) runAhead(n *node) {
	d := n.dir
	d.shown = true
	s.used(n)
	if p := n.parent; p != nil && p.dir != nil && p.dir.shown {
		s.listChildren(p, walk)
		s.listChildren(n, walk)
	}
}

// used is called when a program uses the listing of n. If it was guessed, the
// guess goes on from there.
func (s *Server) used(n *node) {
	if n.dir.ahead > 0 {
		s.unused(n.dir)
		s.stats.aheadUsed.Add(1)
		s.resume()
		s.lookBelow(n, belowLevels)
	}
}

// unused gives the room that d took of the budget back.
func (s *Server) unused(d *dirState) {
	s.aheadUnused -= d.ahead
	d.ahead = 0
}

// lookBelow asks for the listings of the directories in dir, and of those in
// them, levels deep; now or when that of dir has come.
func (s *Server) lookBelow(dir *node, levels int) {
	d := dir.entries()
	switch {
	case d.listing != nil && !d.whole:
		d.below = max(d.below, levels)
	case d.whole && levels > 0 && !dir.synthetic && len(d.children) > 0 && dir.mayBeTree():
		s.listChildren(dir, guess{
			levels: levels, fanOut: fanOut,
			budget: min(firstAhead+assumedEntries*int(s.stats.aheadUsed.Load()), maxAhead),
		})
	}
}

// mayBeTree tells whether n may be a tree that somebody works in, or a part of
// one. The root and what is in it (/tmp, /home) bring together what has nothing
// to do with each other, unless somebody works right there.
func (n *node) mayBeTree() bool {
	return n.parent != nil && (n.parent.parent != nil || n.dir != nil && n.dir.worked) && !n.system()
}

// system tells whether n is in a tree where what is installed lies. Programs go
// to files there by name, and each directory has very many others.
func (n *node) system() bool {
	for n.parent != nil && n.parent.parent != nil {
		n = n.parent
	}
	switch n.name {
	case "usr", "bin", "sbin", "etc", "opt", "var":
		return true
	}
	return strings.HasPrefix(n.name, "lib")
}

// guess says how far a run-ahead of listings goes.
type guess struct {
	levels int // of directories
	fanOut int // directories in one
	budget int // entries, of this and all other unused guesses
}

// below is how the guess goes on in a directory that no program has read yet:
// what has very many directories may be a store.
func (g guess) below() guess {
	return guess{g.levels - 1, min(g.fanOut, fanOut), g.budget}
}

// walk is the guess that a program will read a whole tree.
var walk = guess{levels: 1 << 30, fanOut: 1 << 30, budget: maxAhead}

// listChildren asks for the listings of dir's directories, as far as the guess
// goes, and as they come for those below.
func (s *Server) listChildren(dir *node, g guess) {
	if dir.synthetic || s.cfg.Hello.NoCache || dir.pending > 0 || g.levels == 0 || dir.dir.walked >= g.fanOut || dir.dir.cut {
		return
	}
	dirs := s.listable(dir)
	if len(dirs) > g.fanOut {
		dirs = oddlyNamed(dirs)
	}
	below := g.below()
	for _, c := range dirs {
		if s.countNodes > guessNodes {
			return
		}
		if s.aheadUnused+assumedEntries > g.budget {
			if len(s.cut) < maxCut {
				s.cut = append(s.cut, cutGuess{dir, g})
				dir.dir.cut = true
			}
			return
		}
		if c.entries().whole {
			s.listChildren(c, below)
		} else {
			s.listAhead(c, g)
		}
	}
	if g.levels > belowLevels {
		dir.dir.walked = g.fanOut // of a walk, which comes by for each directory
	}
}

// listable returns the directories in dir whose listings are there or could be
// asked for, by name: the ones with a dot, where tools keep their state, come
// first.
func (s *Server) listable(dir *node) []*node {
	return dir.dir.sorted(func(_ string, c *node) bool {
		if !c.isDir() || c.synthetic || c.mounts != nil || c.pending > 0 || c.attr.Access&(accessR|accessX) != accessR|accessX {
			return false
		}
		d := c.entries()
		return !d.big && d.listing == nil
	})
}

// oddlyNamed returns the directories whose names are not as long as most: a
// store names what it stores alike, and what is about it otherwise.
func oddlyNamed(dirs []*node) []*node {
	count := make(map[int]int)
	most := 0
	for _, c := range dirs {
		n := len(c.name)
		if count[n]++; count[n] > count[most] {
			most = n
		}
	}
	odd := slices.DeleteFunc(dirs, func(c *node) bool { return len(c.name) == most })
	if len(odd) > fanOut {
		return nil
	}
	return odd
}

// cutGuess is a guess that the budget ended.
type cutGuess struct {
	dir *node
	g   guess
}

// resume goes on with a guess for which there is room again.
func (s *Server) resume() {
	for len(s.cut) > 0 && s.aheadUnused <= s.cut[0].g.budget/2 {
		c := s.cut[0]
		s.cut = s.cut[1:]
		if c.dir.dir == nil {
			continue
		}
		c.dir.dir.cut = false
		if !c.dir.dropped && c.dir.dir.whole {
			s.listChildren(c.dir, c.g)
		}
	}
}

// listAhead asks for the listing of c, and goes on below when it comes.
func (s *Server) listAhead(c *node, g guess) { s.listAheadBy(c.via(), c, g) }

func (s *Server) listAheadBy(via path, c *node, g guess) {
	d := c.entries()
	s.aheadUnused += assumedEntries
	d.ahead = assumedEntries
	s.stats.ahead.Add(1)
	s.listBy(via, c, listMax, func(l listed) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.ahead > 0 {
			cost := max(len(l.entries), leastEntries)
			s.aheadUnused += cost - d.ahead
			d.ahead = cost
			if l.errno != 0 || !d.whole {
				s.unused(d)
			}
		}
		if d.whole {
			s.listChildren(c, g.below())
		}
		s.resume()
	})
}

// trim takes at least want entries that nothing refers to out of the tree.
func (s *Server) trim(want int) {
	for _, n := range s.wires {
		if want <= 0 {
			return
		}
		if n.dir == nil || n.synthetic || n.pending > 0 || n.dir.listing != nil || !disposable(n.dir) {
			continue
		}
		want -= len(n.dir.children)
		s.unused(n.dir)
		n.dir.whole = false
		for name := range n.dir.children {
			s.displace(n, name)
		}
	}
}

func disposable(d *dirState) bool {
	for _, c := range d.children {
		if c.refs > 0 || c.pending > 0 || len(c.open) > 0 || c.dir != nil || c.synthetic {
			return false
		}
	}
	return len(d.children) > 0
}
