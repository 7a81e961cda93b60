package client

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/client/clienttest"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

func TestPrefetched(t *testing.T) {
	rules := []fsyscall.ViewRule{{Path: "/"}, {Path: "/usr", Remote: true}, {Path: "/usr/src"}, {Path: "/etc", Remote: true}}
	for _, c := range []struct {
		path    string
		noCache bool
		want    string
	}{
		{path: "/home/u/proj", want: "/home/u/proj"},
		{path: "/", want: "/"},
		{path: "/usr"},
		{path: "/usr/share"},
		{path: "/usr/src/linux", want: "/usr/src/linux"},
		{path: "/usrlocal", want: "/usrlocal"},
		{path: "/home/u/proj", noCache: true},
		{path: ""},
	} {
		cfg := SessionConfig{View: rules, Prefetch: c.path, NoCache: c.noCache}
		if got := cfg.prefetched(); got != c.want {
			t.Errorf("%q (no cache: %v): %q, want %q", c.path, c.noCache, got, c.want)
		}
	}
}

// What the hello announces is what the file service is asked first.
func TestPrefetchIsAsked(t *testing.T) {
	asked := t.TempDir() + "/asked"
	hello := make(chan *fsyscall.Hello, 1)
	server := clienttest.Server{OnHello: func(h *fsyscall.Hello) { hello <- h }}
	served := make(chan error, 1)
	s, err := Start(context.Background(), SessionConfig{
		Open: func(context.Context) (io.ReadWriteCloser, error) {
			here, there := net.Pipe()
			go func() { served <- server.Serve(there) }()
			return here, nil
		},
		Files:    Files{Path: "/bin/sh", Args: []string{"-c", "exec cat >" + asked}},
		View:     []fsyscall.ViewRule{{Path: "/"}},
		Prefetch: "/home/u",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h := <-hello; h.Prefetched != "/home/u" {
		t.Errorf("announced %q", h.Prefetched)
	}
	want := 0
	for _, m := range fsyscall.Prefetch("/home/u") {
		want += 4 + len(m)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if fi, err := os.Stat(asked); err == nil && fi.Size() == int64(want) {
			break
		}
		if time.Now().After(end) {
			t.Error("the file service was not asked")
			break
		}
	}
	s.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	f, err := os.Open(asked)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn := relay.NewMessageConn(f)
	for i, m := range fsyscall.Prefetch("/home/u") {
		if got, err := conn.ReadMessage(nil); err != nil || string(got) != string(m) {
			t.Errorf("message %d: %x, %v; want %x", i, got, err, m)
		}
	}
}

// addressed is a byte stream that says where it leads.
type addressed struct {
	io.ReadWriteCloser
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

type name string

func (name) Network() string  { return "proxy" }
func (n name) String() string { return string(n) }

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:22": true, "[::1]:22": true, "[::ffff:127.0.0.1]:22": true,
		"192.0.2.1:22": false, "[2001:db8::1]:22": false, "host:22": false, "jump": false,
	} {
		if got := loopback(addressed{addr: name(addr)}); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if here, _ := net.Pipe(); loopback(struct{ io.ReadWriteCloser }{here}) {
		t.Error("a stream that does not say where it leads")
	}
}
