package harness

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

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
// the server's end has it after one and a half round trips, and the client's
// first bytes leave after one.
func (l *Link) serve(near net.Conn, began time.Time) {
	defer near.Close()
	time.Sleep(3 * l.shape.Delay)
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	l.conns[near], l.conns[far] = true, true
	l.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { l.carry(far, near, &l.up, began.Add(l.shape.RTT())) })
	wg.Go(func() { l.carry(near, far, &l.down, began) })
	wg.Wait()
	l.mu.Lock()
	delete(l.conns, near)
	delete(l.conns, far)
	l.mu.Unlock()
}

type chunk struct {
	data []byte
	due  time.Time
}

// carry moves bytes one way until the source ends.
func (l *Link) carry(to, from net.Conn, line *line, notBefore time.Time) {
	queue, used := make(chan chunk, maxQueued), make(chan []byte, maxQueued)
	source := rawio.NewConn(from) // the line is to cost the machine little
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		for {
			var buf []byte
			select {
			case buf = <-used:
			default:
				buf = make([]byte, chunkSize)
			}
			n, err := source.Read(buf)
			if n > 0 {
				at := time.Now()
				if at.Before(notBefore) {
					at = notBefore
				}
				queue <- chunk{buf[:n], line.take(at, n, l.shape.Rate).Add(l.shape.Delay)}
			}
			if err != nil {
				return
			}
		}
	})
	var failed error
	sink := rawio.NewConn(to)
	for c := range queue {
		time.Sleep(time.Until(c.due))
		if failed == nil {
			if _, failed = sink.Write(c.data); failed != nil {
				from.Close() // ends the reader; the queue is drained
			}
		}
		select {
		case used <- c.data[:chunkSize]:
		default:
		}
	}
	if tcp, ok := to.(*net.TCPConn); ok && failed == nil {
		time.Sleep(l.shape.Delay)
		tcp.CloseWrite()
	}
	wg.Wait()
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
