package harness

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/rawio"
)

// Shape is what an emulated link does to bytes.
type Shape struct {
	Name  string
	Delay time.Duration // one way
	Rate  float64       // bytes per second and direction, 0 without a limit
}

// Direct tells whether nothing needs to be between the ends: a Link would only
// take its share of the processors.
func (s Shape) Direct() bool { return s.Delay == 0 && s.Rate == 0 }

// RTT is the time of a round trip of few bytes.
func (s Shape) RTT() time.Duration { return 2 * s.Delay }

// Carries is how long a line of this shape takes for n bytes.
func (s Shape) Carries(n int64) time.Duration {
	if s.Rate == 0 {
		return 0
	}
	return time.Duration(float64(n) / s.Rate * float64(time.Second))
}

// Link is a TCP proxy that stands for a long line: all its connections share
// one rate per direction, and each byte arrives one delay after the line has
// taken it. It needs no privileges and no netem.
type Link struct {
	shape    Shape
	target   string
	listener net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	up    line
	down  line
	wg    sync.WaitGroup
}

// line is one direction. It takes bytes one after the other.
type line struct {
	mu   sync.Mutex
	free time.Time // when it has taken everything so far
}

// take returns when n bytes that are there at the given time have been taken.
func (l *line) take(at time.Time, n int, rate float64) time.Time {
	if rate == 0 {
		return at
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.Before(at) {
		l.free = at
	}
	l.free = l.free.Add(Shape{Rate: rate}.Carries(int64(n)))
	return l.free
}

const chunkSize = 32 << 10

// maxQueued bounds the chunks on their way in one direction of a connection:
// 64 MiB, several times what a line of 10 Gbit/s holds in 25 ms.
const maxQueued = 2048

// NewLink listens on a port of loopback and leads to the target.
func NewLink(shape Shape, target string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{shape: shape, target: target, listener: listener, conns: map[net.Conn]bool{}}
	l.wg.Go(l.accept)
	return l, nil
}

// Port is where the link listens.
func (l *Link) Port() int { return l.listener.Addr().(*net.TCPAddr).Port }

func (l *Link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.serve(near, time.Now()) })
	}
}

// serve carries one connection. TCP's handshake is part of what a line costs:
// the server's end has the connection after one and a half round trips, and then
// has what the client sent after one.
func (l *Link) serve(near net.Conn, began time.Time) {
	l.track(near, true)
	defer l.track(near, false)
	defer near.Close()
	var wg sync.WaitGroup
	up := newCarrier(l.shape, &l.up)
	wg.Go(func() { up.load(near, began.Add(l.shape.RTT())) })
	sleepUntil(began.Add(3 * l.shape.Delay))
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		near.Close()
		up.drain()
		return
	}
	l.track(far, true)
	defer l.track(far, false)
	defer far.Close()
	down := newCarrier(l.shape, &l.down)
	wg.Go(func() { down.load(far, began) })
	wg.Go(func() { down.unload(near, far) })
	up.unload(far, near)
	wg.Wait()
}

// track notes which connections Cut is to break.
func (l *Link) track(c net.Conn, there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if there {
		l.conns[c] = true
	} else {
		delete(l.conns, c)
	}
}

// carrier has what is on its way in one direction of a connection.
type carrier struct {
	shape Shape
	line  *line
	queue chan chunk
	used  chan []byte
}

type chunk struct {
	data []byte
	due  time.Time
}

func newCarrier(s Shape, l *line) *carrier {
	return &carrier{s, l, make(chan chunk, maxQueued), make(chan []byte, maxQueued)}
}

// load reads until the source ends. Nothing leaves before notBefore.
func (c *carrier) load(from net.Conn, notBefore time.Time) {
	defer close(c.queue)
	source := rawio.NewConn(from) // the line is to cost the machine little
	for {
		var buf []byte
		select {
		case buf = <-c.used:
		default:
			buf = make([]byte, chunkSize)
		}
		n, err := source.Read(buf)
		if n > 0 {
			at := time.Now()
			if at.Before(notBefore) {
				at = notBefore
			}
			c.queue <- chunk{buf[:n], c.line.take(at, n, c.shape.Rate).Add(c.shape.Delay)}
		}
		if err != nil {
			return
		}
	}
}

// unload writes what has been loaded when it is due.
func (c *carrier) unload(to, from net.Conn) {
	var failed error
	sink := rawio.NewConn(to)
	for x := range c.queue {
		sleepUntil(x.due)
		if failed == nil {
			if _, failed = sink.Write(x.data); failed != nil {
				from.Close() // ends the load; the queue is drained
			}
		}
		select {
		case c.used <- x.data[:chunkSize]:
		default:
		}
	}
	if tcp, ok := to.(*net.TCPConn); ok && failed == nil {
		time.Sleep(c.shape.Delay)
		tcp.CloseWrite()
	}
}

// drain waits for the end of load.
func (c *carrier) drain() {
	for range c.queue {
	}
}

// coarse is how late Go's timers may be. A message that travels alone is not to
// be late by that, at either end of each round trip; those of a full line follow
// each other closer, and a wake-up for each would cost too much.
const coarse = time.Millisecond

func sleepUntil(t time.Time) {
	if time.Until(t) < coarse {
		time.Sleep(time.Until(t))
		return
	}
	for left := time.Until(t); left > 0; left = time.Until(t) { // a signal interrupts it
		ts := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil)
	}
}

// Cut breaks every connection without a word, as a lost line does once TCP
// has given up on it. New connections are accepted.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
	}
}

// Close ends the link and waits for its connections.
func (l *Link) Close() error {
	err := l.listener.Close()
	l.Cut()
	l.wg.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
