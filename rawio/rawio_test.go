package rawio

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

func pipe(t *testing.T) (r, w *File) {
	t.Helper()
	pr, pw, err := os.Pipe() // neither blocks
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pr.Close(); pw.Close() })
	if r, err = NewFile(pr); err == nil {
		w, err = NewFile(pw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

func sockets(t *testing.T) (a, b *Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return NewConn(near).(*Conn), NewConn(far).(*Conn)
}

// parts is more than a pipe or a socket holds and than one call takes.
func parts() (all []byte, parts [][]byte) {
	for i := range 3 * maxVectors {
		p := bytes.Repeat([]byte{byte(i)}, 1+i*i)
		all = append(all, p...)
		parts = append(parts, nil, p)
	}
	return all, parts
}

func TestWriteWaitsForRoom(t *testing.T) {
	pr, pw := pipe(t)
	sr, sw := sockets(t)
	for name, c := range map[string]struct {
		r io.ReadCloser
		w io.WriteCloser
		v func([][]byte) error
	}{
		"pipe":   {pr, pw, pw.WriteVector},
		"socket": {sr, sw, func(p [][]byte) error { _, err := Write(sw.raw, p); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			want, vector := parts()
			failed := make(chan error, 1)
			go func() {
				err := c.v(vector)
				if err == nil {
					_, err = c.w.Write(want)
				}
				failed <- errors.Join(err, c.w.Close())
			}()
			time.Sleep(10 * time.Millisecond) // it waits for room by now
			got, err := io.ReadAll(c.r)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-failed; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, slices.Concat(want, want)) {
				t.Errorf("%d bytes came, not those of %d that were sent", len(got), 2*len(want))
			}
		})
	}
}

func TestReadWaits(t *testing.T) {
	r, w := pipe(t)
	go func() {
		time.Sleep(10 * time.Millisecond)
		w.Write([]byte("late"))
		w.Close()
	}()
	b := make([]byte, 10)
	if n, err := r.Read(b); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := r.Read(b); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
}

func TestCloseEndsRead(t *testing.T) {
	r, _ := pipe(t)
	c, _ := sockets(t)
	for name, x := range map[string]io.ReadCloser{"pipe": r, "socket": c} {
		time.AfterFunc(10*time.Millisecond, func() { x.Close() })
		if _, err := x.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	c, _ := sockets(t)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	r, w := pipe(t)
	r.Close()
	_, err := w.Write([]byte("x"))
	var path *os.PathError
	if !errors.As(err, &path) || !errors.Is(err, syscall.EPIPE) || path.Op != "write" {
		t.Errorf("pipe: %v", err)
	}
	a, b := sockets(t)
	b.Conn.(*net.TCPConn).SetLinger(0)
	b.Close()
	_, err = a.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.As(err, &op) || !errors.Is(err, syscall.ECONNRESET) || op.Op != "read" || op.Addr == nil {
		t.Errorf("socket: %v", err)
	}
}

// TestNoSocket: what is no descriptor stays as it is.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if NewConn(a) != a {
		t.Error("a connection in memory has become another")
	}
}
