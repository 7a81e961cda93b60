package relay

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// MessageConn sends and receives messages over a byte stream of its own, each
// preceded by its length as a little-endian u32: the connection between nexec
// and fslave. One goroutine at a time reads; any number write.
type MessageConn struct {
	rw io.ReadWriter
	br *bufio.Reader

	waiting atomic.Int32 // writers that are before mu or about to be
	mu      sync.Mutex
	out     []byte      // small messages that wait for another's write
	vector  [][]byte    // for flush
	err     error       // the first error of a write
	late    atomic.Bool // QueueMessage left something in out
}

const (
	// inBuffer holds many small messages; the rest of a large one is read
	// straight into its buffer.
	inBuffer = 16 << 10
	// outBuffer holds the small messages that wait for others' writes.
	outBuffer = 128 << 10
	// largePart is what is written from where it is rather than copied.
	largePart = 32 << 10
)

// NewMessageConn returns a connection over rw.
func NewMessageConn(rw io.ReadWriter) *MessageConn {
	return &MessageConn{
		rw: rw,
		br: bufio.NewReaderSize(rw, inBuffer),
	}
}

// ReadMessage reads one message into buf, which it grows where needed, and
// returns it. At the end of the byte stream between messages the error is
// io.EOF, within one io.ErrUnexpectedEOF.
func (c *MessageConn) ReadMessage(buf []byte) ([]byte, error) {
	if c.late.Load() && !c.hasNext() {
		c.mu.Lock()
		c.flush()
		c.mu.Unlock()
	}
	b, err := c.br.Peek(4)
	if err != nil {
		if len(b) > 0 {
			err = noEOF(err)
		}
		return nil, err
	}
	n := binary.LittleEndian.Uint32(b)
	if n > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes announced where %d are allowed", ErrTooLong, n, MaxMessage)
	}
	c.br.Discard(4)
	buf = slices.Grow(buf[:0], int(n))[:n]
	if _, err := io.ReadFull(c.br, buf); err != nil {
		return nil, noEOF(err)
	}
	return buf, nil
}

// WriteMessage sends one message, the parts put together. It may return
// before the byte stream has it, but only when another writer, who waited
// meanwhile, sends it on; an error is then that writer's and every later one's.
func (c *MessageConn) WriteMessage(parts ...[]byte) error { return c.write(false, parts) }

// write is WriteMessage. With more, the caller has the next message already and
// will write it at once: this one may wait for it.
func (c *MessageConn) write(more bool, parts [][]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > MaxMessage {
		return fmt.Errorf("%w: %d bytes where %d are allowed", ErrTooLong, n, MaxMessage)
	}
	c.waiting.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.waiting.Add(-1) == 0
	if len(c.out)+4+n > outBuffer && n < largePart {
		c.flush()
	}
	c.out = binary.LittleEndian.AppendUint32(c.out, uint32(n))
	if n >= largePart {
		c.flush(parts...)
		return c.err
	}
	for _, p := range parts {
		c.out = append(c.out, p...)
	}
	if last && (!more || len(c.out) > maxLate) {
		c.flush()
	}
	return c.err
}

// hasNext tells whether the next message has come whole, so that reading it
// waits for nothing.
func (c *MessageConn) hasNext() bool {
	if c.br.Buffered() < 4 {
		return false
	}
	b, _ := c.br.Peek(4)
	return c.br.Buffered()-4 >= int(binary.LittleEndian.Uint32(b))
}

// maxLate bounds what waits for a message that is there already.
const maxLate = 32 << 10

// QueueMessage is WriteMessage for the goroutine that reads: while the next
// message is there to be read, the answer to this one may wait for that to the
// next, and go with it. ReadMessage sends what waits before it waits itself.
func (c *MessageConn) QueueMessage(parts ...[]byte) error {
	n := 4
	for _, p := range parts {
		n += len(p)
	}
	if n > maxLate/4 || !c.hasNext() {
		return c.WriteMessage(parts...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = binary.LittleEndian.AppendUint32(c.out, uint32(n-4))
	for _, p := range parts {
		c.out = append(c.out, p...)
	}
	c.late.Store(true)
	if len(c.out) > maxLate {
		c.flush()
	}
	return c.err
}

// flush writes what waits, and parts after it from where they are. c.mu is
// held.
func (c *MessageConn) flush(parts ...[]byte) {
	all := append(append(c.vector[:0], c.out), parts...)
	c.out = c.out[:0]
	c.late.Store(false)
	if c.err == nil {
		c.err = writeAll(c.rw, all)
	}
	clear(all)
	c.vector = all
}

// vectorWriter is a byte stream that takes several buffers in one system call.
type vectorWriter interface {
	writeVector(parts [][]byte) error
}

// writeAll writes the parts, which it uses up, in as few system calls as w
// allows.
func writeAll(w io.Writer, parts [][]byte) error {
	if v, ok := w.(vectorWriter); ok && len(parts) > 1 {
		return v.writeVector(parts)
	}
	buffers := net.Buffers(parts)
	_, err := buffers.WriteTo(w)
	return err
}

// CloseWrite tells the other end that nothing follows, where the byte stream
// can; elsewhere it closes it.
func (c *MessageConn) CloseWrite() error {
	if w, ok := c.rw.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// Close closes the byte stream if it can be closed.
func (c *MessageConn) Close() error {
	if w, ok := c.rw.(io.Closer); ok {
		return w.Close()
	}
	return nil
}
