package fmaster

import (
	"slices"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// dirState is what is known of a directory's entries.
type dirState struct {
	children map[string]*node
	// stale has names whose entries were revoked: they are kept so that what is
	// still the same keeps its node.
	stale map[string]struct{}
	// absent has names known not to exist, when the listing is not whole.
	absent map[string]struct{}
	// whole: every entry is in children. Both hold only under a lease or
	// until the time given.
	whole bool
	until time.Time
	// big: the directory has too many entries to be asked for whole when one is
	// wanted, and huge: at all. singly counts the ones wanted since it is known.
	big, huge bool
	singly    int
	// listing is closed when the listing under way has ended.
	listing chan struct{}
	// leased: the last answer came under a lease.
	leased bool
	// For the run-ahead: shown says that a program read the listing, wanted
	// counts the entries that were asked for because a program wanted them, and
	// ahead is what a listing that nobody has used yet takes of the budget.
	// below is how many levels are to be guessed when the listing comes.
	shown  bool
	wanted int
	ahead  int
	below  int
	before *node // in this directory, whose entries were wanted last
	worked bool  // it was the working directory of a command
	// walked is the guess.fanOut with which a walk has been here since the
	// listing came: it need not come again.
	walked int
	cut    bool // a guess ended here, and goes on when there is room: see Server.cut
	// looking has the names that are being looked up ahead; each is closed when
	// the answer has been taken in. missed has those that programs wanted in
	// vain.
	looking map[string]chan struct{}
	missed  map[string]struct{}
	// Until the listing comes: expecting says that some of the entries have
	// node.expect, allContent that the content of every file is expected.
	expecting, allContent bool
	// again has the names of which so much is to be asked for when it is known what
	// they are now.
	again map[string]fsyscall.UseWhat
	// ruled are the names of which the export policy may refuse a change; nil:
	// not known.
	ruled map[string]struct{}
}

func (n *node) entries() *dirState {
	if n.dir == nil {
		n.dir = &dirState{children: make(map[string]*node)}
	}
	return n.dir
}

// revoke makes an entry be looked up again.
func (d *dirState) revoke(name string) {
	if d.children[name] == nil {
		return
	}
	if d.stale == nil {
		d.stale = make(map[string]struct{})
	}
	d.stale[name] = struct{}{}
}

// fresh tells whether what is known of the entries may be used.
func (d *dirState) fresh(now time.Time) bool {
	return d.until.IsZero() || now.Before(d.until)
}

// sorted returns the children that keep wants, by the name they have here.
func (d *dirState) sorted(keep func(name string, c *node) bool) []*node {
	names := make([]string, 0, len(d.children))
	for name, c := range d.children {
		if keep(name, c) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	nodes := make([]*node, len(names))
	for i, name := range names {
		nodes[i] = d.children[name]
	}
	return nodes
}
