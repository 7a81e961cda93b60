package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// pair starts both ends of a link over a net.Pipe.
func pair(t testing.TB, cfg Config) (a, b *Link) {
	t.Helper()
	x, y := net.Pipe()
	return start(t, x, y, cfg)
}

// start starts both ends of a link over x and y, and ends it with the test.
func start(t testing.TB, x, y io.ReadWriteCloser, cfg Config) (a, b *Link) {
	t.Helper()
	a, b = New(x, cfg), New(y, cfg)
	t.Cleanup(func() {
		a.Abort(errors.New("test over"))
		b.Abort(errors.New("test over"))
		a.Wait()
		b.Wait()
	})
	return a, b
}

func TestMessage(t *testing.T) {
	a, b := pair(t, Config{})
	want := bytes.Repeat([]byte("0123456789abcdef"), MaxMessage/16)
	go a.Stream(3).WriteMessage(want[:100], nil, want[100:])
	got, err := b.Stream(3).ReadMessage(nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestOrderlyClose(t *testing.T) {
	a, b := pair(t, Config{})
	a.Stream(20).Write([]byte("hello"))
	a.Stream(20).CloseWrite()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b.Stream(20))
	if string(got) != "hello" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := b.Stream(20).Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func benchmarkMessages(b *testing.B, x, y *Link, size int) {
	benchmarkMessage(b, x, y, make([]byte, size))
}

func benchmarkMessage(b *testing.B, x, y *Link, msg []byte) {
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	errs := make(chan error, 1)
	b.ResetTimer()
	go func() {
		s := x.Stream(3)
		for range b.N {
			if err := s.WriteMessage(msg); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}()
	s := y.Stream(3)
	var buf []byte
	for range b.N {
		var err error
		if buf, err = s.ReadMessage(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-errs; err != nil {
		b.Fatal(err)
	}
}

// saturate sends messages of 1 MiB from a to b on n bulk streams until stop is
// called.
func saturate(a, b *Link, n int) (stop func()) {
	var wg sync.WaitGroup
	for i := range n {
		id := uint32(3)
		if i > 0 {
			id = uint32(100 + 4*i)
		}
		wg.Add(2)
		go func() {
			defer wg.Done()
			for msg := make([]byte, 1<<20); a.Stream(id).WriteMessage(msg) == nil; {
			}
		}()
		go func() {
			defer wg.Done()
			for buf := []byte(nil); ; {
				m, err := b.Stream(id).ReadMessage(buf)
				if err != nil {
					return
				}
				buf = m
			}
		}()
	}
	return func() {
		a.Abort(errors.New("enough"))
		b.Abort(errors.New("enough"))
		wg.Wait()
	}
}
