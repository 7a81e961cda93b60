package fmaster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// counters are what --stats shows.
type counters struct {
	kernel               atomic.Int64 // requests of the kernel
	hits                 atomic.Int64 // answers that needed no call
	revoked              atomic.Int64
	ahead                atomic.Int64 // listings run ahead
	aheadUsed            atomic.Int64
	fetched, fetchedUsed atomic.Int64 // files fetched ahead
	expected             atomic.Int64 // files fetched because of a working set
	twins, twinBytes     atomic.Int64 // of these, this machine's own were the same
	recalled             atomic.Int64 // files found in the cache of earlier sessions
	recalledBytes        atomic.Int64
	neverSent            atomic.Uint64 // bytes written to files that were removed first
	read, readUnused     atomic.Int64  // bytes of files read ahead
	waits                atomic.Int64  // round trips that something waited for
	stalled              atomic.Int64  // nanoseconds
	byOp                 [256]atomic.Int64
	costs                costs

	mu      sync.Mutex
	waiting int       // calls waited for at this moment
	since   time.Time // when waiting became more than zero
}

func (c *counters) call(op fsyscall.Op) { c.byOp[op].Add(1) }

// wait counts a wait for the client; the function returned ends it. Waits that
// overlap count as one round trip: they cost the time of one.
func (c *counters) wait() func() {
	c.mu.Lock()
	if c.waiting == 0 {
		c.waits.Add(1)
		c.since = time.Now()
	}
	c.waiting++
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		c.waiting--
		if c.waiting == 0 {
			c.stalled.Add(int64(time.Since(c.since)))
		}
		c.mu.Unlock()
	}
}

// figures are what counters say at one moment, or between two.
type figures struct {
	kernel, hits, revoked, waits int64
	ahead, aheadUsed             int64
	fetched, fetchedUsed         int64
	expected, twins, twinBytes   int64
	read, readUnused             int64
	recalled, recalledBytes      int64
	neverSent                    int64
	stalled                      time.Duration
	byOp                         [256]int64
	costs                        map[string]pathCost
}

func (c *counters) figures() figures {
	f := figures{
		kernel: c.kernel.Load(), hits: c.hits.Load(), revoked: c.revoked.Load(), waits: c.waits.Load(),
		ahead: c.ahead.Load(), aheadUsed: c.aheadUsed.Load(), fetched: c.fetched.Load(), fetchedUsed: c.fetchedUsed.Load(), expected: c.expected.Load(), twins: c.twins.Load(), twinBytes: c.twinBytes.Load(),
		read: c.read.Load(), readUnused: c.readUnused.Load(),
		recalled: c.recalled.Load(), recalledBytes: c.recalledBytes.Load(),
		neverSent: int64(c.neverSent.Load()),
		stalled:   time.Duration(c.stalled.Load()), costs: c.costs.all(),
	}
	for i := range c.byOp {
		f.byOp[i] = c.byOp[i].Load()
	}
	return f
}

// since returns what came to f after g.
func (f figures) since(g figures) figures {
	for _, p := range []struct{ f, g *int64 }{
		{&f.kernel, &g.kernel}, {&f.hits, &g.hits}, {&f.revoked, &g.revoked}, {&f.waits, &g.waits},
		{&f.ahead, &g.ahead}, {&f.aheadUsed, &g.aheadUsed}, {&f.fetched, &g.fetched}, {&f.fetchedUsed, &g.fetchedUsed}, {&f.expected, &g.expected}, {&f.twins, &g.twins}, {&f.twinBytes, &g.twinBytes},
		{&f.read, &g.read}, {&f.readUnused, &g.readUnused},
		{&f.recalled, &g.recalled}, {&f.recalledBytes, &g.recalledBytes}, {&f.neverSent, &g.neverSent},
		{(*int64)(&f.stalled), (*int64)(&g.stalled)},
	} {
		*p.f -= *p.g
	}
	for i := range f.byOp {
		f.byOp[i] -= g.byOp[i]
	}
	f.costs = costsSince(f.costs, g.costs)
	return f
}

// text is f for --stats.
func (f figures) text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "round trips waited: %d\n", f.waits)
	fmt.Fprintf(&b, "time stalled on the link: %.3f s\n", f.stalled.Seconds())
	fmt.Fprintf(&b, "kernel requests: %d\n", f.kernel)
	fmt.Fprintf(&b, "answered without a call: %d\n", f.hits)
	fmt.Fprintf(&b, "leases revoked: %d\n", f.revoked)
	fmt.Fprintf(&b, "run ahead: %d listings, %d used\n", f.ahead, f.aheadUsed)
	fmt.Fprintf(&b, "fetched ahead: %d files, %d used\n", f.fetched, f.fetchedUsed)
	fmt.Fprintf(&b, "asked for as expected: %d files, %d of them as this machine has them (%d bytes)\n", f.expected, f.twins, f.twinBytes)
	fmt.Fprintf(&b, "read ahead: %d bytes, %d of them for nothing\n", f.read, f.readUnused)
	if f.neverSent > 0 {
		fmt.Fprintf(&b, "removed before they were sent: %d bytes\n", f.neverSent)
	}
	type row struct {
		name string
		n    int64
	}
	var rows []row
	for i := range fsyscall.Table {
		if n := f.byOp[fsyscall.Table[i].Op]; n > 0 {
			rows = append(rows, row{fsyscall.Table[i].Name, n})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(b.n, a.n) })
	b.WriteString("calls:")
	for _, r := range rows {
		fmt.Fprintf(&b, " %s %d", r.name, r.n)
	}
	b.WriteByte('\n')
	for _, c := range dearest(f.costs) {
		fmt.Fprintf(&b, "waited %.3f s in %d requests: %s\n", c.time.Seconds(), c.requests, c.shown())
	}
	return []byte(b.String())
}

// Stats is the text for --stats of the whole session so far.
func (s *Server) Stats() []byte { return s.statsSince(figures{}) }

// Account returns a function that gives the text for --stats of what happened
// after Account was called, or in the whole session.
func (s *Server) Account(whole bool) func() []byte {
	var began figures
	if !whole {
		began = s.stats.figures()
	}
	return func() []byte { return s.statsSince(began) }
}

func (s *Server) statsSince(began figures) []byte {
	f := s.stats.figures().since(began)
	b := f.text()
	if s.cfg.Cache != nil {
		b = fmt.Appendf(b, "content cache: %d files, %d bytes not sent, %d stored\n", f.recalled, f.recalledBytes, s.cfg.Cache.Stats().Stored)
	}
	return b
}
