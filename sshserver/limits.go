package sshserver

import (
	"container/list"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
)

// startups holds the connections that have not logged in yet, the oldest first.
//
// sshd drops the newcomer when there are too many of them; 10,000 connections
// that say nothing then keep everybody out for as long as LoginGraceTime. Here
// the decision is made in the same way, but the one who has waited longest is
// dropped, so that whoever logs in without delay gets in.
type startups struct {
	mu       sync.Mutex
	waiting  list.List // of *conn
	bySource map[netip.Prefix]int
	penalty  map[netip.Prefix]time.Time // until when a source is refused
}

// maxPenalties is max-sources4 of OpenSSH 9.8.
const maxPenalties = 65536

// admit counts a connection in. It returns a reason when the connection must
// be dropped, and perhaps another connection to be dropped in its favour.
func (l *startups) admit(c *conn, s *sshdconfig.Settings, now time.Time) (victim *conn, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bySource == nil {
		l.bySource, l.penalty = map[netip.Prefix]int{}, map[netip.Prefix]time.Time{}
	}
	c.source = sourceOf(c.end.Addr, s.PerSourceBits)
	if until, ok := l.penalty[c.source]; ok && s.PerSourcePenalties {
		if until.Sub(now) > penaltyMin {
			return nil, "penalty"
		}
		if now.After(until) {
			delete(l.penalty, c.source)
		}
	}
	if s.PerSourceMaxStartups > 0 && l.bySource[c.source] >= s.PerSourceMaxStartups {
		return nil, "PerSourceMaxStartups"
	}
	if drops(s.MaxStartups, l.waiting.Len()) {
		victim = l.waiting.Front().Value.(*conn)
		l.remove(victim)
	}
	c.element = l.waiting.PushBack(c)
	l.bySource[c.source]++
	return victim, ""
}

// drops is sshd's random early drop.
func drops(m sshdconfig.Startups, n int) bool {
	switch {
	case n < m.Start:
		return false
	case n >= m.Full || m.Rate == 100:
		return true
	}
	p := m.Rate + (100-m.Rate)*(n-m.Start)/(m.Full-m.Start)
	return rand.IntN(100) < p
}

// leave counts a connection out: it has logged in or is gone.
func (l *startups) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(c)
}

func (l *startups) remove(c *conn) {
	if c.element == nil {
		return
	}
	l.waiting.Remove(c.element)
	c.element = nil
	if l.bySource[c.source]--; l.bySource[c.source] <= 0 {
		delete(l.bySource, c.source)
	}
}

func (l *startups) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.Len()
}

// OpenSSH 9.8's penalties: each offence adds its time, up to penaltyMax;
// below penaltyMin nothing happens.
const (
	penaltyAuthFail = 5 * time.Second
	penaltyNoAuth   = 1 * time.Second
	penaltyGrace    = 10 * time.Second
	penaltyMin      = 15 * time.Second
	penaltyMax      = 10 * time.Minute
)

// punish adds a penalty to a source. When there are too many sources an
// expired entry has to go, and else the new one is not kept.
func (l *startups) punish(source netip.Prefix, by time.Duration, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.penalty[source]; !ok && len(l.penalty) >= maxPenalties {
		for s, until := range l.penalty {
			if now.After(until) {
				delete(l.penalty, s)
			}
		}
		if len(l.penalty) >= maxPenalties {
			return
		}
	}
	until := l.penalty[source]
	if until.Before(now) {
		until = now
	}
	if until = until.Add(by); until.Sub(now) > penaltyMax {
		until = now.Add(penaltyMax)
	}
	l.penalty[source] = until
}

// sourceOf is the network that counts as one source.
func sourceOf(addr string, bits [2]int) netip.Prefix {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.Prefix{}
	}
	a = a.Unmap().WithZone("")
	n := bits[1]
	if a.Is4() {
		n = bits[0]
	}
	p, err := a.Prefix(n)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
