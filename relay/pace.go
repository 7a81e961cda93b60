package relay

import "time"

// pace bounds the bulk data under way on one path, so that what queues below
// the link (SSH windows, socket buffers, modems) stays short: the bound is
// twice what the measured rate and the shortest round trip need. The scheme is
// that of BBR without its pacing. All of it is under Link.mu.
type pace struct {
	fixed int64 // a bound set by the configuration; zero: measured

	inFlight  int64 // sent and not acknowledged
	delivered int64 // acknowledged since the start
	// The time of the last acknowledgement, and when the last frame that was
	// acknowledged had been sent.
	deliveredAt, firstSentAt time.Duration
	// idle: the sender had nothing to send when delivered was less than this,
	// so measured rates say nothing about the path. idleAt is when that was.
	idle   int64
	idleAt time.Duration

	rates    [rateRounds]float64 // highest of each of the last round trips
	round    int
	roundEnd int64 // the round ends when this much was delivered at sending

	minRTT   time.Duration // zero: none yet
	minRTTAt time.Duration
	probing  bool // holding back so that the queue drains and minRTT shows
}

// sample is what a sent frame remembers.
type sample struct {
	sentAt, deliveredAt, firstSentAt time.Duration
	delivered                        int64
	idle, probe                      bool
}

const (
	// rateRounds: a rate is believed for so many round trips.
	rateRounds = 10
	// paceInitial is the bound before anything is known.
	paceInitial = 512 << 10
	// paceLeast is the bound on a slow path: two of its frames.
	paceLeast = 32 << 10
	// paceAsk: with a bound below this, each frame asks to be acknowledged;
	// above it, acknowledgements every ackEvery bytes keep things going.
	paceAsk = 4 * ackEvery
	// paceTime is the least queue in time; it keeps short paths busy while
	// either end is not scheduled.
	paceTime = 10 * time.Millisecond
	// minRTTAge is when the shortest round trip is measured anew.
	minRTTAge = 10 * time.Second
)

func newPace(fixed int) pace { return pace{fixed: int64(fixed)} }

// rate is the path's rate in bytes per second, zero while unknown.
func (p *pace) rate() float64 {
	var r float64
	for _, v := range p.rates {
		r = max(r, v)
	}
	return r
}

// bound is how much may be in flight.
func (p *pace) bound() int64 {
	if p.fixed > 0 {
		return max(p.fixed, paceLeast)
	}
	if p.probing {
		return paceLeast
	}
	r := p.rate()
	if r == 0 {
		return paceInitial
	}
	return max(int64(r*max(2*p.minRTT, paceTime).Seconds()), paceLeast)
}

func (p *pace) full() bool { return p.inFlight >= p.bound() }

// asks tells whether frames must ask to be acknowledged.
func (p *pace) asks() bool { return p.bound() < paceAsk }

// starved notes that there is nothing to send.
func (p *pace) starved(now time.Duration) { p.idle, p.idleAt = p.delivered+p.inFlight, now }

// sent notes a frame of n bytes.
func (p *pace) sent(n int, now time.Duration) sample {
	if p.inFlight == 0 {
		p.deliveredAt, p.firstSentAt = now, now
	}
	p.inFlight += int64(n)
	return sample{
		sentAt: now, deliveredAt: p.deliveredAt, firstSentAt: p.firstSentAt,
		delivered: p.delivered, idle: p.delivered < p.idle, probe: p.probing,
	}
}

// acked notes that a frame of n bytes has arrived.
func (p *pace) acked(n int, s sample, now time.Duration) {
	p.inFlight -= int64(n)
	p.delivered += int64(n)
	p.deliveredAt = now
	p.firstSentAt = s.sentAt
}

// pinged learns from a round trip that was measured otherwise.
func (p *pace) pinged(rtt, now time.Duration) {
	if p.minRTT == 0 || rtt < p.minRTT {
		p.minRTT, p.minRTTAt = max(rtt, time.Microsecond), now
	}
}

// measure learns from the newest frame of an acknowledgement, after acked.
func (p *pace) measure(s sample, now time.Duration) {
	rtt := now - s.sentAt
	switch {
	case p.minRTT == 0 || rtt <= p.minRTT || p.probing && s.probe:
		p.minRTT, p.minRTTAt, p.probing = max(rtt, time.Microsecond), now, false
	case now-p.minRTTAt > minRTTAge:
		p.probing = true
	}
	// The slower of sending and acknowledging, over no less than a round
	// trip: acknowledgements that come in a lump make no rate.
	took := max(s.sentAt-s.firstSentAt, now-s.deliveredAt)
	if took < p.minRTT || s.probe {
		return
	}
	rate := float64(p.delivered-s.delivered) / took.Seconds()
	// A burst with nothing after it takes a round trip, however small it is,
	// unless it had to queue.
	idle := s.idle || p.idleAt >= s.sentAt && rtt < p.minRTT*3/2
	if known := p.rate(); idle && (known == 0 || rate <= known) {
		return // the sender was the slow one; what was known still is
	}
	if s.delivered >= p.roundEnd {
		p.roundEnd = p.delivered
		p.round = (p.round + 1) % rateRounds
		p.rates[p.round] = 0
	}
	p.rates[p.round] = max(p.rates[p.round], rate)
}
