package relay

import (
	"fmt"
	"io"

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
func Splice(l *Link, conn *MessageConn) error {
	calls, ordered, bulk := l.Stream(fsyscall.StreamCalls), l.Stream(fsyscall.StreamOrdered), l.Stream(fsyscall.StreamBulk)
	// One result from each: to conn twice, from conn once.
	in, out := make(chan error, 2), make(chan error, 1)
	for _, s := range []*Stream{calls, ordered} {
		go func() { in <- forwardCalls(s, conn) }()
	}
	go func() { out <- forwardReplies(conn, calls, bulk) }()

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
	var buf []byte
	for {
		m, err := s.ReadMessage(buf)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if err := conn.WriteMessage(m); err != nil {
			return fmt.Errorf("file service: %w", err)
		}
		buf = m
	}
}

// forwardReplies runs until conn ends, which is no error.
func forwardReplies(conn *MessageConn, calls, bulk *Stream) error {
	r := router{bulky: make(map[uint32]struct{})}
	var buf []byte
	for {
		m, err := conn.ReadMessage(buf)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("file service: %w", err)
		}
		s := calls
		if toBulk, err := r.toBulk(m); err != nil {
			return err
		} else if toBulk {
			s = bulk
		}
		if err := s.WriteMessage(m); err != nil {
			return err
		}
		buf = m
	}
}

// router decides which stream a message from the file service takes. Parts of
// one reply must not overtake each other: where there are several, all go to
// StreamBulk.
type router struct {
	bulky map[uint32]struct{} // tags of replies of which more is to come
}

// maxBulky bounds the replies in several messages that are under way at once.
// A file service works on far fewer.
const maxBulky = 1 << 16

func (r *router) toBulk(m []byte) (bool, error) {
	h, _, err := fsyscall.ParseHeader(m)
	if err != nil {
		return false, fmt.Errorf("file service: %w", err)
	}
	_, begun := r.bulky[h.Tag]
	switch {
	case h.Kind == fsyscall.KindMore && !begun:
		if len(r.bulky) == maxBulky {
			return false, fmt.Errorf("file service: more than %d replies in parts at once", maxBulky)
		}
		r.bulky[h.Tag] = struct{}{}
		return true, nil
	case h.Kind == fsyscall.KindMore:
		return true, nil
	case h.Kind == fsyscall.KindReply && begun:
		delete(r.bulky, h.Tag)
		return true, nil
	}
	return len(m) > smallReply, nil
}
