package fmaster

import (
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// What programs have used and a local program then changes is likely to be used
// again: somebody edits and compiles, edits and compiles. So it is asked for
// again once the local program has come to rest, and the next command need not
// wait for it.
//
// What was used once is asked for once, so that this costs no more than the use
// did, however often it changes.
const (
	// restTime is how long neither the client's programs nor the session may have
	// changed anything before it is asked for: what is at work is left alone. It is
	// less than somebody takes to type the next command.
	restTime = 250 * time.Millisecond
	// maxAgain bounds what is asked for at a time. When more changes at once,
	// nothing is: somebody has taken out another branch.
	maxAgain = 256
	// maxAgainBytes bounds the content.
	maxAgainBytes = 2 << 20
)

// again is guarded by Server.mu.
type again struct {
	// what is of the entries what was used; of a listing, which has no name, it is
	// nothing.
	what  map[againKey]fsyscall.UseWhat
	timer *time.Timer
	// changes is what Server.changes was when the timer was set.
	changes uint64
	over    bool
}

// againKey is a name in a directory, or the directory's listing.
type againKey struct {
	dir  *node
	name string
}

// changedEntry notes that a local program has changed the entry name of dir, or
// what is behind it.
func (s *Server) changedEntry(dir *node, name string) {
	if c := dir.dir.children[name]; c != nil && !c.synthetic && c.recent != 0 {
		s.askLater(againKey{dir, name}, c.recent)
		c.recent &= fsyscall.UseListing // which its own listing is asked for by
	}
}

// changedListing notes that a local program has changed the entries of dir.
func (s *Server) changedListing(dir *node) {
	if d := dir.dir; dir.recent&fsyscall.UseListing != 0 && d.whole && len(d.children) <= listMax {
		s.askLater(againKey{dir: dir}, 0)
	}
	dir.recent &^= fsyscall.UseListing
}

// askLater notes what is to be asked for.
func (s *Server) askLater(key againKey, what fsyscall.UseWhat) {
	a := &s.again
	if a.over || s.cfg.Hello.NoCache {
		return
	}
	if a.timer == nil {
		a.what = make(map[againKey]fsyscall.UseWhat)
		a.timer = time.AfterFunc(restTime, s.askAgain)
		a.changes = s.changes
	}
	if len(a.what) <= maxAgain {
		a.what[key] |= what
	}
}

// atWork is called when the client's programs have changed something.
func (a *again) atWork() {
	if a.timer != nil {
		a.timer.Reset(restTime)
	}
}

// askAgain asks for what has changed, without waiting: the listings first, which
// tell of what is in them.
func (s *Server) askAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.again
	if a.over || a.timer == nil {
		return
	}
	if a.changes != s.changes {
		a.changes = s.changes
		a.timer.Reset(restTime)
		return
	}
	changed := a.what
	a.what, a.timer = nil, nil
	if len(changed) > maxAgain {
		return
	}
	s.working.expected = min(s.working.expected, maxExpected-maxAgainBytes)
	for key := range changed {
		if key.name == "" && !key.dir.dropped && key.dir.listingWanted() {
			s.listBy(inTurn, key.dir, listMax, nil)
		}
	}
	for key, what := range changed {
		if key.name != "" && !key.dir.dropped {
			s.askEntry(key.dir, key.name, what)
		}
	}
}

func (s *Server) askEntry(dir *node, name string, what fsyscall.UseWhat) {
	d := dir.entries()
	c, now := d.children[name], time.Now()
	_, stale := d.stale[name]
	switch {
	case d.looking[name] != nil || c == nil && d.whole || c != nil && (c.synthetic || c.pending > 0):
		return
	case c != nil && !stale && c.nameFresh(now) && c.usable(now): // somebody has asked meanwhile
		c.expect |= what
		s.came(c)
		return
	}
	if d.again == nil {
		d.again = make(map[string]fsyscall.UseWhat)
	}
	d.again[name] |= what
	if d.listing == nil || d.big {
		s.beginLook(dir, name)
	}
}

// cameAgain goes on with the entries of dir that were to be asked for again and
// are known now.
func (s *Server) cameAgain(dir *node) {
	d := dir.dir
	for name, what := range d.again {
		if d.looking[name] != nil {
			continue // that answer is the newer one
		}
		delete(d.again, name)
		if c := d.children[name]; c != nil && c.known {
			c.expect |= what
			s.came(c)
		}
	}
}

// endAgain ends what again has begun.
func (s *Server) endAgain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again.over = true
	s.again.what = nil
	if s.again.timer != nil {
		s.again.timer.Stop()
	}
}
