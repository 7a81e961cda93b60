package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// asServer makes the test binary nexec-server.
const asServer = "nexec-server"

func TestMain(m *testing.M) {
	namespace.Main()
	if os.Args[0] == asServer {
		main()
	}
	os.Exit(m.Run())
}

// server starts nexec-server on one end of a socket pair, as nexecd does.
func server(t *testing.T, extra *os.File, args ...string) (*exec.Cmd, net.Conn, *bytes.Buffer) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{asServer}, args...), Stdin: theirs, Stdout: theirs, Stderr: &stderr}
	if extra != nil {
		cmd.ExtraFiles = []*os.File{extra}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); cmd.Process.Kill(); cmd.Wait() })
	return cmd, conn, &stderr
}

// wait returns the exit status.
func wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	late := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		out    string
		err    string
	}{
		{[]string{"--version"}, 0, "nexec-server ", ""},
		{[]string{"--no-such"}, 2, "", "nexec-server: flag provided but not defined: -no-such; usage: "},
		{[]string{"--cache-size", "big"}, 2, "", `nexec-server: invalid value "big" for flag -cache-size: want a number above zero and its unit; usage: `},
		{[]string{"--cache-dir", "here"}, 2, "", `nexec-server: invalid value "here" for flag -cache-dir: not an absolute path; usage: `},
		{[]string{"word"}, 2, "", "nexec-server: usage: "},
		{[]string{"--policy-fd", "77"}, 1, "", "nexec-server: --policy-fd 77: bad file descriptor"},
		{[]string{"--policy-fd", "1"}, 1, "", "nexec-server: --policy-fd 1: "},
		{nil, 1, "", "nexec-server: this program is started by nexecd"},
	} {
		var out, errOut bytes.Buffer
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{asServer}, c.args...), Stdout: &out, Stderr: &errOut}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		status := wait(t, cmd)
		if status != c.status || !strings.HasPrefix(out.String(), c.out) || !strings.HasPrefix(errOut.String(), c.err) || strings.Count(errOut.String(), "\n") > 1 {
			t.Errorf("%q: status %d, %q, %q", c.args, status, out.String(), errOut.String())
		}
	}
}

func TestCacheOptions(t *testing.T) {
	o, err := parse([]string{"--cache-dir", "/var/cache/x", "--cache-size=2G", "--cache-age", "3d"}, 77)
	want := subsystem.CacheOptions{Dir: "/var/cache/x/77", MaxBytes: 2 << 30, MaxAge: 72 * time.Hour}
	if err != nil || o.cache != want {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err := parse([]string{"--no-cache"}, 77); err != nil || !o.cache.Off {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"", "G", "0G", "-1G", "1", "1g", "1.5G", "9999999999T"} {
		if o, err := parse([]string{"--cache-size", bad}, 77); err == nil {
			t.Errorf("%q: %+v", bad, o)
		}
	}
}

func TestGarbage(t *testing.T) {
	cmd, conn, stderr := server(t, nil)
	conn.Write([]byte("GET / HTTP/1.1\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"))
	if status := wait(t, cmd); status != 1 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), "does not speak") {
		t.Errorf("status %d, %q", status, stderr.String())
	}
}

func hello(view []fsyscall.ViewRule) []byte {
	b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpHello},
		&fsyscall.Hello{Version: fsyscall.Version, View: view})
	if err != nil {
		panic(err)
	}
	return b
}

// fatal reads messages up to a Fatal.
func fatal(t *testing.T, s *relay.Stream) *fsyscall.Fatal {
	t.Helper()
	for {
		b, err := s.ReadMessage(nil)
		if err != nil {
			t.Fatal(err)
		}
		h, body, err := fsyscall.ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		var f fsyscall.Fatal
		if h.Op == fsyscall.OpFatal {
			if err := fsyscall.Decode(body, &f); err != nil {
				t.Fatal(err)
			}
			return &f
		}
	}
}

func TestPolicyFromDescriptor(t *testing.T) {
	for policy, args := range map[string][]string{
		`{"forced_command":"true"}`: {"--policy-fd", "3"},
		`not a policy`:              nil, // descriptor 3 is open, but nobody said that it is one
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(policy)
		w.Close()
		cmd, conn, stderr := server(t, r, args...)
		r.Close()
		link := relay.New(conn, relay.Config{})
		ctl := link.Stream(fsyscall.StreamControl)
		view := []fsyscall.ViewRule{{Path: "/"}}
		want := fsyscall.FatalDenied // a forced command with the client's programs
		if args == nil {
			view, want = nil, fsyscall.FatalProtocol
		}
		ctl.WriteMessage(hello(view))
		if f := fatal(t, ctl); f.Code != want {
			t.Errorf("%s: %+v", policy, f)
		}
		link.Abort(errors.New("over"))
		link.Wait()
		if status := wait(t, cmd); status != 1 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("status %d, %q", status, stderr.String())
		}
	}
}

// Told to end, it ends, and so does what it started.
func TestTerminated(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		cmd, conn, stderr := server(t, nil)
		link := relay.New(conn, relay.Config{})
		view := []fsyscall.ViewRule{{Path: "/"}, {Path: "/dev", Remote: true}, {Path: "/usr", Remote: true}}
		link.Stream(fsyscall.StreamControl).WriteMessage(hello(view))
		time.Sleep(200 * time.Millisecond) // init waits for a client that does not answer
		cmd.Process.Signal(sig)
		if status := wait(t, cmd); status != 1 || stderr.String() != "nexec-server: told to end by a signal\n" {
			t.Errorf("%v: status %d, %q", sig, status, stderr.String())
		}
		link.Abort(errors.New("over"))
		link.Wait()
	}
}
