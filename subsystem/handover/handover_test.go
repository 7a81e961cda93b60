package handover

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/relay"
)

var secret = Secret{0: 7, 31: 9}

// limit is how long a test waits for what is to happen.
const limit = 30 * time.Second

// place1 is a runtime directory of the test's own, as an environment.
func place1(t *testing.T) (environ []string, dir string) {
	t.Helper()
	base := t.TempDir()
	if err := os.Chmod(base, 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{"XDG_RUNTIME_DIR=" + base}, filepath.Join(base, "nexec-server")
}

// program is a connection: the end that a front door gives to its program, and
// the front door's own.
func program(t *testing.T) (*relay.Pipes, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[0]), "front door")
	near := os.NewFile(uintptr(fds[1]), "program")
	p, err := relay.NewPipes(near, near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); far.Close() })
	return p, far
}

// listen takes connections into a channel.
func listen(t *testing.T, environ []string, secret Secret) (*Listener, chan io.ReadWriteCloser) {
	t.Helper()
	taken := make(chan io.ReadWriteCloser, 100)
	l, err := Listen(environ, secret, func(rw io.ReadWriteCloser) { taken <- rw })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, taken
}

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(limit):
		t.Fatalf("no %s within %v", what, limit)
		panic("unreachable")
	}
}

func send(ctx context.Context, environ []string, secret Secret, p *relay.Pipes) <-chan error {
	done := make(chan error, 1)
	go func() { done <- Send(ctx, environ, secret, p) }()
	return done
}

// TestHandover: bytes go both ways, and the giver waits for the taker.
func TestHandover(t *testing.T) {
	environ, dir := place1(t)
	l, taken := listen(t, environ, secret)
	p, far := program(t)
	sent := send(t.Context(), environ, secret, p)
	rw := receive(t, taken, "connection")
	if _, err := far.WriteString("question"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if _, err := io.ReadFull(rw, b); err != nil || string(b) != "question" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := io.WriteString(rw, "answer"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(far, b[:6]); err != nil || string(b[:n]) != "answer" {
		t.Fatalf("%q, %v", b, err)
	}
	// What was taken is the taker's until it says otherwise.
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the directory is left: %v", err)
	}
	select {
	case err := <-sent:
		t.Fatalf("the giver did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	// Close ends a read that waits.
	read := make(chan error, 1)
	go func() {
		_, err := rw.Read(b)
		read <- err
	}()
	if err := rw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, read, "end of the read"); err == nil {
		t.Fatal("read from a closed connection")
	}
	if err := receive(t, sent, "end of the giver"); err != nil {
		t.Fatal(err)
	}
	if n, err := far.Read(b); n != 0 || err != io.EOF {
		t.Fatalf("the front door reads %d bytes, %v", n, err)
	}
}

// TestNoSession: whoever does not know the secret finds nobody.
func TestNoSession(t *testing.T) {
	environ, _ := place1(t)
	_, taken := listen(t, environ, secret)
	other := secret
	other[31]++
	p, _ := program(t)
	if err := receive(t, send(t.Context(), environ, other, p), "refusal"); !errors.Is(err, ErrNoSession) {
		t.Fatal(err)
	}
	if _, err := Listen(environ, Secret{}, nil); err == nil {
		t.Fatal("a session without a secret")
	}
	if len(taken) != 0 {
		t.Fatal("something was taken")
	}
}

// TestGiverEnds: a giver that is told to end leaves the connection behind.
func TestGiverEnds(t *testing.T) {
	environ, _ := place1(t)
	_, taken := listen(t, environ, secret)
	p, far := program(t)
	ctx, cancel := context.WithCancel(t.Context())
	sent := send(ctx, environ, secret, p)
	rw := receive(t, taken, "connection")
	defer rw.Close()
	cancel()
	receive(t, sent, "end of the giver")
	if _, err := far.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if n, err := rw.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

// dialName connects to a session's socket as a giver would.
func dialName(t *testing.T, dir string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(dir, name(secret))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestHostile: what is no connection is dropped, and the next one is taken.
func TestHostile(t *testing.T) {
	environ, dir := place1(t)
	_, taken := listen(t, environ, secret)
	pair := func() []int {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
		return fds[:]
	}
	regular, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	good := append([]byte{version}, secret[:]...)
	wrong := bytes.Clone(good)
	wrong[packetSize-1] ^= 1
	newer := bytes.Clone(good)
	newer[0]++
	fds := pair()
	for what, c := range map[string]struct {
		packet []byte
		fds    []int
	}{
		"wrong secret":       {wrong, fds},
		"other version":      {newer, fds},
		"short":              {good[:20], fds},
		"long":               {append(bytes.Clone(good), 0), fds},
		"very long":          {make([]byte, 100_000), fds},
		"no descriptors":     {good, nil},
		"one descriptor":     {good, fds[:1]},
		"four descriptors":   {good, append(pair(), fds...)},
		"a regular file":     {good, []int{int(regular.Fd()), fds[0]}},
		"a file as the last": {good, []int{fds[0], int(regular.Fd())}},
	} {
		conn := dialName(t, dir)
		var rights []byte
		if c.fds != nil {
			rights = unix.UnixRights(c.fds...)
		}
		if _, _, err := conn.WriteMsgUnix(c.packet, rights, nil); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		conn.SetReadDeadline(time.Now().Add(limit))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s: %d bytes, %v", what, n, err)
		}
	}
	for range 3 {
		dialName(t, dir) // and says nothing
	}
	p, _ := program(t)
	send(t.Context(), environ, secret, p)
	receive(t, taken, "connection").Close()
	if len(taken) != 0 {
		t.Fatal("more was taken")
	}
}

// TestCloseWhileSilent: Close does not wait for givers that say nothing, and
// as many as there may be are no harm.
func TestCloseWhileSilent(t *testing.T) {
	environ, dir := place1(t)
	l, _ := listen(t, environ, secret)
	for range pendingMost + 3 {
		dialName(t, dir)
	}
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience / 2):
		t.Fatal("Close waits for silent givers")
	}
}

// TestPlaces: directories that are not this user's alone are passed over.
func TestPlaces(t *testing.T) {
	open, _ := place1(t)
	if err := os.Chmod(strings.TrimPrefix(open[0], "XDG_RUNTIME_DIR="), 0o755); err != nil {
		t.Fatal(err)
	}
	planted, dir := place1(t)
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	loose, dir := place1(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	var secret Secret // real directories come into play
	rand.Read(secret[:])
	for _, environ := range [][]string{open, planted, loose, {"XDG_RUNTIME_DIR=relative"}, {"XDG_RUNTIME_DIR=/nowhere"}, nil} {
		l, taken := listen(t, environ, secret)
		if len(environ) > 0 && strings.HasPrefix(l.dir.path, strings.TrimPrefix(environ[0], "XDG_RUNTIME_DIR=")) {
			t.Fatalf("%s is used", l.dir.path)
		}
		p, _ := program(t)
		send(t.Context(), environ, secret, p)
		receive(t, taken, "connection").Close()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSweep: the socket of a killed session goes, those of others stay.
func TestSweep(t *testing.T) {
	environ, dir := place1(t)
	living, _ := listen(t, environ, Secret{1})
	dead, _ := listen(t, environ, Secret{2})
	fresh, _ := listen(t, environ, Secret{3})
	for _, l := range []*Listener{dead, fresh} { // as a KILL would
		l.socket.Close()
	}
	old := time.Now().Add(-2 * staleAge)
	for _, s := range []Secret{{1}, {2}} {
		if err := os.Chtimes(filepath.Join(dir, name(s)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	listen(t, environ, secret)
	for s, want := range map[Secret]bool{{1}: true, {2}: false, {3}: true, secret: true} {
		if _, err := os.Stat(filepath.Join(dir, name(s))); (err == nil) != want {
			t.Errorf("session %d: %v", s[0], err)
		}
	}
	living.Close()
}

// TestMany: sessions that begin and end side by side do not take the directory
// from under each other.
func TestMany(t *testing.T) {
	environ, dir := place1(t)
	errs := make(chan error)
	for i := range 8 {
		go func() {
			for j := range 50 {
				l, err := Listen(environ, Secret{byte(i), byte(j), 1}, func(io.ReadWriteCloser) {})
				if err == nil {
					err = l.Close()
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		if err := receive(t, errs, "end"); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the directory is left: %v", err)
	}
}
