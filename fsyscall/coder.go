package fsyscall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed is wrapped by every error that a decoder returns.
var ErrMalformed = errors.New("malformed message")

// coder walks a message's fields in wire order, writing them or reading them.
// One method per message describes both directions, so they cannot drift
// apart. The first failure sticks; later calls do nothing.
//
// Integers are little-endian and of fixed width. Byte strings are preceded by
// their length. There is exactly one encoding of each message.
type coder struct {
	buf     []byte // encoding: what was written; decoding: what is left
	reading bool
	err     error
}

func (c *coder) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
}

// take returns the next n bytes of the input, or nil after a failure.
func (c *coder) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.buf) {
		c.fail("truncated: %d bytes wanted, %d left", n, len(c.buf))
		return nil
	}
	b := c.buf[:n:n]
	c.buf = c.buf[n:]
	return b
}

func (c *coder) u8(p *uint8) {
	if !c.reading {
		c.buf = append(c.buf, *p)
	} else if b := c.take(1); b != nil {
		*p = b[0]
	}
}

func (c *coder) u16(p *uint16) {
	if !c.reading {
		c.buf = binary.LittleEndian.AppendUint16(c.buf, *p)
	} else if b := c.take(2); b != nil {
		*p = binary.LittleEndian.Uint16(b)
	}
}

func (c *coder) u32(p *uint32) {
	if !c.reading {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, *p)
	} else if b := c.take(4); b != nil {
		*p = binary.LittleEndian.Uint32(b)
	}
}

func (c *coder) u64(p *uint64) {
	if !c.reading {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, *p)
	} else if b := c.take(8); b != nil {
		*p = binary.LittleEndian.Uint64(b)
	}
}

func (c *coder) i32(p *int32) {
	u := uint32(*p)
	c.u32(&u)
	*p = int32(u)
}

func (c *coder) i64(p *int64) {
	u := uint64(*p)
	c.u64(&u)
	*p = int64(u)
}

func (c *coder) bool(p *bool) {
	var u uint8
	if *p {
		u = 1
	}
	c.u8(&u)
	if u > 1 {
		c.fail("boolean %d", u)
	}
	*p = u == 1
}

func (c *coder) node(p *NodeID) { c.u64((*uint64)(p)) }
func (c *coder) file(p *FileID) { c.u64((*uint64)(p)) }

// bytes codes a byte string of at most max bytes. A decoded string aliases
// the message it was decoded from.
func (c *coder) bytes(p *[]byte, max int) {
	n := uint32(len(*p))
	if !c.reading && len(*p) > max {
		c.fail("%d bytes where %d are allowed", len(*p), max)
		return
	}
	c.u32(&n)
	if !c.reading {
		c.buf = append(c.buf, *p...)
		return
	}
	if int64(n) > int64(max) {
		c.fail("%d bytes where %d are allowed", n, max)
		return
	}
	*p = c.take(int(n))
}

func (c *coder) string(p *string, max int) {
	b := []byte(*p)
	c.bytes(&b, max)
	if c.reading {
		*p = string(b)
	}
}

// name codes one component of a path: not empty, not "." or "..", without a
// slash or a NUL byte, and at most MaxName bytes.
func (c *coder) name(p *string) {
	c.string(p, MaxName)
	if c.err == nil && !ValidName(*p) {
		c.fail("not a file name: %q", *p)
	}
}

// ValidName tells whether s can be one component of a path.
func ValidName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		if s[i] == '/' || s[i] == 0 {
			return false
		}
	}
	return true
}

// slice codes a list of at most max elements, each of which takes at least
// one byte, with one(element).
func slice[T any](c *coder, p *[]T, max int, one func(*T)) {
	n := uint32(len(*p))
	if !c.reading && len(*p) > max {
		c.fail("%d elements where %d are allowed", len(*p), max)
		return
	}
	c.u32(&n)
	if c.err != nil {
		return
	}
	if !c.reading {
		for i := range *p {
			one(&(*p)[i])
		}
		return
	}
	if int64(n) > int64(max) || int64(n) > int64(len(c.buf)) {
		c.fail("%d elements in %d bytes where %d are allowed", n, len(c.buf), max)
		return
	}
	*p = slices.Grow((*p)[:0], int(min(n, 1024)))
	for range n {
		var v T
		one(&v)
		if c.err != nil {
			return
		}
		*p = append(*p, v)
	}
}
