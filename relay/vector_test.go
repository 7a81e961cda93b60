package relay

import (
	"bytes"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// smallSocket returns both ends of a socketpair that holds little, so that a
// large message takes many system calls.
func smallSocket(t *testing.T) (x, y *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10); err != nil {
			t.Fatal(err)
		}
	}
	return os.NewFile(uintptr(pair[0]), "x"), os.NewFile(uintptr(pair[1]), "y")
}

// TestLargeMessages: messages in parts, of all sizes about the bounds between
// what is copied and what is not, arrive whole and in order.
func TestLargeMessages(t *testing.T) {
	x, y := smallSocket(t)
	rw, err := NewPipes(x, x)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int{0, 1, largePart - 1, largePart, largePart + 1, inBuffer, outBuffer - 4, outBuffer - 3, outBuffer, 1 << 20, 7}
	sent := make(chan error, 1)
	go func() {
		c := NewMessageConn(rw)
		for i, n := range sizes {
			b := bytes.Repeat([]byte{byte(i)}, n)
			if err := c.WriteMessage(b[:n/3], nil, b[n/3:]); err != nil {
				sent <- err
				return
			}
		}
		sent <- rw.Close()
	}()
	in := NewMessageConn(y)
	defer y.Close()
	for i, n := range sizes {
		m, err := in.ReadMessage(nil)
		if err != nil || !bytes.Equal(m, bytes.Repeat([]byte{byte(i)}, n)) {
			t.Fatalf("message %d of %d bytes: %d bytes, %v", i, n, len(m), err)
		}
	}
	if _, err := in.ReadMessage(nil); err != io.EOF {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestVectorError: a write to a peer that is gone says so, then and later.
func TestVectorError(t *testing.T) {
	x, y := smallSocket(t)
	y.Close()
	rw, err := NewPipes(x, x)
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	c := NewMessageConn(rw)
	for range 2 {
		if err := c.WriteMessage(make([]byte, largePart)); err == nil {
			t.Error("written to nobody")
		}
	}
	if err := c.WriteMessage([]byte("small")); err == nil {
		t.Error("an error was forgotten")
	}
}
