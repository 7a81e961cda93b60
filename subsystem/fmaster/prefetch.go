package fmaster

import (
	"syscall"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Programs that read many small files (a search, a compiler, an archiver) read
// them directory by directory. When the second file in a row is wanted from the
// same neighbourhood, the others there are fetched before they are asked for.
//
// What a guess has fetched and nobody used is bounded by a budget that starts
// at firstBudget, doubles whenever a file of it is used, and is halved by a
// file that was wanted but not guessed: an unlucky guess costs at most that
// much of the link, and no waiting.
const (
	firstBudget = 256 << 10
	maxBudget   = 8 << 20
	maxGuesses  = 4096 // files in the queue
	guessLevels = 3    // directories above the file whose further entries are guessed
)

// The first file that a program wants from a directory brings its small
// neighbours, also those in the directories there: settings come in groups.
// Guesses that are not used make the next one smaller, so all of them together
// cost at most twice nearBudget until one is used.
const (
	nearBudget = 64 << 10
	nearLeast  = 4 << 10 // a smaller guess is not made
	nearSize   = 8 << 10 // of one neighbour
	nearFiles  = 32
)

// prefetcher is guarded by Server.mu.
type prefetcher struct {
	queue  []*node // files likely to be wanted next, in order
	budget int
	unused int
	epoch  uint32 // raised when a guess is given up, which writes off what it left unused
	dir    *node  // where the last file was wanted that had not been fetched
	misses int    // how many in a row near there
	spent  int    // how often nearBudget was halved
}

// wantedContent is called when a program opens a small file to read it; hit
// says that its content is here or on its way. s.mu is held.
func (s *Server) wantedContent(n *node, hit bool) {
	p := &s.prefetch
	if hit {
		if n.guessed > 0 {
			s.unguess(n)
			s.stats.fetchedUsed.Add(1)
			p.spent = 0
			p.budget = min(2*p.budget, maxBudget)
			s.pumpGuesses()
		}
		return
	}
	dir := n.parent
	if dir == nil || s.cfg.Hello.NoCache {
		return
	}
	near := p.dir != nil && adjacent(p.dir, dir)
	p.dir = dir
	if !near {
		p.misses, p.budget = 1, firstBudget
		s.guessNear(n)
		return
	}
	p.misses++
	p.budget = max(p.budget/2, firstBudget)
	if p.misses >= 2 {
		p.queue = p.queue[:0]
		p.epoch++
		p.unused = 0
		for at, up := n, 0; up < guessLevels && at.parent != nil && at.parent != s.root; at, up = at.parent, up+1 {
			s.guess(at.parent, at.name)
		}
		s.pumpGuesses()
	}
}

// adjacent tells whether a program that reads a tree in the order of its names
// may come from a file in one directory to one in the other: they are the same,
// or nothing that it would read first lies between them.
func adjacent(from, to *node) bool {
	up := from
	for range guessLevels {
		if up == to || to.parent == up {
			return true // up again, or down
		}
		if up.parent == nil {
			return false
		}
		for over, down := to, 0; over != nil && down < guessLevels; over, down = over.parent, down+1 {
			if over.parent == up.parent && over != up {
				return next(up, over)
			}
		}
		up = up.parent
	}
	return false
}

// next tells whether b is the directory after a among those of their parent.
func next(a, b *node) bool {
	if a.name >= b.name {
		return false
	}
	for name, c := range a.parent.dir.children {
		if name > a.name && name < b.name && c.isDir() {
			return false
		}
	}
	return true
}

// guessNear fetches the small files beside n and in the directories there.
func (s *Server) guessNear(n *node) {
	p := &s.prefetch
	p.queue = p.queue[:0]
	room := nearBudget >> p.spent
	if n.parent.synthetic || n.parent.mounts != nil || room < nearLeast {
		return
	}
	dirs := []*node{n.parent}
	for level := 0; level <= belowLevels && room > 0; level++ {
		var below []*node
		for _, dir := range dirs {
			if dir.dir == nil || !dir.dir.whole {
				continue
			}
			for _, c := range smallFiles(dir) {
				if room -= int(c.attr.Size); room < 0 {
					break
				}
				if c != n {
					p.queue = append(p.queue, c)
				}
			}
			if dirs := s.listable(dir); len(dirs) <= fanOut {
				below = append(below, dirs...)
			}
		}
		dirs = below
	}
	if len(p.queue) > 0 {
		p.spent++
		p.epoch++
		p.unused = 0
		s.pumpGuesses()
	}
}

// smallFiles returns the files in dir that are settings by their size, by
// name, and none if there are so many that they are a store.
func smallFiles(dir *node) []*node {
	files := dir.dir.sorted(func(_ string, c *node) bool {
		return c.isRegular() && c.attr.Size <= nearSize
	})
	if len(files) > nearFiles {
		return nil
	}
	return files
}

// unguess gives the room that an unused guess took of the budget back.
func (s *Server) unguess(n *node) {
	if n.guessEpoch == s.prefetch.epoch {
		s.prefetch.unused -= n.guessed
	}
	n.guessed = 0
}

// guess appends the files at and below dir that sort after name to the queue. It
// does not go down into stores.
func (s *Server) guess(dir *node, after string) {
	if dir.dir == nil || !dir.dir.whole || dir.synthetic || dir.mounts != nil {
		return
	}
	dirs := 0
	children := dir.dir.sorted(func(name string, c *node) bool {
		if c.isDir() {
			dirs++
		}
		return name > after
	})
	if after == "" && dirs > fanOut {
		return
	}
	for _, c := range children {
		if len(s.prefetch.queue) >= maxGuesses {
			return
		}
		switch c.attr.Mode & modeType {
		case modeRegular:
			s.prefetch.queue = append(s.prefetch.queue, c)
		case modeDir:
			s.guess(c, "")
		}
	}
}

// pumpGuesses fetches from the queue as far as the budget goes.
func (s *Server) pumpGuesses() {
	p := &s.prefetch
	for len(p.queue) > 0 && p.unused < p.budget {
		n := p.queue[0]
		p.queue = p.queue[1:]
		if n.dropped || n.parent == nil || n.pending > 0 || n.fetching != nil || !n.until.IsZero() || !n.known ||
			n.attr.Size == 0 || n.attr.Size > inlineMax || n.attr.Access&accessR == 0 || s.content.has(n) || s.inCache(n) {
			continue
		}
		s.fetch(n)
	}
}

// fetch asks for the content of n without waiting.
func (s *Server) fetch(n *node) {
	if s.attach(n, urgent) != 0 {
		return
	}
	size := int(n.attr.Size)
	ready := make(chan struct{})
	n.fetching, n.guessed, n.guessEpoch = ready, size, s.prefetch.epoch
	s.prefetch.unused += size
	s.stats.fetched.Add(1)
	gen := n.gen
	reply := &fsyscall.OpenReply{}
	s.calls.begin(urgent, fsyscall.OpFetch, &fsyscall.Fetch{ID: n.wire, Size: uint32(size) + 1}, &pendingCall{
		reply: reply,
		done: func(h fsyscall.Header, _ error) {
			s.mu.Lock()
			n.fetching = nil
			good := h.Errno == 0 && n.gen == gen && n.pending == 0 && len(reply.Data) <= size
			if good {
				s.learn(n, &reply.Attr, h.Leased || n.until.IsZero())
				s.takeContent(n, &reply.Attr, reply.Data)
			} else {
				s.unguess(n)
			}
			if syscall.Errno(h.Errno) == syscall.ESTALE && n.gen == gen {
				s.stale(n)
			}
			s.mu.Unlock()
			close(ready)
		},
	})
}
