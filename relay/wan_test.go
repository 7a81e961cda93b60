package relay

import (
	"io"
	"os"
	"sync"
	"time"
)

// wanPipe is one direction of an emulated wide-area link: a queue of bounded
// length that empties at a rate, then a delay.
type wanPipe struct {
	rate   float64 // bytes per second
	delay  time.Duration
	buffer time.Duration // the queue's length in time

	mu     sync.Mutex
	cond   sync.Cond
	chunks []wanChunk
	free   time.Time // when the queue is empty
	closed bool
	eof    bool
}

type wanChunk struct {
	at time.Time
	b  []byte
}

func newWANPipe(rate float64, delay time.Duration, buffer int) *wanPipe {
	p := &wanPipe{rate: rate, delay: delay, buffer: time.Duration(float64(buffer) / rate * 1e9)}
	p.cond.L, p.free = &p.mu, time.Now()
	return p
}

func (p *wanPipe) Write(b []byte) (int, error) {
	const packet = 16 << 10
	for done := 0; done < len(b); {
		n := min(packet, len(b)-done)
		p.mu.Lock()
		if p.closed || p.eof {
			p.mu.Unlock()
			return done, io.ErrClosedPipe
		}
		now := time.Now()
		if wait := p.free.Sub(now) - p.buffer; wait > 0 {
			p.mu.Unlock()
			time.Sleep(max(wait, time.Millisecond))
			continue
		}
		if p.free.Before(now) {
			p.free = now
		}
		p.free = p.free.Add(time.Duration(float64(n) / p.rate * 1e9))
		p.chunks = append(p.chunks, wanChunk{p.free.Add(p.delay), append([]byte(nil), b[done:done+n]...)})
		p.cond.Broadcast()
		p.mu.Unlock()
		done += n
	}
	return len(b), nil
}

func (p *wanPipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return 0, os.ErrClosed
		}
		if len(p.chunks) > 0 {
			wait := time.Until(p.chunks[0].at)
			if wait <= 0 {
				break
			}
			p.mu.Unlock()
			time.Sleep(min(wait, 20*time.Millisecond))
			p.mu.Lock()
			continue
		}
		if p.eof {
			return 0, io.EOF
		}
		p.cond.Wait()
	}
	n := 0
	for n < len(b) && len(p.chunks) > 0 && time.Until(p.chunks[0].at) <= 0 {
		c := copy(b[n:], p.chunks[0].b)
		n += c
		if p.chunks[0].b = p.chunks[0].b[c:]; len(p.chunks[0].b) == 0 {
			p.chunks = p.chunks[1:]
		}
	}
	return n, nil
}

func (p *wanPipe) end(reader bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eof = true
	p.closed = p.closed || reader
	p.cond.Broadcast()
}

// wanEnd is one end of an emulated link.
type wanEnd struct {
	in, out *wanPipe
	once    sync.Once
}

func newWAN(rate float64, rtt time.Duration, buffer int) (a, b *wanEnd) {
	x, y := newWANPipe(rate, rtt/2, buffer), newWANPipe(rate, rtt/2, buffer)
	return &wanEnd{in: x, out: y}, &wanEnd{in: y, out: x}
}

func (e *wanEnd) Read(b []byte) (int, error)  { return e.in.Read(b) }
func (e *wanEnd) Write(b []byte) (int, error) { return e.out.Write(b) }
func (e *wanEnd) Close() error {
	e.once.Do(func() {
		e.in.end(true)
		e.out.end(false)
	})
	return nil
}
