package relay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

const (
	// headerSize is the length of a frame's header, in bytes.
	headerSize = 20
	// MaxPayload bounds a frame's payload. With its header the longest frame
	// is 64 KiB, which is two full SSH packets.
	MaxPayload = 64<<10 - headerSize
	// frameCost is what a frame takes of its stream's window beside its
	// payload, so that many small frames cannot take much memory.
	frameCost = 256
	// maxReason bounds the text of a bye.
	maxReason = 1024
)

// flagsAt is where the flags are in a header.
const flagsAt = 5

// frameType is a frame's type on the wire.
type frameType uint8

const (
	typeData   frameType = 1
	typeCredit frameType = 2
	typeStop   frameType = 3
	typePing   frameType = 4
	typePong   frameType = 5
	typeBye    frameType = 6
)

func (t frameType) String() string {
	switch t {
	case typeData:
		return "data"
	case typeCredit:
		return "credit"
	case typeStop:
		return "stop"
	case typePing:
		return "ping"
	case typePong:
		return "pong"
	case typeBye:
		return "bye"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Flags of data frames.
const (
	flagMore uint8 = 1 << 0 // the message goes on in the next frame
	flagFin  uint8 = 1 << 1 // nothing follows on the stream
	flagZstd uint8 = 1 << 2 // the payload is compressed
	flagAsk  uint8 = 1 << 3 // to be acknowledged at once
)

// header is a frame's header.
type header struct {
	length uint32 // of the payload
	typ    frameType
	flags  uint8
	stream uint32
	// seq is the number of a data frame in its stream, from zero; in a credit
	// frame, the number of the first frame not yet received.
	seq uint64
}

// put writes the header to the first headerSize bytes of b.
func (h header) put(b []byte) {
	_ = b[headerSize-1]
	binary.LittleEndian.PutUint32(b, h.length)
	b[4] = byte(h.typ)
	b[flagsAt] = h.flags
	b[6], b[7] = 0, 0
	binary.LittleEndian.PutUint32(b[8:], h.stream)
	binary.LittleEndian.PutUint64(b[12:], h.seq)
}

// parseHeader reads a header and checks all that can be known from it alone.
func parseHeader(b []byte) (header, error) {
	_ = b[headerSize-1]
	h := header{
		length: binary.LittleEndian.Uint32(b),
		typ:    frameType(b[4]),
		flags:  b[flagsAt],
		stream: binary.LittleEndian.Uint32(b[8:]),
		seq:    binary.LittleEndian.Uint64(b[12:]),
	}
	if b[6] != 0 || b[7] != 0 {
		return h, broken("reserved bytes of a frame are not zero")
	}
	var min, max uint32
	linkWide := false
	switch h.typ {
	case typeData:
		return h, h.checkData()
	case typeCredit:
		min, max = 8, 8
	case typeStop:
		if h.seq != 0 {
			return h, broken("stop frame with sequence number %d", h.seq)
		}
	case typePing, typePong:
		min, max, linkWide = 8, 8, true
	case typeBye:
		min, max, linkWide = 1, 1+maxReason, true
	default:
		return h, broken("frame of unknown type %d", uint8(h.typ))
	}
	switch {
	case h.length < min || h.length > max:
		return h, broken("%s frame of %d bytes", h.typ, h.length)
	case h.flags != 0:
		return h, broken("%s frame with flags %#x", h.typ, h.flags)
	case linkWide && (h.stream != 0 || h.seq != 0):
		return h, broken("%s frame of stream %d, sequence number %d", h.typ, h.stream, h.seq)
	}
	return h, nil
}

func (h header) checkData() error {
	switch {
	case h.length > MaxPayload:
		return broken("data frame of %d bytes where %d are allowed", h.length, MaxPayload)
	case h.flags&^(flagMore|flagFin|flagZstd|flagAsk) != 0,
		h.flags&flagFin != 0 && (h.flags&^flagAsk != flagFin || h.length != 0),
		h.flags&flagZstd != 0 && h.length == 0:
		return broken("data frame of %d bytes with flags %#x", h.length, h.flags)
	case h.seq == math.MaxUint64:
		return broken("data frame with the last of all sequence numbers")
	}
	return nil
}

// preambleSize is the length of what opens each byte stream, in bytes.
const preambleSize = 16

// magic cannot be the start of a text, and does not survive a byte stream
// that translates line ends or strips the eighth bit.
const magic = "\xcenexec\r\n"

// Version is the version of the link that this package speaks.
const Version = 1

// role says what a byte stream is to its link.
type role uint8

const (
	roleFirst    role = 0
	roleAttached role = 1
)

// preambleZstd says that data frames sent to this end may be compressed.
const preambleZstd uint8 = 1 << 0

type preamble struct {
	version uint16
	role    role
	flags   uint8
}

func (p preamble) append(b []byte) []byte {
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint16(b, p.version)
	return append(b, byte(p.role), p.flags, 0, 0, 0, 0)
}

// parsePreamble reads a preamble of preambleSize bytes.
func parsePreamble(b []byte) (preamble, error) {
	if !bytes.HasPrefix(b, []byte(magic)) {
		return preamble{}, notNexec(b)
	}
	p := preamble{
		version: binary.LittleEndian.Uint16(b[8:]),
		role:    role(b[10]),
		flags:   b[11],
	}
	switch {
	case p.version != Version:
		return p, fmt.Errorf("%w: %d there, %d here; install the same nexec on both", ErrVersion, p.version, Version)
	case p.role > roleAttached:
		return p, broken("byte stream of role %d", p.role)
	case p.flags&^preambleZstd != 0 || !bytes.Equal(b[12:16], make([]byte, 4)):
		return p, broken("preamble with unknown flags % x", b[11:16])
	}
	return p, nil
}

// notNexec makes the error for a peer whose first bytes are b.
func notNexec(b []byte) error {
	const most = 80
	more := ""
	if len(b) > most {
		b, more = b[:most], "…"
	}
	return fmt.Errorf("%w: it began with %q%s", ErrNotNexec, b, more)
}
