package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/relay"
)

// furtherSite is a link with a server that attaches what joins it.
type furtherSite struct {
	*further
	t      *testing.T
	server *relay.Link
	done   chan struct{} // run has returned

	mu     sync.Mutex
	opened int
	refuse error
	rwc    []io.ReadWriteCloser // the server's ends
}

func newFurtherSite(t *testing.T, adjust func(*furtherSite)) *furtherSite {
	t.Helper()
	x, y := net.Pipe()
	s := &furtherSite{t: t, server: relay.New(y, relay.Config{}), done: make(chan struct{})}
	s.further = newFurther(relay.New(x, relay.Config{}), s.openFurther, [32]byte{1, 2, 3})
	s.further.rtt = 0
	if adjust != nil {
		adjust(s)
	}
	greeted := make(chan struct{})
	close(greeted)
	go func() {
		s.run(greeted)
		close(s.done)
	}()
	t.Cleanup(func() {
		s.link.Abort(errors.New("test over"))
		s.server.Abort(errors.New("test over"))
		s.link.Wait()
		s.server.Wait()
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			t.Error("it does not end with the link")
		}
	})
	return s
}

func (s *furtherSite) openFurther(context.Context) (io.ReadWriteCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if s.refuse != nil {
		return nil, s.refuse
	}
	x, y := net.Pipe()
	go func() {
		record := make([]byte, 48)
		if _, err := io.ReadFull(y, record); err != nil || !bytes.Equal(record, relay.AppendJoin(nil, s.secret)) {
			s.t.Errorf("joined with %q, %v", record, err)
		}
		s.server.Attach(y)
	}()
	s.rwc = append(s.rwc, y)
	return x, nil
}

// move moves a number of messages of 1 MiB.
func (s *furtherSite) move(n int) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < n && err == nil; i++ {
			err = s.link.Stream(3).WriteMessage(make([]byte, 1<<20))
		}
		done <- err
	}()
	for range n {
		if _, err := s.server.Stream(3).ReadMessage(nil); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func (s *furtherSite) await(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// moveUntil moves messages until something has come of it.
func (s *furtherSite) moveUntil(what string, ok func() bool) {
	s.t.Helper()
	s.await(what, func() bool {
		if !ok() {
			s.move(1)
		}
		return ok()
	})
}

func (s *furtherSite) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

func TestFurther(t *testing.T) {
	s := newFurtherSite(t, nil)
	s.move(3)
	if n := s.count(); n != 0 {
		t.Fatalf("%d opened for 3 MiB", n)
	}
	s.moveUntil("all are up", func() bool { return s.link.Stats().Attached == furtherMost && s.server.Stats().Attached == furtherMost })
	s.move(50)
	if st := s.server.Stats(); st.Striped < 40<<20 || st.Paths != furtherMost+1 {
		t.Fatalf("%+v", st)
	}
	if n := s.count(); n != furtherMost {
		t.Fatalf("%d opened", n)
	}
}

// TestFurtherNear: on a short line one byte stream does.
func TestFurtherNear(t *testing.T) {
	s := newFurtherSite(t, func(s *furtherSite) { s.rtt = time.Hour })
	s.move(40)
	if n := s.count(); n != 0 {
		t.Fatalf("%d opened", n)
	}
}

// TestFurtherRefused: a server that does not allow it is not asked again.
func TestFurtherRefused(t *testing.T) {
	s := newFurtherSite(t, func(s *furtherSite) { s.refuse = errors.New("no more sessions") })
	s.moveUntil("it has ended", func() bool {
		select {
		case <-s.done:
			return true
		default:
			return false
		}
	})
	s.move(40)
	if n := s.count(); n != furtherMost {
		t.Fatalf("%d asked for", n)
	}
}

// TestFurtherDropped: byte streams that the server's end does not take, or
// drops, cost nothing.
func TestFurtherDropped(t *testing.T) {
	s := newFurtherSite(t, nil)
	s.moveUntil("all are up", func() bool { return s.link.Stats().Attached == furtherMost })
	s.mu.Lock()
	for _, c := range s.rwc {
		c.Close()
	}
	s.mu.Unlock()
	s.move(40)
	s.await("they are gone", func() bool { return s.link.Stats().Paths == 1 && s.server.Stats().Paths == 1 })
	s.move(5)
}

// TestFurtherIdle: an idle session gives them up, and a busy one gets them
// again.
func TestFurtherIdle(t *testing.T) {
	s := newFurtherSite(t, func(s *furtherSite) { s.idle = 20 * time.Millisecond })
	for i := range 3 {
		s.moveUntil("they were opened", func() bool { return s.count() == (i+1)*furtherMost })
		s.await("they are gone", func() bool { return s.link.Stats().Paths == 1 && s.server.Stats().Paths == 1 })
	}
}
