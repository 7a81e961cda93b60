package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// otherVersionVar makes TestOtherVersionPeer a server of another version.
const otherVersionVar = "NEXEC_E2E_OTHER_VERSION"

// otherVersion is one that nobody speaks.
const otherVersion = 77

// TestOtherVersionPeer is, when it is told to be, a server of another version
// that speaks to a client through its standard input and output.
func TestOtherVersionPeer(t *testing.T) {
	if os.Getenv(otherVersionVar) == "" {
		return
	}
	code := 0
	if err := otherVersionServer(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code) // nothing but the protocol goes to standard output
}

// otherVersionServer answers a hello as PROTOCOL.md has it for ends of
// different versions.
func otherVersionServer() error {
	rw, err := relay.NewPipes(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	link := relay.New(rw, relay.Config{})
	b, err := link.Stream(fsyscall.StreamControl).ReadMessage(nil)
	if err != nil {
		return err
	}
	h, body, err := fsyscall.ParseHeader(b)
	var hello fsyscall.Hello
	if err == nil {
		err = fsyscall.Decode(body, &hello)
	}
	if err != nil || h.Op != fsyscall.OpHello || hello.Version == otherVersion {
		return fmt.Errorf("the client began with %v of version %d: %v", h.Op, hello.Version, err)
	}
	if err := sendNotice(link, fsyscall.OpFatal, &fsyscall.Fatal{Code: fsyscall.FatalVersion, Detail: fmt.Sprint(otherVersion)}); err != nil {
		return err
	}
	return link.Close()
}

func sendNotice(link *relay.Link, op fsyscall.Op, m fsyscall.Message) error {
	b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, m)
	if err != nil {
		return err
	}
	return link.Stream(fsyscall.StreamControl).WriteMessage(b)
}

// TestOtherVersionOfServer has nexec meet servers that speak another version:
// of the protocol, and of the link below it.
func TestOtherVersionOfServer(t *testing.T) {
	s := newSite(t)
	protocol := filepath.Join(s.Client, "other-protocol")
	script := fmt.Sprintf("#!/bin/sh\n%s=1 %s=1 exec '%s' -test.run '^TestOtherVersionPeer$'\n", insideVar, otherVersionVar, self(t))
	must(t, os.WriteFile(protocol, []byte(script), 0o755))
	link := filepath.Join(s.Client, "other-link")
	must(t, os.WriteFile(link, []byte("#!/bin/sh\nprintf '\\316nexec\\r\\n\\115\\0\\0\\0\\0\\0\\0\\0'\nexec cat >/dev/null\n"), 0o755))
	for _, c := range []struct{ ssh, says string }{
		{protocol, "speaks version 77 of the protocol, this is version " + fmt.Sprint(fsyscall.Version) + "; install the same nexec on both machines"},
		{link, "77 there, 1 here; install the same nexec on both"},
	} {
		r := s.run(t, "", "--ssh", c.ssh, "box", "true")
		if r.code != 255 || r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "nexec: box") || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: %s; want 255 and one line with %q", filepath.Base(c.ssh), r, c.says)
		}
	}
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	must(t, err)
	return path
}

// TestOtherVersionOfClient has nexec-server meet clients that speak another
// version: it tells them, says so in one line, and ends.
func TestOtherVersionOfClient(t *testing.T) {
	t.Run("protocol", func(t *testing.T) {
		out, said := serveClient(t, func(conn net.Conn) string {
			link := relay.New(conn, relay.Config{})
			defer link.Close()
			if err := sendNotice(link, fsyscall.OpHello, &fsyscall.Hello{Version: otherVersion}); err != nil {
				return err.Error()
			}
			b, err := link.Stream(fsyscall.StreamControl).ReadMessage(nil)
			if err != nil {
				return err.Error()
			}
			var fatal fsyscall.Fatal
			h, body, err := fsyscall.ParseHeader(b)
			if err == nil {
				err = fsyscall.Decode(body, &fatal)
			}
			return fmt.Sprint(h.Op, " ", fatal.Code, " ", fatal.Detail, " ", err)
		})
		if want := fmt.Sprint(fsyscall.OpFatal, " ", fsyscall.FatalVersion, " ", fsyscall.Version, " <nil>"); out != want {
			t.Errorf("the client heard %q, want %q", out, want)
		}
		if !strings.Contains(said, "speaks version 77") || strings.Count(said, "\n") != 1 {
			t.Errorf("nexec-server said %q", said)
		}
	})
	t.Run("link", func(t *testing.T) {
		_, said := serveClient(t, func(conn net.Conn) string {
			fmt.Fprint(conn, "\xcenexec\r\n\x4d\x00\x00\x00\x00\x00\x00\x00")
			b, _ := io.ReadAll(conn)
			return string(b)
		})
		if !strings.Contains(said, "77 there, 1 here") || strings.Count(said, "\n") != 1 {
			t.Errorf("nexec-server said %q", said)
		}
	})
}

// serveClient runs nexec-server with a client, and returns what the client
// returns and what the server said; the server must end by itself, with 1.
func serveClient(t *testing.T, client func(net.Conn) string) (heard, said string) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	ours, theirs := os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "server")
	conn, err := net.FileConn(ours)
	must(t, err)
	ours.Close()
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv("NEXEC_BIN"), "nexec-server"))
	var stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, &stderr
	must(t, cmd.Start())
	theirs.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	heard = client(conn)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("nexec-server ended with %v, want status 1", err)
	}
	return heard, stderr.String()
}
