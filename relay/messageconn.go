package relay

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
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
	bw      *bufio.Writer // its first error sticks
}

// messageBuffer holds many small messages or part of a large one.
const messageBuffer = 128 << 10

// NewMessageConn returns a connection over rw.
func NewMessageConn(rw io.ReadWriter) *MessageConn {
	return &MessageConn{
		rw: rw,
		br: bufio.NewReaderSize(rw, messageBuffer),
		bw: bufio.NewWriterSize(rw, messageBuffer),
	}
}

// ReadMessage reads one message into buf, which it grows where needed, and
// returns it. At the end of the byte stream between messages the error is
// io.EOF, within one io.ErrUnexpectedEOF.
func (c *MessageConn) ReadMessage(buf []byte) ([]byte, error) {
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
func (c *MessageConn) WriteMessage(parts ...[]byte) error {
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
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(n))
	c.bw.Write(length[:])
	for _, p := range parts {
		c.bw.Write(p)
	}
	if last {
		return c.bw.Flush()
	}
	_, err := c.bw.Write(nil)
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
