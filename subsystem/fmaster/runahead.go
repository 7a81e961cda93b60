package fmaster

import (
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// maxAhead bounds the entries of listings that were asked for before any
// program wanted them and that nobody has used yet: about 1.6 MB of answers.
// An unlucky guess costs no more than that, and no waiting.
const maxAhead = 16 << 10

// assumedEntries is what a listing takes of the budget until it has come.
const assumedEntries = 64

// Prepare asks, in one flight and without waiting, for the directories on the
// way to p (an absolute path of the view) and for p itself: the working
// directory of a command that is about to start.
func (s *Server) Prepare(p string) {
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
}

// expectPrefetched takes in what the client asks for in the session's stead.
// It must be called before any other number is given out.
func (s *Server) expectPrefetched(p string) {
	names := fsyscall.PrefetchNames(p)
	if p == "" || names == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.root
	s.calls.expect(1, fsyscall.OpList, s.listing(at, nil))
	for i, name := range names {
		n := s.newNode()
		n.mounts = at.mounts.child(name)
		s.told(n, urgent)
		if m := n.mounts; m == nil || !m.mounted {
			s.place(at, name, n)
		}
		s.calls.expect(uint32(2+i), fsyscall.OpList, s.listing(n, nil))
		at = n
	}
}

func (s *Server) prepareOne(n *node) {
	if d := n.entries(); !d.whole && d.listing == nil && !d.big && !n.synthetic {
		s.list(n, listMax, nil)
	}
}

// wanted notes that a program needed the entries of dir from the client. The
// second directory with the same parent makes a walk likely.
func (s *Server) wanted(dir *node) {
	p := dir.parent
	if p == nil || p.dir == nil {
		return
	}
	p.dir.wanted++
	if p.dir.wanted >= 2 && p.dir.whole {
		s.listChildren(p)
	}
}

// runAhead is called when a program reads the listing of n. If it has read that
// of the parent too, it is likely to read those of the other directories there,
// and of those below.
func (s *Server) runAhead(n *node) {
	d := n.dir
	d.shown = true
	s.used(d)
	if p := n.parent; p != nil && p.dir != nil && p.dir.shown {
		s.listChildren(p)
		s.listChildren(n)
	}
}

// used gives the room that d took of the budget back.
func (s *Server) used(d *dirState) {
	if d.ahead > 0 {
		s.aheadUnused -= d.ahead
		d.ahead = 0
		s.stats.aheadUsed.Add(1)
	}
}

// listChildren asks for the listings of dir's directories, as far as the budget
// goes, and as they come for those below.
func (s *Server) listChildren(dir *node) {
	if dir.synthetic || s.cfg.Hello.NoCache || dir.pending > 0 {
		return
	}
	for _, c := range dir.dir.children {
		if s.aheadUnused+assumedEntries > maxAhead {
			return
		}
		if !c.isDir() || c.synthetic || c.mounts != nil || c.pending > 0 || c.attr.Access&(accessR|accessX) != accessR|accessX {
			continue
		}
		d := c.entries()
		if d.whole || d.big || d.listing != nil {
			continue
		}
		s.aheadUnused += assumedEntries
		d.ahead = assumedEntries
		s.stats.ahead.Add(1)
		s.list(c, listMax, func(l listed) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if d.ahead > 0 {
				s.aheadUnused += len(l.entries) - d.ahead
				d.ahead = len(l.entries)
				if l.errno != 0 || !d.whole {
					s.used(d)
				}
			}
			if d.whole {
				s.listChildren(c)
			}
		})
	}
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
		s.used(n.dir)
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
