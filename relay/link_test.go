package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// pair starts both ends of a link over a net.Pipe.
func pair(t testing.TB, cfg Config) (a, b *Link) {
	t.Helper()
	x, y := net.Pipe()
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

func BenchmarkMessagePipe(b *testing.B) {
	x, y := pair(b, Config{})
	benchmarkMessages(b, x, y, 1<<20)
}

func benchmarkMessages(b *testing.B, x, y *Link, size int) {
	msg := make([]byte, size)
	b.SetBytes(int64(size))
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
	_ = time.Now
}
