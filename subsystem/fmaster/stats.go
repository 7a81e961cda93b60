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
	recalled             atomic.Int64 // files found in the cache of earlier sessions
	recalledBytes        atomic.Int64
	neverSent            atomic.Uint64 // bytes written to files that were removed first
	waits                atomic.Int64  // round trips that something waited for
	stalled              atomic.Int64  // nanoseconds
	byOp                 [256]atomic.Int64

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

// Stats is the text for --stats.
func (s *Server) Stats() []byte {
	c := &s.stats
	var b strings.Builder
	fmt.Fprintf(&b, "round trips waited: %d\n", c.waits.Load())
	fmt.Fprintf(&b, "time stalled on the link: %.3f s\n", float64(c.stalled.Load())/1e9)
	fmt.Fprintf(&b, "kernel requests: %d\n", c.kernel.Load())
	fmt.Fprintf(&b, "answered without a call: %d\n", c.hits.Load())
	fmt.Fprintf(&b, "leases revoked: %d\n", c.revoked.Load())
	fmt.Fprintf(&b, "run ahead: %d listings, %d used\n", c.ahead.Load(), c.aheadUsed.Load())
	fmt.Fprintf(&b, "fetched ahead: %d files, %d used\n", c.fetched.Load(), c.fetchedUsed.Load())
	if s.cfg.Cache != nil {
		st := s.cfg.Cache.Stats()
		fmt.Fprintf(&b, "content cache: %d files, %d bytes not sent, %d stored\n", c.recalled.Load(), c.recalledBytes.Load(), st.Stored)
	}
	if n := c.neverSent.Load(); n > 0 {
		fmt.Fprintf(&b, "removed before they were sent: %d bytes\n", n)
	}
	type row struct {
		name string
		n    int64
	}
	var rows []row
	for i := range fsyscall.Table {
		if n := c.byOp[fsyscall.Table[i].Op].Load(); n > 0 {
			rows = append(rows, row{fsyscall.Table[i].Name, n})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Compare(b.n, a.n) })
	b.WriteString("calls:")
	for _, r := range rows {
		fmt.Fprintf(&b, " %s %d", r.name, r.n)
	}
	b.WriteByte('\n')
	return []byte(b.String())
}
