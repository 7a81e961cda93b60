package fsyscall

import (
	"encoding/binary"
	"fmt"
)

// Message is the body of a call, a reply or a notice. Each concrete type
// mirrors its row in PROTOCOL.md field by field.
type Message interface {
	fields(*coder)
}

// Kind says what a message is to its receiver.
type Kind uint8

const (
	// KindCall asks for exactly one last reply with the same tag.
	KindCall Kind = 1
	// KindReply is the last reply to a call.
	KindReply Kind = 2
	// KindMore is a reply that others follow.
	KindMore Kind = 3
	// KindNotice asks for no reply; its tag is zero.
	KindNotice Kind = 4
)

// HeaderSize is the length of an encoded Header, in bytes.
const HeaderSize = 9

// Header precedes every message body.
type Header struct {
	Kind Kind
	Op   Op
	// Leased is set in a reply whose answer, an error included, the server
	// may keep until a Revoke takes it back. Without it the answer may have
	// changed by the time it arrives.
	Leased bool
	// Errno is a Linux error number; zero is success. A reply with another
	// value has no body.
	Errno Errno
	// Tag joins a reply to its call. The caller picks it among those that it
	// has no call outstanding for.
	Tag uint32
}

// Errno is a Linux error number as on amd64 and arm64.
type Errno uint16

// AppendMessage appends the encoded header and body to b. A nil body is an
// empty one. An error means that the message breaks a bound.
func AppendMessage(b []byte, h Header, m Message) ([]byte, error) {
	start := len(b)
	var lease uint8
	if h.Leased {
		lease = 1
	}
	b = append(b, byte(h.Kind), byte(h.Op), lease)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.Errno))
	b = binary.LittleEndian.AppendUint32(b, h.Tag)
	if m == nil {
		return b, nil
	}
	c := coder{buf: b}
	m.fields(&c)
	if c.err == nil && len(c.buf)-start > MaxMessage {
		c.fail("%d bytes in one message", len(c.buf)-start)
	}
	if c.err != nil {
		return b[:start], fmt.Errorf("%s: %w", h.Op, c.err)
	}
	return c.buf, nil
}

// ParseHeader reads the header of an encoded message and returns the body.
func ParseHeader(b []byte) (Header, []byte, error) {
	if len(b) < HeaderSize {
		return Header{}, nil, fmt.Errorf("%w: %d bytes are no header", ErrMalformed, len(b))
	}
	if len(b) > MaxMessage {
		return Header{}, nil, fmt.Errorf("%w: %d bytes in one message", ErrMalformed, len(b))
	}
	h := Header{
		Kind:   Kind(b[0]),
		Op:     Op(b[1]),
		Leased: b[2] == 1,
		Errno:  Errno(binary.LittleEndian.Uint16(b[3:])),
		Tag:    binary.LittleEndian.Uint32(b[5:]),
	}
	body := b[HeaderSize:]
	info := h.Op.Info()
	switch {
	case h.Kind < KindCall || h.Kind > KindNotice:
		return h, nil, fmt.Errorf("%w: kind %d", ErrMalformed, h.Kind)
	case info == nil:
		return h, nil, fmt.Errorf("%w: operation %d", ErrMalformed, h.Op)
	case b[2] > 1:
		return h, nil, fmt.Errorf("%w: lease flag %d", ErrMalformed, b[2])
	case (h.Kind == KindCall || h.Kind == KindNotice) && (h.Errno != 0 || h.Leased):
		return h, nil, fmt.Errorf("%w: %s: result in a request", ErrMalformed, h.Op)
	case (h.Kind == KindNotice) != (info.Reply == nil):
		return h, nil, fmt.Errorf("%w: %s: kind %d", ErrMalformed, h.Op, h.Kind)
	case h.Kind == KindNotice && h.Tag != 0:
		return h, nil, fmt.Errorf("%w: %s: tag in a notice", ErrMalformed, h.Op)
	case h.Kind == KindMore && (!info.Stream || h.Errno != 0):
		return h, nil, fmt.Errorf("%w: %s: not the last reply", ErrMalformed, h.Op)
	case h.Errno != 0 && len(body) != 0:
		return h, nil, fmt.Errorf("%w: %s: error with a body", ErrMalformed, h.Op)
	}
	return h, body, nil
}

// Decode reads a body into m, which must be of the type that the header's row
// names. Byte strings in m alias b. Anything left over is an error.
func Decode(b []byte, m Message) error {
	c := coder{buf: b, reading: true}
	m.fields(&c)
	if c.err == nil && len(c.buf) != 0 {
		c.fail("%d bytes too many", len(c.buf))
	}
	return c.err
}

// NewBody returns an empty message of the type that the header announces, or
// nil where there is no body (an error reply).
func (h Header) NewBody() Message {
	info := h.Op.Info()
	switch {
	case info == nil || h.Errno != 0:
		return nil
	case h.Kind == KindReply || h.Kind == KindMore:
		return info.Reply()
	}
	return info.Request()
}
