package subsystem

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// serverName makes the test binary a server in a process of its own.
const serverName = "nexec test server"

func serverMain() {
	dir := os.Args[1]
	rw, err := relay.NewPipes(os.Stdin, os.Stdout)
	if err == nil {
		err = Serve(rw, Options{Environ: os.Environ(), NewFiles: func(cfg FilesConfig) Files { return &localFiles{dir: dir, cfg: cfg} }})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// server is a session whose server is a process.
type server struct {
	*client
	cmd    *exec.Cmd
	conn   net.Conn
	stderr bytes.Buffer
	exited chan error
}

func startServer(t *testing.T) *server {
	t.Helper()
	ours, theirs := streamPair(t)
	f, err := theirs.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	dir := t.TempDir()
	for _, d := range []string{"/tmp", "/home/u", "/stdio"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := &server{conn: ours, exited: make(chan error, 1)}
	s.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{serverName, dir}, Env: []string{"PATH=/usr/bin:/bin"}, Stdin: f, Stdout: f, Stderr: &s.stderr}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	go func() { s.exited <- s.cmd.Wait() }()
	link := relay.New(ours, relay.Config{})
	s.client = &client{t: t, dir: dir, link: link, ctl: link.Stream(fsyscall.StreamControl)}
	s.notice(fsyscall.OpHello, hello())
	t.Cleanup(func() {
		link.Abort(errors.New("session over"))
		link.Wait()
		s.awaitExit(5 * time.Second)
	})
	return s
}

func (s *server) awaitExit(d time.Duration) error {
	s.t.Helper()
	select {
	case err := <-s.exited:
		s.exited <- err
		return err
	case <-time.After(d):
		s.t.Errorf("the server is still there after %v", d)
		s.cmd.Process.Kill()
		return nil
	}
}

// processes returns the processes that have word in their arguments.
func processes(word string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.Contains(b, []byte(word)) {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// children returns the children of a process.
func children(pid int) (pids []int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if len(b) == 0 { // of another thread, or a kernel without this file
		files, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, f := range files {
			s, _ := os.ReadFile(f)
			_, rest, _ := strings.Cut(string(s), ") ")
			if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
				child, _ := strconv.Atoi(strings.Split(f, "/")[2])
				pids = append(pids, child)
			}
		}
		return pids
	}
	for _, f := range strings.Fields(string(b)) {
		child, _ := strconv.Atoi(f)
		pids = append(pids, child)
	}
	return pids
}

// clinging starts a command that does what it can to outlive the session, and
// returns a word that is in the arguments of all its processes.
func (c *client) clinging(cmd uint32) (marker string) {
	c.t.Helper()
	marker = fmt.Sprintf("%d.%09d", 9000+cmd, rand.IntN(1e9))
	script := strings.ReplaceAll(`trap '' HUP TERM INT
		setsid sleep M &
		(setsid sh -c 'trap "" HUP; sleep M & exec sleep M' &)
		nohup sleep M >/dev/null 2>&1 &
		(cd /home/u; exec 9>open; sleep M) &
		echo clinging; : >/home/u/begun; while :; do sleep M; done`, "M", marker)
	x := request(cmd, "sh", "-c", script)
	if r := c.exec(x); r.Stage != fsyscall.ExecStarted {
		c.t.Fatalf("%+v", r)
	}
	b := make([]byte, 9)
	if _, err := io.ReadFull(c.stream(cmd, 1), b); err != nil || string(b) != "clinging\n" {
		c.t.Fatalf("%q, %v", b, err)
	}
	for end := time.Now().Add(5 * time.Second); len(processes(marker)) < 6; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("%d processes have begun", len(processes(marker)))
		}
	}
	return marker
}

// gone checks that no process with marker is left after d.
func gone(t *testing.T, marker string, d time.Duration) {
	t.Helper()
	end := time.Now().Add(d)
	for {
		left := processes(marker)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%d processes are left after %v", len(left), d)
			for _, pid := range left {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// mounts are those of this process's namespace that a session could have made:
// what others mount meanwhile is no concern of these tests.
func mounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.Contains(line, " - fuse.nexec ") || strings.Contains(line, " - tmpfs nexec ") {
			ours = append(ours, line)
		}
	}
	return ours
}

// Every way to end leaves nothing.
func TestEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		end    func(s *server)
		within time.Duration
	}{
		"server killed":     {func(s *server) { s.cmd.Process.Kill() }, time.Second},
		"server terminated": {func(s *server) { s.cmd.Process.Signal(syscall.SIGTERM) }, 2 * time.Second},
		"init killed":       {func(s *server) { syscall.Kill(children(s.cmd.Process.Pid)[0], syscall.SIGKILL) }, time.Second},
		"init stopped":      {func(s *server) { syscall.Kill(children(s.cmd.Process.Pid)[0], syscall.SIGSTOP); s.conn.Close() }, 4 * time.Second},
		"link cut":          {func(s *server) { s.conn.Close() }, 2 * time.Second},
		"session over":      {func(s *server) { s.link.Abort(errors.New("session over")) }, 2 * time.Second},
		"bye":               {func(s *server) { s.notice(fsyscall.OpBye, &fsyscall.Empty{}) }, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			before := mounts(t)
			s := startServer(t)
			marker := s.clinging(0)
			tc.end(s)
			gone(t, marker, tc.within)
			s.awaitExit(5 * time.Second)
			for _, m := range mounts(t) {
				if !slices.Contains(before, m) {
					t.Errorf("left behind: %s", m)
				}
			}
			if strings.Contains(s.stderr.String(), "goroutine ") || strings.Count(s.stderr.String(), "\n") > 1 {
				t.Errorf("the server said %q", s.stderr.String())
			}
		})
	}
}

// The client is told when init is killed.
func TestInitKilledIsFatal(t *testing.T) {
	s := startServer(t)
	marker := s.clinging(0)
	syscall.Kill(children(s.cmd.Process.Pid)[0], syscall.SIGKILL)
	if f := next[*fsyscall.Fatal](s.client); f.Code != fsyscall.FatalInit {
		t.Errorf("%+v", f)
	}
	gone(t, marker, time.Second)
}

// What a command leaves behind lives on until the session ends.
func TestBackgroundProcesses(t *testing.T) {
	s := startServer(t)
	marker := fmt.Sprintf("8000.%09d", rand.IntN(1e9))
	began := time.Now()
	out, _, exit := s.run(request(0, "sh", "-c", "sleep "+marker+" & echo hi"))
	if out != "hi\n" || exit.Code != 0 || time.Since(began) > 3*time.Second {
		t.Errorf("%q, %+v after %v", out, exit, time.Since(began))
	}
	if out, _, _ := s.run(request(1, "echo", "second")); out != "second\n" || len(processes(marker)) != 1 {
		t.Errorf("%q, %d processes", out, len(processes(marker)))
	}
	s.notice(fsyscall.OpBye, &fsyscall.Empty{})
	gone(t, marker, time.Second)
	if err := s.awaitExit(2 * time.Second); err != nil {
		t.Errorf("after bye: %v, %s", err, s.stderr.String())
	}
}

// Output that comes after the command's end from the rest of its pipeline is
// not lost.
func TestLateOutput(t *testing.T) {
	c := open(t, Options{})
	out, _, _ := c.run(request(0, "bash", "-c", "exec > >(sleep 0.05; cat); echo through the pipe"))
	if out != "through the pipe\n" {
		t.Errorf("%q", out)
	}
}

// A command that outruns its reader is slowed, and its output whole.
func TestSlowReader(t *testing.T) {
	c := open(t, Options{})
	if r := c.exec(request(0, "sh", "-c", "head -c 20000000 /dev/zero; echo end")); r.Stage != fsyscall.ExecStarted {
		t.Fatalf("%+v", r)
	}
	time.Sleep(500 * time.Millisecond)
	b, err := io.ReadAll(c.stream(0, 1))
	if err != nil || len(b) != 20000004 || !bytes.HasSuffix(b, []byte("end\n")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	next[*fsyscall.Exit](c)
}

// Where nobody reads, the command gets SIGPIPE.
func TestBrokenPipe(t *testing.T) {
	c := open(t, Options{})
	if r := c.exec(request(0, "yes")); r.Stage != fsyscall.ExecStarted {
		t.Fatalf("%+v", r)
	}
	c.stream(0, 1).CloseRead()
	if e := next[*fsyscall.Exit](c); e.Signal != uint8(unix.SIGPIPE) {
		t.Errorf("%+v", e)
	}
}

func TestManySessions(t *testing.T) {
	const n = 20
	var wg sync.WaitGroup
	began := time.Now()
	for i := range n {
		s := startServer(t)
		wg.Add(1)
		go func() {
			defer wg.Done()
			x := request(0, "sh", "-c", fmt.Sprintf("echo %d >/home/u/f; cat /home/u/f; ls /dev/shm /tmp; ps ax | wc -l >/dev/null", i))
			b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec}, x)
			if err == nil {
				err = s.ctl.WriteMessage(b)
			}
			if err != nil {
				t.Error(err)
				return
			}
			out, err := io.ReadAll(s.stream(0, 1))
			if want := fmt.Sprintf("%d\n/dev/shm:\n\n/tmp:\n", i); string(out) != want || err != nil {
				t.Errorf("session %d: %q, %v", i, out, err)
			}
		}()
	}
	wg.Wait()
	t.Logf("%d sessions in %v", n, time.Since(began))
}
