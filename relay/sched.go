package relay

import (
	"encoding/binary"
	"slices"
)

// ring is a queue of streams that have frames to send.
type ring struct{ head, tail *Stream }

func (r *ring) push(s *Stream) {
	if r.tail == nil {
		r.head = s
	} else {
		r.tail.nextReady = s
	}
	r.tail = s
}

func (r *ring) pop() *Stream {
	s := r.head
	r.head = s.nextReady
	if r.head == nil {
		r.tail = nil
	}
	s.nextReady = nil
	return s
}

// markReady notes that s has a frame to send. Called with mu held.
func (l *Link) markReady(s *Stream) {
	if !s.inReady {
		s.inReady = true
		l.ready[s.class].push(s)
	}
	if s.class < PriorityBulk {
		l.paths[0].wake()
		return
	}
	for _, p := range l.paths {
		if l.carriesBulk(p) {
			p.wake()
		}
	}
}

// carriesBulk tells whether a path takes bulk data: attached ones that are up
// do, and the first while there are none, so that nothing bulky is ever before
// a keystroke in the first's own queues.
func (l *Link) carriesBulk(p *path) bool {
	if !p.first() {
		return p.up && !p.dead
	}
	return !slices.ContainsFunc(l.paths[1:], func(q *path) bool { return q.up })
}

// collect fills b with what p may send now. It returns false when p has
// nothing to send ever again.
func (l *Link) collect(p *path, b *batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case p.dead:
		return false
	case l.state == ended:
		return l.collectFarewell(p, b)
	case p.first() && l.byeQueued:
		return false
	case l.byePeer: // it takes nothing more
		return l.collectBye(p, b)
	}
	if p.first() {
		l.collectControl(b)
		for c := range PriorityBulk {
			l.collectClass(c, p, b)
		}
	}
	l.collectBulk(p, b)
	if p.first() && l.state == closing && b.size < maxBatch && l.drained() {
		l.collectBye(p, b)
	}
	return true
}

// drained tells whether all that was written is on its way on the first path
// or has arrived on the others.
func (l *Link) drained() bool {
	for _, r := range l.ready {
		if r.head != nil {
			return false
		}
	}
	for _, p := range l.paths[1:] {
		if p.pace.inFlight != 0 {
			return false
		}
	}
	return true
}

func (l *Link) collectBye(p *path, b *batch) bool {
	if !p.first() {
		return false
	}
	l.putBye(b, 0, nil)
	l.byeQueued = true
	return true
}

func (l *Link) collectFarewell(p *path, b *batch) bool {
	if p.first() && len(l.farewell) != 0 && !l.byeQueued {
		l.byeQueued = true
		l.putBye(b, 1, l.farewell[:min(len(l.farewell), maxReason)])
		return true
	}
	return false
}

func (l *Link) putBye(b *batch, code byte, text []byte) {
	n := 1 + len(text)
	b.bye = true
	b.small(headerSize+n, func(buf []byte) {
		header{length: uint32(n), typ: typeBye}.put(buf)
		buf[headerSize] = code
		copy(buf[headerSize+1:], text)
	})
}

// collectControl adds pings, pongs and stops, and acknowledgements when they
// are due or when there is a Write to go with anyway.
func (l *Link) collectControl(b *batch) {
	if l.pong != nil {
		b.small(headerSize+8, func(buf []byte) {
			header{length: 8, typ: typePong}.put(buf)
			copy(buf[headerSize:], l.pong)
		})
		l.pong = nil
	}
	if l.ping {
		l.ping = false
		l.pingSent = max(uint64(l.now()), 1)
		b.small(headerSize+8, func(buf []byte) {
			header{length: 8, typ: typePing}.put(buf)
			binary.LittleEndian.PutUint64(buf[headerSize:], l.pingSent)
		})
	}
	for len(l.stops) > 0 && b.size < maxBatch/2 {
		id := l.stops[0].id
		b.small(headerSize, func(buf []byte) { header{typ: typeStop, stream: id}.put(buf) })
		l.stops = slices.Delete(l.stops, 0, 1)
	}
	if !l.acksNow && b.size == 0 && l.ready[0].head == nil && l.ready[1].head == nil && l.ready[2].head == nil {
		return
	}
	n := 0
	for ; n < len(l.acks) && b.size < maxBatch/2; n++ {
		s := l.acks[n]
		s.inAcks = false
		b.small(headerSize+8, func(buf []byte) {
			header{length: 8, typ: typeCredit, stream: s.id, seq: s.recvNext}.put(buf)
			binary.LittleEndian.PutUint64(buf[headerSize:], s.grant())
		})
		s.tryRetire()
	}
	l.acks = slices.Delete(l.acks, 0, n)
	l.acksNow = len(l.acks) != 0
	l.ackDebt = 0
	if l.acksNow || len(l.stops) > 0 {
		l.paths[0].wake()
	}
}

// collectBulk adds bulk data, which is bounded by the path's pace.
func (l *Link) collectBulk(p *path, b *batch) {
	if !l.carriesBulk(p) {
		return
	}
	l.collectClass(PriorityBulk, p, b)
	switch full := p.pace.full(); {
	case !full && l.ready[PriorityBulk].head == nil:
		p.pace.starved(l.now())
	case full && p.pace.asks() && l.pingSent == 0:
		// The bound may have fallen since the frames under way were sent, none
		// of which asked: the pong comes with an acknowledgement.
		l.ping = true
		l.paths[0].wake()
	}
}

// collectClass gives each stream of a class its turn while there is room.
func (l *Link) collectClass(class int, p *path, b *batch) {
	r := &l.ready[class]
	room := func() bool {
		return b.size < maxBatch && (class < PriorityBulk || !p.pace.full())
	}
	for r.head != nil && room() {
		s := r.head
		for left := quantum; s.unsent != nil && left > 0 && room(); {
			left -= l.take(s, p, b)
		}
		r.pop()
		if s.unsent != nil {
			r.push(s)
		} else {
			s.inReady = false
		}
	}
}

// take moves the next frame of s to the batch and returns its length.
func (l *Link) take(s *Stream, p *path, b *batch) int {
	f := s.unsent
	n := len(f.buf)
	f.sent, f.path = true, p
	if f.bulk = s.class >= PriorityBulk; f.bulk {
		l.bulk.moved(n)
		if !p.first() {
			l.bulk.striped += uint64(n)
		}
		f.pacing = p.pace.sent(n, l.now())
		if f.busy == 0 && p.pace.asks() {
			f.buf[flagsAt] |= flagAsk
		}
	}
	b.add(f)
	if f.seq == s.sentEnd {
		s.sentEnd++
		before := s.sendCost - s.sentCost
		s.sentCost += f.cost()
		if before > queueAhead/2 && s.sendCost-s.sentCost <= queueAhead/2 {
			s.wcond.Broadcast()
		}
	}
	s.unsent = f.next
	s.skipSent()
	return n
}

// flushed frees what was acknowledged while it was being written.
func (l *Link) flushed(b *batch) {
	l.mu.Lock()
	for _, f := range b.frames {
		if f.busy--; f.acked && f.busy == 0 {
			l.pool.put(f)
		}
	}
	if b.bye {
		l.byeSent = true
		l.checkEnd()
	}
	b.reset()
	l.mu.Unlock()
}

// dropPath forgets an attached path that died; what was under way on it is
// sent again on another.
func (l *Link) dropPath(p *path) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.dead || l.state == ended {
		return
	}
	p.dead = true
	l.paths = slices.DeleteFunc(l.paths, func(q *path) bool { return q == p })
	for _, s := range l.streams {
		s.resend(p)
	}
	p.pace.inFlight = 0
	l.wakePaths()
	p.wake()
}
