package harness

import (
	"io"
	"net"
	"strconv"
	"testing"
	"time"
)

// echoServer answers every connection with its own bytes.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dialLink(t *testing.T, s Shape) (*Link, net.Conn) {
	t.Helper()
	l, err := NewLink(s, echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(l.Port()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return l, c
}

// TestDelay holds a round trip to the link's, the first one to two of them:
// TCP's handshake comes before it.
func TestDelay(t *testing.T) {
	_, c := dialLink(t, Shape{Delay: 20 * time.Millisecond})
	buf := make([]byte, 1)
	for i, want := range []time.Duration{80 * time.Millisecond, 40 * time.Millisecond, 40 * time.Millisecond} {
		start := time.Now()
		c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < want-2*time.Millisecond || took > want+10*time.Millisecond {
			t.Errorf("round trip %d took %s, want %s", i, took, want)
		}
	}
}

// TestRate holds throughput to the link's rate, and a link's buffers to more
// than what is on the way at any time.
func TestRate(t *testing.T) {
	const rate, size = 20e6, 10_000_000
	_, c := dialLink(t, Shape{Delay: 50 * time.Millisecond, Rate: rate})
	go c.Write(make([]byte, size))
	start := time.Now()
	if _, err := io.ReadFull(c, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	// There and back overlap. Two round trips are the handshake and the way.
	want := time.Duration(size/rate*float64(time.Second)) + 200*time.Millisecond
	if took := time.Since(start); took < want || took > want+200*time.Millisecond {
		t.Errorf("%d bytes took %s, want a little more than %s", size, took, want)
	}
}

// TestCut checks that both ends notice a cut, and that the link goes on.
func TestCut(t *testing.T) {
	l, c := dialLink(t, Shape{})
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.Cut()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("nothing was noticed")
	}
}
