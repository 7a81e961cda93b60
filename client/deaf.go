package client

import "time"

// deafness notices a user who interrupts again and again a server that says
// nothing any more. Everything that a server receives it acknowledges, so one
// that is there is heard within a round trip, whatever its command makes of
// the signal.
type deafness struct {
	heard uint64 // bytes received at the first interrupt
	count int
	timer *time.Timer
}

// deafAfter is how long after the second interrupt a living server may stay
// silent: two round trips of a bad satellite link.
const deafAfter = 3 * time.Second

// interrupted notes that the user wants the command to end.
func (d *deafness) interrupted(s *Session) {
	heard := s.Stats().BytesIn
	if d.count == 0 || heard != d.heard {
		d.heard, d.count = heard, 0
	}
	d.count++
	if d.count == 2 {
		d.timer = time.NewTimer(deafAfter)
	}
}

// expired returns a channel that says when to ask stillDeaf.
func (d *deafness) expired() <-chan time.Time {
	if d.timer == nil {
		return nil
	}
	return d.timer.C
}

// stillDeaf tells whether nothing has come since the first interrupt.
func (d *deafness) stillDeaf(s *Session) bool {
	d.timer = nil
	if s.Stats().BytesIn == d.heard {
		return true
	}
	d.count = 0
	return false
}
