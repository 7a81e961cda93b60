package relay

import "fmt"

// Packed is a message that is in frames already: to send it copies nothing.
type Packed struct {
	size   int
	frames []*frame
}

// Pack makes a message of the parts, put together, which may be used again when
// it returns. A message over MaxMessage is refused with ErrTooLong.
func (l *Link) Pack(parts ...[]byte) (*Packed, error) {
	p := &Packed{}
	for _, b := range parts {
		p.size += len(b)
	}
	if p.size > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes where %d are allowed", ErrTooLong, p.size, MaxMessage)
	}
	src := source{parts: parts}
	for left := p.size; ; {
		f := l.pool.get(min(left, MaxPayload))
		src.fill(f.payload())
		p.frames = append(p.frames, f)
		if left -= len(f.payload()); left == 0 {
			return p, nil
		}
	}
}

// Len returns the message's length in bytes.
func (p *Packed) Len() int { return p.size }

// WritePacked is WriteMessage of a message of this link, which it uses up
// whatever it returns.
func (s *Stream) WritePacked(p *Packed) error {
	if s.payload() < MaxPayload {
		// Long frames would hold up others on this link.
		var parts [][]byte
		for _, f := range p.frames {
			parts = append(parts, f.payload())
		}
		err := s.WriteMessage(parts...)
		for _, f := range p.frames {
			s.l.pool.put(f)
		}
		return err
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for i, f := range p.frames {
		if _, err := s.waitRoom(len(f.payload()), nil); err != nil {
			return err
		}
		if i < len(p.frames)-1 {
			f.flags = flagMore
		}
		if err := s.send(s.squeeze(f)); err != nil {
			return err
		}
	}
	return nil
}

// source is what a message is copied from.
type source struct {
	parts [][]byte
	off   int // in parts[0]
}

// fill fills b, for which there is enough.
func (s *source) fill(b []byte) {
	for len(b) > 0 {
		c := copy(b, s.parts[0][s.off:])
		b = b[c:]
		if s.off += c; s.off == len(s.parts[0]) {
			s.parts, s.off = s.parts[1:], 0
		}
	}
}
