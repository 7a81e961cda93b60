package relay

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Read reads from a byte stream. It returns io.EOF after the peer's
// CloseWrite; after a loss, first what had come before it.
func (s *Stream) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	s.rmu.Lock()
	defer s.rmu.Unlock()
	n := 0
	for n < len(b) {
		f, err := s.head(n == 0)
		if f == nil {
			return n, err
		}
		if err := s.expand(f); err != nil {
			return n, err
		}
		c := copy(b[n:], f.payload()[f.off:])
		n += c
		if f.off += c; headerSize+f.off == len(f.buf) {
			s.take(f)
			s.l.pool.put(f)
		}
	}
	return n, nil
}

// ReadMessage reads one message into buf, which it grows where needed, and
// returns it. The error is io.EOF when the peer called CloseWrite after its
// last message, io.ErrUnexpectedEOF when it did so within one.
func (s *Stream) ReadMessage(buf []byte) ([]byte, error) {
	buf = buf[:0]
	err := s.message(func(f *frame) {
		buf = append(buf, f.payload()...)
		s.l.pool.put(f)
	})
	return buf, err
}

// Received is a message as it came, in Parts. Nothing of it is used any more
// once Free was called.
type Received struct {
	Parts  [][]byte
	l      *Link
	frames []*frame
}

// ReadParts is ReadMessage without the copy that makes the message one piece.
// It uses the memory of m, which is free or new.
func (s *Stream) ReadParts(m *Received) error {
	m.l = s.l
	return s.message(func(f *frame) {
		m.Parts = append(m.Parts, f.payload())
		m.frames = append(m.frames, f)
	})
}

// HasMessage tells whether a message of one frame is there to be read.
func (s *Stream) HasMessage() bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	f := s.recvQ.head
	return f != nil && f.flags&flagMore == 0
}

// Free gives the memory of the message back.
func (m *Received) Free() {
	for _, f := range m.frames {
		m.l.pool.put(f)
	}
	clear(m.frames)
	clear(m.Parts)
	m.frames, m.Parts = m.frames[:0], m.Parts[:0]
}

// message reads one message and gives its frames to take, whose they are.
func (s *Stream) message(take func(*frame)) error {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	size := 0
	for within := false; ; within = true {
		f, err := s.head(true)
		if err != nil {
			if within && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := s.expand(f); err != nil {
			return err
		}
		if size += len(f.payload()); size > MaxMessage {
			err := broken("stream %d: a message of more than %d bytes", s.id, MaxMessage)
			s.l.fail(err)
			return err
		}
		more := f.flags&flagMore != 0
		s.take(f)
		take(f)
		if !more {
			return nil
		}
	}
}

// CloseRead ends reading: what has come or comes is thrown away, and the
// peer's writes fail with ErrClosedByPeer.
func (s *Stream) CloseRead() error {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.rclosed {
		return nil
	}
	if !s.recvFin && l.state == open {
		l.stops = append(l.stops, s)
		l.paths[0].wake()
	}
	s.discard()
	s.regrant()
	s.tryRetire()
	return nil
}

// discard closes the stream for reading. Called with Link.mu held. A reader
// may be copying from a frame, so none goes back to the pool.
func (s *Stream) discard() {
	s.rclosed = true
	s.recvQ = frames{}
	s.consumed = s.seqCost
	s.rcond.Broadcast()
}

// head returns the first frame that is to be read and leaves it where it is.
// Without wait it returns nil, nil when there is none yet.
func (s *Stream) head(wait bool) (*frame, error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case s.rclosed && l.err != nil:
			return nil, l.err
		case s.rclosed:
			return nil, fmt.Errorf("stream %d: %w", s.id, ErrClosed)
		case s.recvQ.head != nil:
			return s.recvQ.head, nil
		case !wait:
			return nil, nil
		case s.recvFin:
			return nil, io.EOF
		case l.state != open:
			return nil, l.closedErr()
		}
		s.rcond.Wait()
	}
}

// take removes the first frame, which is the reader's from now on.
func (s *Stream) take(f *frame) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.recvQ.head != f {
		return // thrown away meanwhile
	}
	s.recvQ.pop()
	s.consumed += f.taken
	if s.recvQ.head == nil && s.consumed-s.grownAt >= s.window && s.window < s.most {
		s.window = min(2*s.window, s.most)
		s.grownAt = s.consumed
	}
	s.regrant()
	s.tryRetire()
}

// regrant has the peer told of new credit when there is enough of it.
func (s *Stream) regrant() {
	if s.l.state == open && !s.recvFin && s.consumed+s.window-s.granted >= s.window/4 {
		s.l.needAck(s)
		s.l.ackSoon()
	}
}

// grant returns what the peer may send in all, and takes note of it.
func (s *Stream) grant() uint64 {
	s.granted = max(s.granted, s.consumed+s.window)
	return s.granted
}

// needAck puts s among the streams to be acknowledged.
func (l *Link) needAck(s *Stream) {
	if !s.inAcks {
		s.inAcks = true
		l.acks = append(l.acks, s)
	}
}

// ackSoon has acknowledgements sent without waiting for other traffic.
func (l *Link) ackSoon() {
	if !l.acksNow && len(l.acks) != 0 {
		l.acksNow = true
		l.paths[0].wake()
	}
}

// fromPeer returns the stream that the peer's frame is for. It is nil for one
// that has ended: such frames crossed its end and mean nothing.
func (l *Link) fromPeer(id uint32) (*Stream, error) {
	if s := l.streams[id]; s != nil {
		return s, nil
	}
	switch {
	case l.retired.has(id) || l.state == ended:
		return nil, nil
	case len(l.streams) >= l.cfg.MaxStreams:
		return nil, broken("stream %d: more than %d streams", id, l.cfg.MaxStreams)
	case l.unclaimed >= l.cfg.MaxUnclaimed:
		return nil, broken("stream %d: more than %d streams that nobody asked for", id, l.cfg.MaxUnclaimed)
	}
	s := newStream(l, id)
	l.streams[id] = s
	l.unclaimed++
	return s, nil
}

// received handles a data frame. Called with mu held.
func (l *Link) received(id uint32, f *frame) error {
	s, err := l.fromPeer(id)
	if err == nil {
		err = l.checkCompressed(id, f)
	}
	if err != nil {
		return err
	}
	asked := f.flags&flagAsk != 0
	if s == nil || f.seq < s.recvNext || s.early[f.seq] != nil {
		l.pool.put(f) // sent again after a path died
		return nil
	}
	if err := s.admit(f); err != nil {
		return err
	}
	if s.class >= PriorityBulk {
		l.bulk.moved(len(f.buf))
	}
	if f.seq != s.recvNext {
		if s.early == nil {
			s.early = make(map[uint64]*frame)
		}
		s.early[f.seq] = f
		return nil
	}
	for f != nil {
		delete(s.early, f.seq)
		l.ackDebt += f.cost()
		s.inSequence(f)
		f = s.early[s.recvNext]
	}
	s.rcond.Broadcast()
	l.needAck(s)
	if asked || l.ackDebt >= ackEvery || s.recvFin {
		l.ackSoon()
	}
	return nil
}

// admit checks a new frame against the stream's bounds and counts it.
func (s *Stream) admit(f *frame) error {
	switch {
	case s.hasFin && f.seq >= s.finSeq:
		return broken("stream %d: frame %d after its end", s.id, f.seq)
	case f.seq-s.recvNext >= (s.granted-s.seqCost)/frameCost:
		return broken("stream %d: frame %d while waiting for %d is outside the window", s.id, f.seq, s.recvNext)
	case s.recvCost+f.cost() > s.granted:
		return broken("stream %d: %d bytes beyond its window", s.id, s.recvCost+f.cost()-s.granted)
	}
	if f.flags&flagFin != 0 {
		for seq := range s.early {
			if seq > f.seq {
				return broken("stream %d: end before frame %d", s.id, seq)
			}
		}
		s.hasFin, s.finSeq = true, f.seq
	}
	s.recvCost += f.cost()
	return nil
}

// inSequence moves the next frame to the reader.
func (s *Stream) inSequence(f *frame) {
	s.recvNext++
	s.seqCost += f.cost()
	f.taken = f.cost()
	switch {
	case f.flags&flagFin != 0:
		s.recvFin = true
		s.consumed += f.taken
	case s.rclosed:
		s.consumed += f.taken
		s.regrant()
	default:
		s.recvQ.push(f)
		return
	}
	s.l.pool.put(f)
}

// control handles all frames but data.
func (l *Link) control(h header, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch h.typ {
	case typeCredit:
		return l.credit(h, binary.LittleEndian.Uint64(payload))
	case typeStop:
		s, err := l.fromPeer(h.stream)
		if s != nil && l.state == open {
			s.stop()
		}
		return err
	case typePing:
		l.pong = append(l.pong[:0], payload...)
		l.paths[0].wake()
	case typePong:
		if v := binary.LittleEndian.Uint64(payload); v != l.pingSent || v == 0 {
			return broken("answer to a ping that was not sent")
		}
		now := l.now()
		rtt := now - time.Duration(l.pingSent)
		l.rtt.Store(int64(rtt))
		l.bulk.pinged(rtt)
		l.paths[0].pace.pinged(rtt, now)
		l.pingSent = 0
	case typeBye:
		return l.bye(payload[0], payload[1:])
	}
	return nil
}

func (l *Link) credit(h header, limit uint64) error {
	s := l.streams[h.stream]
	switch {
	case s != nil:
		if l.state == closing {
			l.paths[0].wake() // the bye may have waited for it
		}
		return s.credit(h.seq, limit)
	case l.retired.has(h.stream) || l.state == ended:
		return nil
	}
	return broken("stream %d: credit for a stream that was never used", h.stream)
}

// bye handles the peer's end of the link.
func (l *Link) bye(code byte, text []byte) error {
	if code != 0 {
		return fmt.Errorf("%w: %q", ErrAborted, text)
	}
	if len(text) != 0 {
		return broken("a reason for an end in good order")
	}
	l.byePeer = true
	if l.state == open {
		l.state = leaving
		l.wakeStreams()
		l.wakePaths()
	}
	l.checkEnd()
	return nil
}

func (l *Link) peerLeft() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byePeer
}
