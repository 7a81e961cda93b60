package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestSlowReaderSlowsWriter(t *testing.T) {
	const window = 64 << 10
	a, b := pair(t, Config{Window: func(uint32) int { return window }})
	s, r := a.Stream(16), b.Stream(16)
	var mu sync.Mutex
	written := 0
	go func() {
		for {
			n, err := s.Write(make([]byte, 1000))
			if err != nil {
				return
			}
			mu.Lock()
			written += n
			mu.Unlock()
		}
	}()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return written
	}
	eventually(t, "the window fills", func() bool { return count() > window/2 })
	time.Sleep(50 * time.Millisecond)
	if n := count(); n > window {
		t.Fatalf("%d bytes written into a window of %d", n, window)
	}
	// Another stream is not held up.
	go a.Stream(20).Write([]byte("x"))
	if _, err := b.Stream(20).Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	before := count()
	if _, err := io.ReadFull(r, make([]byte, window/2)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reading makes room", func() bool { return count() > before+window/4 })
}

func TestHalfClose(t *testing.T) {
	a, b := pair(t, Config{})
	s, r := a.Stream(16), b.Stream(16)
	s.Write([]byte("request"))
	s.CloseWrite()
	if got, err := io.ReadAll(r); string(got) != "request" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	r.Write([]byte("answer"))
	r.CloseWrite()
	if got, err := io.ReadAll(s); string(got) != "answer" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	for _, l := range []*Link{a, b} {
		eventually(t, "the stream is forgotten", func() bool { return l.Stats().Streams == 0 })
		s := l.Stream(16)
		if _, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		s.Close()
	}
	if a.Err() != nil || b.Err() != nil {
		t.Fatal(a.Err(), b.Err())
	}
}

func TestCloseReadStopsWriter(t *testing.T) {
	a, b := pair(t, Config{Window: func(uint32) int { return 32 << 10 }})
	done := make(chan error, 1)
	go func() {
		for {
			if err := a.Stream(17).WriteMessage(make([]byte, 100<<10)); err != nil {
				done <- err
				return
			}
		}
	}()
	r := b.Stream(17)
	if _, err := r.ReadMessage(nil); err != nil {
		t.Fatal(err)
	}
	r.CloseRead()
	if err := <-done; !errors.Is(err, ErrClosedByPeer) {
		t.Fatal(err)
	}
	if _, err := r.ReadMessage(nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	// The other direction goes on.
	go r.WriteMessage([]byte("still"))
	if m, err := a.Stream(17).ReadMessage(nil); string(m) != "still" || err != nil {
		t.Fatalf("%q, %v", m, err)
	}
	r.CloseWrite()
	if _, err := a.Stream(17).ReadMessage(nil); err != io.EOF {
		t.Fatal(err)
	}
	for _, l := range []*Link{a, b} {
		eventually(t, "the stream is forgotten", func() bool { return l.Stats().Streams == 0 })
	}
}

// TestCloseReadFirst closes reading before the peer has ever used the stream.
func TestCloseReadFirst(t *testing.T) {
	a, b := pair(t, Config{})
	a.Stream(17).CloseRead()
	eventually(t, "the peer is told", func() bool {
		_, err := b.Stream(17).Write([]byte("x"))
		return errors.Is(err, ErrClosedByPeer)
	})
}

func TestCloseWriteFreesBlockedWriter(t *testing.T) {
	a, b := pair(t, Config{})
	s := a.Stream(16)
	done := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 8<<20))
		done <- err
	}()
	eventually(t, "the window fills", func() bool { return a.Stats().BytesOut > windowStdio/2 })
	s.CloseWrite()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, b.Stream(16)); err != nil {
		t.Fatal(err)
	}
}

func TestMessageCutByEnd(t *testing.T) {
	l, p := newRawPeer(t, Config{})
	p.frame(typeData, flagMore, 3, 0, "half")
	p.frame(typeData, flagFin, 3, 1, "")
	if _, err := l.Stream(3).ReadMessage(nil); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
}

// TestMessagesFromMany sends messages of all sizes from several goroutines on
// one stream: none may be torn, and each sender's order stays.
func TestMessagesFromMany(t *testing.T) {
	a, b := pair(t, Config{Window: func(uint32) int { return 40 << 10 }})
	const senders, each = 4, 60
	for i := range senders {
		go func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for n := range each {
				body := bytes.Repeat([]byte{byte(i), byte(n)}, r.IntN(60<<10))
				sum := sha256.Sum256(body)
				a.Stream(3).WriteMessage([]byte{byte(i), byte(n)}, sum[:], nil, body)
			}
		}()
	}
	var next [senders]int
	var buf []byte
	for range senders * each {
		m, err := b.Stream(3).ReadMessage(buf)
		if err != nil {
			t.Fatal(err)
		}
		if int(m[1]) != next[m[0]] {
			t.Fatalf("message %d of %d, want %d", m[1], m[0], next[m[0]])
		}
		next[m[0]]++
		if sum := sha256.Sum256(m[34:]); !bytes.Equal(sum[:], m[2:34]) {
			t.Fatal("message torn")
		}
		buf = m
	}
}

// TestUnaskedData: what comes before Stream is called is kept.
func TestUnaskedData(t *testing.T) {
	a, b := pair(t, Config{})
	s := a.Stream(16)
	s.Write([]byte("early"))
	s.CloseWrite()
	eventually(t, "the data has come", func() bool { return b.Stats().Streams == 1 })
	if got, err := io.ReadAll(b.Stream(16)); string(got) != "early" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

// TestWindowGrows: a fast reader of a command's stream is given more.
func TestWindowGrows(t *testing.T) {
	a, b := pair(t, Config{})
	go func() {
		a.Stream(16).Write(make([]byte, 64<<20))
		a.Stream(16).CloseWrite()
	}()
	s := b.Stream(16)
	if n, err := io.Copy(io.Discard, s); n != 64<<20 || err != nil {
		t.Fatal(n, err)
	}
	if s.window <= windowStdio || s.window > windowStdioMax {
		t.Fatalf("window %d", s.window)
	}
}

// TestManyCommands uses and ends the streams of many commands: nothing piles
// up.
func TestManyCommands(t *testing.T) {
	a, b := pair(t, Config{MaxStreams: 16})
	for cmd := range uint32(2000) {
		s, r := a.Stream(16+4*cmd), b.Stream(16+4*cmd)
		fmt.Fprintf(s, "command %d", cmd)
		s.Close()
		if got, err := io.ReadAll(r); string(got) != fmt.Sprint("command ", cmd) || err != nil {
			t.Fatalf("%d: %q, %v", cmd, got, err)
		}
		r.Close()
		if cmd%8 == 0 {
			eventually(t, "streams are forgotten", func() bool { return a.Stats().Streams+b.Stats().Streams < 8 })
		}
	}
}

func TestIDSet(t *testing.T) {
	var s idSet
	want := map[uint32]bool{}
	r := rand.New(rand.NewPCG(7, 7))
	for range 2000 {
		id := r.Uint32N(1000)
		if r.IntN(100) == 0 {
			id = ^uint32(0) - r.Uint32N(3)
		}
		s.add(id)
		want[id] = true
	}
	for id := range uint32(1002) {
		if s.has(id) != want[id] {
			t.Fatal(id)
		}
		if top := ^uint32(0) - id; id < 5 && s.has(top) != want[top] {
			t.Fatal(top)
		}
	}
	for id := range uint32(100_000) {
		s.add(10_000 + 3*id)
	}
	if len(s.spans) > maxSpans || !s.has(10_000) || !s.has(10_000+3*99_999) || s.has(10_001+3*99_999) {
		t.Fatal(len(s.spans))
	}
}
