package relay

import (
	"fmt"
	"sync"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// MaxMessage bounds one message, in bytes.
const MaxMessage = fsyscall.MaxMessage

// Stream is one of a link's streams. It carries bytes (Read, Write) or
// messages (ReadMessage, WriteMessage); both ends must agree which. The two
// directions are independent. One goroutine at a time reads; any number write.
//
// A stream is forgotten when it has ended in both directions: each end has
// called CloseWrite, and has read to the end or called CloseRead. Streams that
// are never ended in this way count against Config.MaxStreams.
type Stream struct {
	l     *Link
	id    uint32
	class int
	// most is what may wait here for an acknowledgement, and what the window
	// may grow to; frag is the payload of a full frame. Neither ever changes.
	most uint64
	frag int

	wmu  sync.Mutex // held while a message is split into frames
	gain gain       // under wmu
	rmu  sync.Mutex // held by the reader

	// The rest is under Link.mu.
	claimed   bool // Stream was called for it
	inReady   bool
	inAcks    bool
	nextReady *Stream

	// Sending. sendQ has what is not acknowledged; unsent, in it, is the
	// first frame that is to be sent, if any.
	wcond     sync.Cond
	sendQ     frames
	unsent    *frame
	sendNext  uint64 // number of the next frame
	sentEnd   uint64 // number after the last ever sent
	sendCost  uint64 // cost of all frames queued so far
	sendLimit uint64 // what the peer lets sendCost become
	sentCost  uint64 // cost of all frames ever sent
	ackedCost uint64 // cost of all frames acknowledged
	finQueued bool
	stopped   bool // the peer reads no more

	receiver
}

// receiver is a stream's other direction.
type receiver struct {
	rcond    sync.Cond
	recvQ    frames            // in sequence, not yet read
	early    map[uint64]*frame // ahead of their turn
	recvNext uint64            // number of the next frame in sequence
	recvCost uint64            // cost of all frames received
	seqCost  uint64            // of those in sequence
	consumed uint64            // of those read
	granted  uint64            // what the peer was told recvCost may become
	window   uint64
	grownAt  uint64 // consumed when window grew last
	finSeq   uint64 // number of the fin, once hasFin
	hasFin   bool
	recvFin  bool // the fin has come in sequence
	rclosed  bool // nobody here reads any more
}

func newStream(l *Link, id uint32) *Stream {
	window := max(l.cfg.Window(id), MinWindow)
	most := uint64(max(l.cfg.MaxWindow(id), window))
	class := min(max(l.cfg.Priority(id), PriorityControl), PriorityBulk)
	s := &Stream{
		l: l, id: id,
		class:     class,
		most:      most,
		frag:      min(MaxPayload, window/4-2*frameCost),
		sendLimit: uint64(window),
		gain:      newGain(id, class),
		receiver:  receiver{window: uint64(window), granted: uint64(window)},
	}
	s.wcond.L, s.rcond.L = &l.mu, &l.mu
	return s
}

// ID returns the stream's number.
func (s *Stream) ID() uint32 { return s.id }

// Write sends b on a byte stream. It blocks while the window is full.
func (s *Stream) Write(b []byte) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	done := 0
	for done < len(b) {
		n := min(len(b)-done, s.payload())
		joined, err := s.waitRoom(n, b[done:done+n])
		if err != nil {
			return done, err
		}
		if !joined {
			f := s.l.pool.get(n)
			copy(f.payload(), b[done:])
			if err := s.send(s.squeeze(f)); err != nil {
				return done, err
			}
		}
		done += n
	}
	return done, nil
}

// WriteMessage sends one message, the parts put together, and blocks while
// the window is full. The parts may be used again when it returns. A message
// over MaxMessage is refused with ErrTooLong and harms nothing.
func (s *Stream) WriteMessage(parts ...[]byte) error {
	left := 0
	for _, p := range parts {
		left += len(p)
	}
	if left > MaxMessage {
		return fmt.Errorf("stream %d: %w: %d bytes where %d are allowed", s.id, ErrTooLong, left, MaxMessage)
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	src := source{parts: parts}
	for {
		n := min(left, s.payload())
		if _, err := s.waitRoom(n, nil); err != nil {
			return err
		}
		f := s.l.pool.get(n)
		src.fill(f.payload())
		if left -= n; left > 0 {
			f.flags = flagMore
		}
		if err := s.send(s.squeeze(f)); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
	}
}

// CloseWrite ends this direction: the peer reads what was written, then
// io.EOF. A Write that is blocked fails with ErrClosed. Nothing blocks.
func (s *Stream) CloseWrite() error {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != open {
		return l.closedErr()
	}
	if !s.finQueued {
		s.queueFin()
		s.wcond.Broadcast()
	}
	return nil
}

// Close ends both directions.
func (s *Stream) Close() error {
	s.CloseRead()
	return s.CloseWrite()
}

// payload is how much the next frame may hold.
func (s *Stream) payload() int {
	if s.class >= PriorityBulk && s.l.slow.Load() {
		return min(s.frag, slowPayload)
	}
	return s.frag
}

// room is the payload that a frame may have now. The cost of a fin is always
// left over.
func (s *Stream) room() int {
	kept := s.sendCost - s.ackedCost
	if s.sendLimit <= s.sendCost || s.most <= kept {
		return -1
	}
	room := min(s.sendLimit-s.sendCost, s.most-kept, 1<<30)
	if s.class >= PriorityBulk {
		if ahead := s.sendCost - s.sentCost; ahead >= queueAhead {
			return -1
		} else {
			room = min(room, queueAhead-ahead)
		}
	}
	return int(room) - 2*frameCost
}

// waitRoom waits until a frame of n bytes may be queued. It puts b into the
// last frame of the queue instead, where that is possible.
func (s *Stream) waitRoom(n int, b []byte) (joined bool, err error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if err := s.writeErr(); err != nil {
			return false, err
		}
		if s.room() >= n {
			return b != nil && s.join(b), nil
		}
		s.wcond.Wait()
	}
}

// writeErr is why nothing can be written, if so.
func (s *Stream) writeErr() error {
	switch {
	case s.l.state != open:
		return s.l.closedErr()
	case s.stopped:
		return fmt.Errorf("stream %d: %w", s.id, ErrClosedByPeer)
	case s.finQueued:
		return fmt.Errorf("stream %d: %w", s.id, ErrClosed)
	}
	return nil
}

// send queues a frame that there is room for.
func (s *Stream) send(f *frame) error {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.writeErr(); err != nil {
		l.pool.put(f)
		return err
	}
	s.queue(f)
	return nil
}

// queue gives f its number. Called with Link.mu held.
func (s *Stream) queue(f *frame) {
	f.seq = s.sendNext
	s.sendNext++
	s.sendCost += f.cost()
	f.header(s.id).put(f.buf)
	s.sendQ.push(f)
	if s.unsent == nil {
		s.unsent = f
	}
	s.l.markReady(s)
}

func (s *Stream) queueFin() {
	s.finQueued = true
	f := s.l.pool.get(0)
	f.flags = flagFin
	s.queue(f)
}

func (f *frame) header(id uint32) header {
	return header{
		length: uint32(len(f.buf) - headerSize),
		typ:    typeData, flags: f.flags, stream: id, seq: f.seq,
	}
}

// join appends b to the last frame of a byte stream if that was never sent.
func (s *Stream) join(b []byte) bool {
	f := s.sendQ.tail
	if f == nil || f.flags != 0 || f.seq < s.sentEnd || cap(f.buf)-len(f.buf) < len(b) ||
		len(f.buf)+len(b) > headerSize+s.frag {
		return false
	}
	f.buf = append(f.buf, b...)
	s.sendCost += uint64(len(b))
	f.header(s.id).put(f.buf)
	return true
}

// credit handles a credit frame: the frames before ack have arrived, and the
// cost of all may become limit.
func (s *Stream) credit(ack, limit uint64) error {
	if ack > s.sentEnd {
		return broken("stream %d: frame %d acknowledged, which was never sent", s.id, ack-1)
	}
	if first := s.sendQ.head; limit < s.sendLimit || first != nil && ack < first.seq || first == nil && ack < s.sendNext {
		return broken("stream %d: credit taken back", s.id)
	}
	s.sendLimit = limit
	l := s.l
	now := l.now()
	for s.sendQ.head != nil && s.sendQ.head.seq < ack {
		f := s.sendQ.head
		if f == s.unsent { // sent on a path that died, yet arrived
			s.unsent = f.next
			s.skipSent()
		}
		s.sendQ.pop()
		s.ackedCost += f.cost()
		if f.bulk && f.sent {
			f.path.acked(f, now)
		}
		if f.busy > 0 {
			f.acked = true
		} else {
			l.pool.put(f)
		}
	}
	for _, p := range l.paths {
		p.measure(now)
	}
	s.wcond.Broadcast()
	s.tryRetire()
	return nil
}

// skipSent moves unsent over frames that were sent on living paths.
func (s *Stream) skipSent() {
	for s.unsent != nil && s.unsent.sent {
		s.unsent = s.unsent.next
	}
}

// resend makes what was under way on a dead path wait to be sent again.
func (s *Stream) resend(p *path) {
	for f := s.sendQ.head; f != nil; f = f.next {
		if f.sent && f.path == p {
			f.sent, f.path = false, nil
		}
	}
	s.unsent = s.sendQ.head
	s.skipSent()
	if s.unsent != nil {
		s.l.markReady(s)
	}
}

// stop handles the peer's CloseRead: what was never sent is dropped, and the
// stream ends there.
func (s *Stream) stop() {
	if s.stopped {
		return
	}
	s.stopped = true
	s.wcond.Broadcast()
	if s.finQueued && s.sendNext == s.sentEnd {
		return // all was sent
	}
	var keep frames
	for s.sendQ.head != nil {
		f := s.sendQ.pop()
		if f.seq < s.sentEnd {
			keep.push(f)
			continue
		}
		s.sendCost -= f.cost()
		s.l.pool.put(f)
	}
	s.sendQ = keep
	s.sendNext = s.sentEnd
	s.unsent = keep.head
	s.skipSent()
	s.queueFin()
}

// tryRetire forgets a stream that has ended both ways.
func (s *Stream) tryRetire() {
	l := s.l
	if !s.claimed || !s.finQueued || s.sendQ.head != nil || !s.recvFin || s.recvQ.head != nil || s.inAcks {
		return
	}
	if l.streams[s.id] == s {
		delete(l.streams, s.id)
		l.retired.add(s.id)
	}
}

// finish makes a stream whose number was used up: it reads as ended and
// cannot be written.
func (s *Stream) finish() { s.recvFin, s.finQueued = true, true }
