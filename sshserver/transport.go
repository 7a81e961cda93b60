package sshserver

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/SumiTomohiko/nexec/rawio"
)

const (
	// writeBuffer is how much may wait for the network in each of two buffers:
	// eight packets, so that a write(2) carries many.
	writeBuffer = 256 << 10
	// readBuffer is the same for reading, once somebody has logged in; before
	// that a connection gets smallBuffer only.
	readBuffer  = 256 << 10
	smallBuffer = 4 << 10
	// flushTime bounds how long Close waits for what is still to be written.
	flushTime = 2 * time.Second
)

// transport is a connection whose writes are gathered, and made by a goroutine
// of its own while the caller encrypts the next packet, and whose reads are
// buffered. The ssh library makes one write or two for each packet and reads
// packet headers one by one; this halves the cost of bulk data.
//
// An error of a write is reported by the next one, as with any buffered
// connection.
type transport struct {
	net.Conn
	lastRead atomic.Int64 // when something came, in Unix nanoseconds

	big  atomic.Bool // a large read buffer is worth it
	in   []byte      // what has been read and not asked for; Read only
	pool []byte      // the buffer that in is a part of

	mu     sync.Mutex
	wake   *sync.Cond // pending, closed or err has changed
	spare  []byte
	out    []byte // what is to be written
	err    error
	closed bool
	done   chan struct{} // the writer has ended
	read   atomic.Uint64
	wrote  atomic.Uint64
}

func newTransport(c net.Conn) *transport {
	t := &transport{Conn: rawio.NewConn(c), done: make(chan struct{})}
	t.wake = sync.NewCond(&t.mu)
	t.lastRead.Store(time.Now().UnixNano())
	go t.writer()
	return t
}

// grow gives a connection that has logged in its large buffer.
func (t *transport) grow() { t.big.Store(true) }

func (t *transport) Read(p []byte) (int, error) {
	if len(t.in) == 0 {
		size := smallBuffer
		if t.big.Load() {
			size = readBuffer
		}
		if len(t.pool) != size {
			t.pool = make([]byte, size)
		}
		n, err := t.Conn.Read(t.pool)
		if n > 0 {
			t.lastRead.Store(time.Now().UnixNano())
			t.read.Add(uint64(n))
		}
		if n == 0 {
			return 0, err
		}
		t.in = t.pool[:n]
	}
	n := copy(p, t.in)
	t.in = t.in[n:]
	return n, nil
}

func (t *transport) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.out) > 0 && len(t.out)+len(p) > writeBuffer && t.err == nil && !t.closed {
		t.wake.Wait()
	}
	if t.closed && t.err == nil {
		t.err = net.ErrClosed
	}
	if t.err != nil {
		return 0, t.err
	}
	t.out = append(t.out, p...)
	t.wake.Broadcast()
	return len(p), nil
}

// writer writes what Write has gathered until Close or an error.
func (t *transport) writer() {
	defer close(t.done)
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for len(t.out) == 0 && !t.closed {
			t.wake.Wait()
		}
		if len(t.out) == 0 {
			return
		}
		buf := t.out
		t.out, t.spare = t.spare[:0], nil
		t.mu.Unlock()
		n, err := t.Conn.Write(buf)
		t.wrote.Add(uint64(n))
		t.mu.Lock()
		t.spare = buf
		if err != nil {
			t.err = err
			t.out = nil
			t.wake.Broadcast()
			return
		}
		t.wake.Broadcast()
	}
}

// Close writes what is still there, for a while, and closes the connection.
// It may be called several times.
func (t *transport) Close() error {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	t.wake.Broadcast()
	t.mu.Unlock()
	if first {
		_ = t.Conn.SetWriteDeadline(time.Now().Add(flushTime))
	}
	<-t.done
	return t.Conn.Close()
}

// kill makes every read and write fail from now on. It does not wait.
func (t *transport) kill() { _ = t.Conn.SetDeadline(time.Unix(1, 0)) }

// abort closes at once, for connections that have shown no good will.
func (t *transport) abort() {
	t.kill()
	t.mu.Lock()
	t.closed = true
	t.out = nil
	t.wake.Broadcast()
	t.mu.Unlock()
	<-t.done
	_ = t.Conn.Close()
}
