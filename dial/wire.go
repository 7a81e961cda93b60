package dial

import (
	"bufio"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readSize lets one read(2) take what the kernel has.
	readSize = 256 << 10
	// writeSize bounds what waits to be written: with it x/crypto's packets
	// of 32 KiB go out several in one write(2).
	writeSize = 256 << 10
	// flushTime is how long Close waits for a peer that reads no more.
	flushTime = time.Second
)

// wire is the byte stream under an SSH connection: it reads in large pieces,
// and gathers what x/crypto writes packet by packet. It counts what it reads
// for ServerAliveInterval.
//
// One goroutine writes; it ends with Close or the first write error. Lock
// order: mu alone.
type wire struct {
	stream        io.ReadWriteCloser
	reader        *bufio.Reader
	local, remote net.Addr

	mu      sync.Mutex
	more    sync.Cond // what waits changed, or closed or err did
	waiting []byte
	spare   []byte
	writing bool
	closed  bool
	err     error
	done    chan struct{} // the writer has ended

	headMu  sync.Mutex
	head    []byte // what came first, for an error message
	greeted atomic.Bool

	watch    atomic.Pointer[chan struct{}] // see watchWrite
	received atomic.Int64                  // when bytes came last, in Unix nanoseconds
}

func newWire(stream io.ReadWriteCloser, local, remote net.Addr) *wire {
	w := &wire{
		stream: stream, local: local, remote: remote, done: make(chan struct{}),
		reader:  bufio.NewReaderSize(stream, readSize),
		waiting: make([]byte, 0, writeSize), spare: make([]byte, 0, writeSize),
	}
	w.more.L = &w.mu
	w.received.Store(time.Now().UnixNano())
	go w.writeLoop()
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.reader.Read(p)
	if n > 0 && !w.greeted.Load() {
		w.noteGreeting(p[:n])
	}
	if n > 0 && w.reader.Buffered() == 0 {
		w.received.Store(time.Now().UnixNano())
	}
	return n, err
}

// maxGreeting is a version line's longest. See RFC 4253, section 4.2.
const maxGreeting = 255

func (w *wire) noteGreeting(p []byte) {
	w.headMu.Lock()
	defer w.headMu.Unlock()
	w.head = append(w.head, p[:min(len(p), maxGreeting-len(w.head))]...)
	w.greeted.Store(len(w.head) == maxGreeting)
}

// greeting is the first line that came.
func (w *wire) greeting() string {
	w.headMu.Lock()
	defer w.headMu.Unlock()
	line, _, _ := strings.Cut(string(w.head), "\n")
	return strings.TrimRight(line, "\r")
}

// Write takes p to be written soon, and waits when too much waits already.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(p) {
		for len(w.waiting) == writeSize && w.err == nil && !w.closed {
			w.more.Wait()
		}
		if w.err != nil {
			return n, w.err
		}
		if w.closed {
			return n, net.ErrClosed
		}
		room := min(writeSize-len(w.waiting), len(p)-n)
		w.waiting = append(w.waiting, p[n:n+room]...)
		n += room
		if !w.writing {
			w.more.Broadcast()
		}
	}
	if sent := w.watch.Load(); sent != nil && onStack(watchWriteName) && w.watch.CompareAndSwap(sent, nil) {
		close(*sent)
	}
	return n, nil
}

// watchWriteName is how the runtime names watchWrite.
const watchWriteName = "github.com/SumiTomohiko/nexec/dial.watchWrite"

// watchWrite calls f, which writes one packet and then waits for its answer,
// and closes sent when the packet has been written, so that more can follow at
// once. x/crypto does not tell: its SendRequest returns with the answer only.
// A packet is f's when it is written by the goroutine that is within f. When
// x/crypto keeps the packet back, for a key exchange, sent stays open, and the
// answer must be waited for. One call at a time.
//
//go:noinline
func watchWrite(w *wire, sent chan struct{}, f func() (bool, error)) (bool, error) {
	w.watch.Store(&sent)
	defer w.watch.Store(nil)
	return f()
}

// onStack reports whether a function is among the callers.
func onStack(name string) bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		frame, more := frames.Next()
		if frame.Function == name {
			return true
		}
		if !more {
			return false
		}
	}
}

func (w *wire) writeLoop() {
	defer close(w.done)
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil {
		for len(w.waiting) == 0 && !w.closed {
			w.more.Wait()
		}
		if len(w.waiting) == 0 {
			return
		}
		out := w.waiting
		w.waiting = w.spare[:0]
		w.writing = true
		w.more.Broadcast()
		w.mu.Unlock()
		_, err := w.stream.Write(out)
		w.mu.Lock()
		w.writing, w.spare = false, out
		if w.err == nil {
			w.err = err
		}
		w.more.Broadcast()
	}
}

// Close writes out what waits, for at most flushTime, and closes the stream.
func (w *wire) Close() error {
	w.mu.Lock()
	w.closed = true
	w.more.Broadcast()
	w.mu.Unlock()
	timer := time.NewTimer(flushTime)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
	err := w.stream.Close() // ends a write that hangs
	<-w.done
	return err
}

func (w *wire) LocalAddr() net.Addr  { return w.local }
func (w *wire) RemoteAddr() net.Addr { return w.remote }

// Deadlines are not used by x/crypto/ssh and would not fit the gathering.
func (w *wire) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (w *wire) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (w *wire) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// silence is how long nothing has come.
func (w *wire) silence() time.Duration {
	return time.Since(time.Unix(0, w.received.Load()))
}
