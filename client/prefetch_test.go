package client

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/client/clienttest"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

func TestPrefetched(t *testing.T) {
	rules := []fsyscall.ViewRule{{Path: "/"}, {Path: "/usr", Remote: true}, {Path: "/usr/src"}, {Path: "/etc", Remote: true}}
	many := make([]string, 2*fsyscall.MaxPrefetch)
	for i := range many {
		many[i] = "/home"
	}
	for _, c := range []struct {
		onWay, whole []string
		noCache      bool
		want         []string
		wantOnWay    int
	}{
		{onWay: []string{"/home/u/proj"}, want: []string{"/home/u/proj"}, wantOnWay: 4},
		{onWay: []string{"/"}, want: []string{"/"}, wantOnWay: 1},
		{onWay: []string{"/usr"}},
		{onWay: []string{"/usr/share", "/usrlocal"}, want: []string{"/usrlocal"}, wantOnWay: 2},
		{onWay: []string{"/usr/src/linux"}, want: []string{"/usr/src/linux"}, wantOnWay: 4},
		{onWay: []string{"/home/u/proj", "/home/u"}, whole: []string{"/home/u/proj/src", "/etc/x"}, want: []string{"/home/u/proj", "/home/u", "/home/u/proj/src"}, wantOnWay: 4},
		{onWay: []string{"/home/u/proj"}, noCache: true},
		{onWay: many, whole: []string{"/a"}, want: many[:fsyscall.MaxPrefetch], wantOnWay: 2},
		{},
	} {
		cfg := SessionConfig{View: rules, Prefetch: func() Prefetch { return Prefetch{c.onWay, c.whole} }, NoCache: c.noCache}
		if got, onWay := cfg.prefetched(); !slices.Equal(got, c.want) || onWay != c.wantOnWay {
			t.Errorf("%q, %q (no cache: %v): %q, %d, want %q, %d", c.onWay, c.whole, c.noCache, got, onWay, c.want, c.wantOnWay)
		}
	}
}

// TestAround: the way to the user's settings is asked for with that to the
// working directory, and what a command is expected to list if the way there is.
func TestAround(t *testing.T) {
	t.Setenv("HOME", "/home/u/")
	p := Around("/srv/a")
	p.expecting([]fsyscall.PathUse{
		{Path: "/", What: fsyscall.UseListing}, {Path: "/mnt/far/away", What: fsyscall.UseListing},
		{Path: "/srv/a/b", What: fsyscall.UseListing | fsyscall.UseName}, {Path: "/srv/a/b/c", What: fsyscall.UseListing},
		{Path: "/srv/a/d", What: fsyscall.UseName}, {Path: "/srv/a/d/e", What: fsyscall.UseListing},
	})
	want := Prefetch{
		OnWay: []string{"/srv/a", "/home/u", "/home/u/.config", "/home/u/.local/lib"},
		Whole: []string{"/srv/a/b", "/srv/a/b/c"},
	}
	if !slices.Equal(p.OnWay, want.OnWay) || !slices.Equal(p.Whole, want.Whole) {
		t.Errorf("%+v, want %+v", p, want)
	}
	t.Setenv("HOME", "")
	if p := Around("/srv/a"); !slices.Equal(p.OnWay, want.OnWay[:1]) {
		t.Errorf("without a home directory %q", p.OnWay)
	}
}

// What the hello announces is what the file service is asked first, and it is
// asked nothing else.
func TestPrefetchIsAsked(t *testing.T) {
	for _, c := range []struct{ dirs, want []string }{
		{[]string{"/home/u", "/home/v"}, []string{"/home/u", "/home/v"}}, {[]string{"/usr/share"}, nil}, {nil, nil},
	} {
		announced, asked := prefetchOf(t, c.dirs)
		if !slices.Equal(announced, c.want) {
			t.Errorf("%q: announced %q", c.dirs, announced)
		}
		dirs := fsyscall.PrefetchDirs(c.want)
		conn := relay.NewMessageConn(bytes.NewBuffer(asked))
		for i, m := range fsyscall.Prefetch(dirs, len(dirs), 0) {
			if got, err := conn.ReadMessage(nil); err != nil || !bytes.Equal(got, m) {
				t.Errorf("%q: message %d: %x, %v; want %x", c.dirs, i, got, err, m)
			}
		}
		if m, err := conn.ReadMessage(nil); err != io.EOF {
			t.Errorf("%q: asked for more: %x, %v", c.dirs, m, err)
		}
	}
}

// prefetchOf starts a session and returns what its hello announced, and what its
// file service was asked before the server asked anything.
func prefetchOf(t *testing.T, dirs []string) (announced []string, asked []byte) {
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
		Prefetch: func() Prefetch { return Prefetch{OnWay: dirs} },
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
