package relay

import "time"

// bulkCount is what is known of a link's need of further byte streams. It is
// under Link.mu.
type bulkCount struct {
	total    uint64        // bytes of frames of class PriorityBulk, both ways
	goal     uint64        // reached is closed when total gets there
	reached  chan struct{} // nil: nobody waits
	bestPing time.Duration // the shortest; zero: none yet
	attached int           // byte streams that came up
	striped  uint64        // bytes of frames on attached byte streams, both ways
}

func (c *bulkCount) moved(n int) {
	c.total += uint64(n)
	if c.reached != nil && c.total >= c.goal {
		close(c.reached)
		c.reached = nil
	}
}

func (c *bulkCount) pinged(rtt time.Duration) {
	if c.bestPing == 0 || rtt < c.bestPing {
		c.bestPing = max(rtt, 1)
	}
}

// Bulk returns a channel that is closed when n bytes of class PriorityBulk,
// both ways together, have moved since the call. One caller at a time may wait;
// the channel of an earlier call is then never closed. The link's end closes
// nothing: see Done.
func (l *Link) Bulk(n uint64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	reached := make(chan struct{})
	l.bulk.goal, l.bulk.reached = l.bulk.total+n, reached
	return reached
}

// Ping has the round trip measured once more, for Stats.
func (l *Link) Ping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == open && l.pingSent == 0 {
		l.ping = true
		l.paths[0].wake()
	}
}

// minRTT is the shortest round trip known. Called with mu held.
func (l *Link) minRTT() time.Duration {
	best := l.bulk.bestPing
	for _, p := range l.paths {
		if rtt := p.pace.minRTT; rtt > 0 && (best == 0 || rtt < best) {
			best = rtt
		}
	}
	return best
}
