package relay

import (
	"fmt"
	"io"
	"sync"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// smallReply is the longest message that goes on StreamCalls: what 1 Gbit/s
// carries in 33 µs.
const smallReply = 4 << 10

// Splice joins the file service at the other end of conn to a link: what
// comes on StreamCalls and StreamOrdered goes to conn, and what comes from
// conn goes to StreamCalls when it is small, to StreamBulk otherwise. A reply
// in several messages is kept in order. Splice runs until either side ends,
// closes both conn and the three streams, and returns when everything it
// started has ended: with nil when the link's other end had ended both streams
// and the file service then ended its side, otherwise with what ended first.
//
// passed, if not nil, is called with the header of each message from conn, in
// order, once the link has the message.
func Splice(l *Link, conn *MessageConn, passed func(fsyscall.Header)) error {
	calls, ordered, bulk := l.Stream(fsyscall.StreamCalls), l.Stream(fsyscall.StreamOrdered), l.Stream(fsyscall.StreamBulk)
	// One result from each: to conn twice, from conn once.
	in, out := make(chan error, 2), make(chan error, 1)
	for _, s := range []*Stream{calls, ordered} {
		go func() { in <- forwardCalls(s, conn) }()
	}
	go func() { out <- forwardReplies(conn, calls, bulk, passed) }()

	var first error
	stop := func() {
		conn.Close()
		for _, s := range []*Stream{calls, ordered, bulk} {
			s.Close()
		}
	}
	fromPeer, fromConn := 0, false
	for fromPeer < 2 || !fromConn {
		var err error
		select {
		case err = <-in:
			fromPeer++
			if err == nil && fromPeer == 2 && !fromConn && first == nil {
				err = closeWrite(conn)
			}
		case err = <-out:
			fromConn = true
			if err == nil && fromPeer < 2 {
				err = fmt.Errorf("file service: %w", io.EOF)
			}
		}
		if err != nil && first == nil {
			first = err
			stop()
		}
	}
	stop()
	return first
}

func closeWrite(conn *MessageConn) error {
	if err := conn.CloseWrite(); err != nil {
		return fmt.Errorf("file service: %w", err)
	}
	return nil
}

// forwardCalls runs until the peer ends s, which is no error.
func forwardCalls(s *Stream, conn *MessageConn) error {
	var m Received
	for {
		switch err := s.ReadParts(&m); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		// Changes come in batches, which fslave then reads as such.
		if err := conn.write(s.HasMessage(), m.Parts); err != nil {
			return fmt.Errorf("file service: %w", err)
		}
		m.Free()
	}
}

// forwardReplies runs until conn ends, which is no error.
func forwardReplies(conn *MessageConn, calls, bulk *Stream, passed func(fsyscall.Header)) error {
	r := router{bulky: make(map[uint32]struct{}), passed: passed}
	q := newBacklog()
	drained := make(chan error, 1)
	go func() { drained <- q.drain(bulk) }()
	err := r.forward(conn, calls, q)
	q.end()
	if errBulk := <-drained; err == nil {
		err = errBulk
	}
	return err
}

func (r *router) forward(conn *MessageConn, calls *Stream, q *backlog) error {
	for {
		m, err := conn.ReadMessage(q.buffer())
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("file service: %w", err)
		}
		h, toBulk, err := r.toBulk(m)
		switch {
		case err != nil:
		case toBulk:
			err = q.put(m)
		default:
			err = calls.WriteMessage(m)
			q.recycle(m)
		}
		if err != nil {
			return err
		}
		if r.passed != nil {
			r.passed(h)
		}
	}
}

// backlog has the messages that wait for StreamBulk, so that small replies and
// revocations do not wait behind them.
type backlog struct {
	mu    sync.Mutex
	cond  sync.Cond
	msgs  [][]byte
	bytes int
	ended bool      // nothing more is put
	err   error     // nothing more is sent
	spare sync.Pool // of *[]byte, which the garbage collector empties
}

// maxBacklog is one window of StreamBulk. Beyond it the file service, and with it
// everything, waits.
const maxBacklog = windowBulk

func newBacklog() *backlog {
	q := &backlog{}
	q.cond.L = &q.mu
	return q
}

func (q *backlog) put(m []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && q.bytes > 0 && q.bytes+len(m) > maxBacklog {
		q.cond.Wait()
	}
	q.msgs = append(q.msgs, m)
	q.bytes += len(m)
	q.cond.Broadcast()
	return q.err
}

// drain sends what is put until end is called and all is sent, or until the
// stream fails.
func (q *backlog) drain(s *Stream) error {
	for {
		m, ok := q.next()
		if !ok {
			return nil
		}
		err := s.WriteMessage(m)
		q.mu.Lock()
		q.bytes -= len(m)
		q.err = err
		q.cond.Broadcast()
		q.mu.Unlock()
		if err != nil {
			return err
		}
		q.recycle(m)
	}
}

func (q *backlog) next() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.msgs) == 0 {
		if q.ended {
			return nil, false
		}
		q.cond.Wait()
	}
	m := q.msgs[0]
	q.msgs = q.msgs[1:]
	return m, true
}

func (q *backlog) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.cond.Broadcast()
}

// buffer returns a buffer for a message, recycle takes it back.
func (q *backlog) buffer() []byte {
	if b, ok := q.spare.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

func (q *backlog) recycle(b []byte) { q.spare.Put(&b) }

// router decides which stream a message from the file service takes. Parts of
// one reply must not overtake each other: where there are several, all go to
// StreamBulk.
type router struct {
	bulky  map[uint32]struct{} // tags of replies of which more is to come
	passed func(fsyscall.Header)
}

// maxBulky bounds the replies in several messages that are under way at once.
// A file service works on far fewer.
const maxBulky = 1 << 16

func (r *router) toBulk(m []byte) (h fsyscall.Header, bulk bool, err error) {
	if h, _, err = fsyscall.ParseHeader(m); err != nil {
		return h, false, fmt.Errorf("file service: %w", err)
	}
	_, begun := r.bulky[h.Tag]
	switch {
	case h.Kind == fsyscall.KindMore && !begun:
		if len(r.bulky) == maxBulky {
			return h, false, fmt.Errorf("file service: more than %d replies in parts at once", maxBulky)
		}
		r.bulky[h.Tag] = struct{}{}
		return h, true, nil
	case h.Kind == fsyscall.KindMore:
		return h, true, nil
	case h.Kind == fsyscall.KindReply && begun:
		delete(r.bulky, h.Tag)
		return h, true, nil
	}
	return h, len(m) > smallReply, nil
}
