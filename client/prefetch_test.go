package client

import (
	"bytes"
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

// What the hello announces is what the file service is asked first, and it is
// asked nothing else.
func TestPrefetchIsAsked(t *testing.T) {
	for _, c := range []struct{ dir, want string }{{"/home/u", "/home/u"}, {"/usr/share", ""}, {"", ""}} {
		announced, asked := prefetchOf(t, c.dir)
		if announced != c.want {
			t.Errorf("%q: announced %q", c.dir, announced)
		}
		var want [][]byte
		if c.want != "" {
			want = fsyscall.Prefetch(c.want)
		}
		conn := relay.NewMessageConn(bytes.NewBuffer(asked))
		for i, m := range want {
			if got, err := conn.ReadMessage(nil); err != nil || !bytes.Equal(got, m) {
				t.Errorf("%q: message %d: %x, %v; want %x", c.dir, i, got, err, m)
			}
		}
		if m, err := conn.ReadMessage(nil); err != io.EOF {
			t.Errorf("%q: asked for more: %x, %v", c.dir, m, err)
		}
	}
}

// prefetchOf starts a session in dir and returns what its hello announced, and
// what its file service was asked before the server asked anything.
func prefetchOf(t *testing.T, dir string) (announced string, asked []byte) {
	t.Helper()
	file := t.TempDir() + "/asked"
	hello := make(chan *fsyscall.Hello, 1)
	server := clienttest.Server{OnHello: func(h *fsyscall.Hello) { hello <- h }}
	served := make(chan error, 1)
	s, err := Start(context.Background(), SessionConfig{
		Open: func(context.Context) (io.ReadWriteCloser, error) {
			here, there := net.Pipe()
			go func() { served <- server.Serve(there) }()
			return here, nil
		},
		Files:    Files{Path: "/bin/sh", Args: []string{"-c", "cat >" + file + ".part; mv " + file + ".part " + file}},
		View:     []fsyscall.ViewRule{{Path: "/"}, {Path: "/usr", Remote: true}},
		Prefetch: dir,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	announced = (<-hello).Prefetched
	time.Sleep(50 * time.Millisecond) // what must not come would come now
	s.Close()                         // it has ended
	if err := <-served; err != nil {
		t.Error(err)
	}
	if asked, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	return announced, asked
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
