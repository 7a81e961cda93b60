package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// started waits until a command has written its process's number to a file.
func (s *staying) started(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if fi, err := os.Stat(filepath.Join(s.Work, name)); err == nil && fi.Size() > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not appear", name)
		}
	}
}

func TestPersistSignals(t *testing.T) {
	s := newStaying(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.command(ctx, "sh", "-c", "trap 'echo usr1 >>got; kill -TERM $$' USR1; echo 1 >up; while :; do sleep 0.05; done")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	s.started(t, "up")
	if err := c.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); exitCode(c.ProcessState) != 128+15 {
		t.Errorf("ended with %v", err)
	}
	if got := s.read(t, "got"); got != "usr1\n" {
		t.Errorf("got %q", got)
	}
}

// Who kills nexec ends its command, and only that.
func TestPersistKilledClient(t *testing.T) {
	s := newStaying(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	bystander := s.command(ctx, "sh", "-c", "echo 1 >up2; while [ ! -e done ]; do sleep 0.05; done; echo fine")
	var out harness.Buffer
	bystander.Stdout = &out
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	polite := s.command(ctx, "sh", "-c", "trap 'echo hup >hup; exit' HUP; echo 1 >up; while :; do sleep 0.05; done")
	deaf := s.command(ctx, "sh", "-c", "trap '' HUP; echo $$ >up3; while :; do sleep 0.05; echo alive >alive; done")
	for c, file := range map[*exec.Cmd]string{polite: "up", deaf: "up3"} {
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		s.started(t, file)
	}
	s.started(t, "up2")
	for _, c := range []*exec.Cmd{polite, deaf} {
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); exitCode(c.ProcessState) != 128+9 {
			t.Errorf("ended with %v", err)
		}
	}
	s.started(t, "hup")
	pid := strings.TrimSpace(s.read(t, "up3"))
	for end := time.Now().Add(10 * time.Second); s.do(t, nil, "test", "-e", "/proc/"+pid).code == 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a command that ignores HUP outlives its nexec")
		}
	}
	s.write(t, "done", "")
	if err := bystander.Wait(); err != nil || out.String() != "fine\n" {
		t.Errorf("the bystander: %v, %q", err, out.String())
	}
}

// The end of the session's process ends its commands with 255 and a line, and
// the next command has a session again.
func TestPersistKilledMaster(t *testing.T) {
	s := newStaying(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP} {
		os.Remove(filepath.Join(s.Work, "up"))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c := s.command(ctx, "sh", "-c", "echo 1 >up; sleep 100")
		var stderr harness.Buffer
		c.Stderr = &stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		s.started(t, "up")
		if err := syscall.Kill(s.master(t), sig); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); exitCode(c.ProcessState) != 255 {
			t.Errorf("%v: ended with %v", sig, err)
		}
		if said := stderr.String(); strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "nexec: ") {
			t.Errorf("%v: said %q", sig, said)
		} else {
			t.Logf("%v: %s", sig, said)
		}
		s.noMaster(t, 5*time.Second)
		if out := s.good(t, "echo", "again"); out != "again\n" {
			t.Errorf("%v: got %q", sig, out)
		}
	}
}

// The server's end ends the session, and commands with it.
func TestPersistLostServer(t *testing.T) {
	s := newStaying(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.command(ctx, "sh", "-c", "echo 1 >up; sleep 100")
	var stderr harness.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	s.started(t, "up")
	for _, p := range harness.Named("nexec-server") {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
	if err := c.Wait(); exitCode(c.ProcessState) != 255 || !strings.Contains(stderr.String(), "lost") {
		t.Errorf("ended with %v, said %q", err, stderr.String())
	}
	s.noMaster(t, 5*time.Second)
}

func TestPersistControl(t *testing.T) {
	s := newStaying(t)
	if r := s.control(t, "check"); r.code != 255 || !strings.Contains(r.err, "no session") {
		t.Errorf("-O check without a session: %s", r)
	}
	s.good(t, "true")
	if r := s.control(t, "check"); r.code != 0 || !strings.Contains(r.err, fmt.Sprintf("pid %d", s.master(t))) {
		t.Errorf("-O check: %s", r)
	}
	r := s.control(t, "list")
	if f := strings.Fields(r.out); r.code != 0 || len(f) != 10 || f[5] != "box" || f[6] != strconv.Itoa(s.master(t)) || f[8] != "0" || f[9] != "1" {
		t.Errorf("-O list: %s", r)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.command(ctx, "sh", "-c", "echo 1 >up; sleep 100")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	s.started(t, "up")
	if r := s.control(t, "exit"); r.code != 0 {
		t.Errorf("-O exit: %s", r)
	}
	if err := c.Wait(); exitCode(c.ProcessState) != 255 {
		t.Errorf("the command ended with %v", err)
	}
	s.noMaster(t, 5*time.Second)
	if r := s.control(t, "exit"); r.code != 255 {
		t.Errorf("-O exit without a session: %s", r)
	}
}

// An idle session ends by itself; one with a command does not.
func TestPersistIdle(t *testing.T) {
	s := newStaying(t)
	s.options = []string{"--persist=1"}
	s.good(t, "sleep", "1.5")
	s.good(t, "true")
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections: the session ended while it ran a command", n)
	}
	s.noMaster(t, 4*time.Second)
	s.good(t, "true")
	if n := s.connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
	s.noMaster(t, 4*time.Second)
}

// A socket that nobody listens on is replaced, a directory that others can
// enter is not used.
func TestPersistSockets(t *testing.T) {
	s := newStaying(t)
	s.good(t, "true")
	if err := syscall.Kill(s.master(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.noMaster(t, 5*time.Second)
	if n := len(s.sockets(t)); n != 1 {
		t.Fatalf("%d sockets after a kill", n)
	}
	s.good(t, "true")
	s.control(t, "exit")
	s.noMaster(t, 5*time.Second)
	if err := os.Chmod(s.runtime+"/nexec", 0o755); err != nil {
		t.Fatal(err)
	}
	if r := s.do(t, nil, "echo", "hi"); r.code != 0 || r.out != "hi\n" || !strings.Contains(r.err, "chmod 700") {
		t.Errorf("with an open directory: %s", r)
	}
	if n := len(s.masters()); n != 0 {
		t.Errorf("%d sessions stay", n)
	}
	if err := os.Chmod(s.runtime+"/nexec", 0o700); err != nil {
		t.Fatal(err)
	}
}

// Many at once make one session.
func TestPersistStartedAtOnce(t *testing.T) {
	s := newStaying(t)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if r := s.do(t, nil, "echo", strconv.Itoa(i)); r.code != 0 || r.out != fmt.Sprintln(i) || r.err != "" {
				t.Errorf("command %d: %s", i, r)
			}
		})
	}
	wg.Wait()
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// The session does not hold what the command that started it had open.
func TestPersistLetsGo(t *testing.T) {
	s := newStaying(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	nexec := s.command(ctx)
	script := `exec 9>&1; out=$("$0" "$@" sh -c 'echo out; echo err >&2' 2>&1); echo "$out" | sort`
	sh := s.Command(ctx, "sh", append([]string{"-c", script}, nexec.Args...)...)
	sh.Env = nexec.Env
	if r := collect(t, ctx, sh); r.code != 0 || r.out != "err\nout\n" {
		t.Errorf("got %s", r)
	}
}

// ssh_config's ControlPersist makes sessions stay as well, and a host that
// cannot be reached is an error of the first attempt.
func TestPersistByConfig(t *testing.T) {
	s := newStaying(t)
	s.options = []string{"-o", "ControlMaster=auto", "-o", "ControlPath=" + s.Client + "/ssh-%C", "-o", "ControlPersist=5m"}
	s.good(t, "true")
	s.good(t, "true")
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	s.options = append(s.options, "--persist=no")
	s.good(t, "true")
	if n := s.connections(); n != 2 {
		t.Errorf("%d connections with --persist=no", n)
	}
	s.options = []string{"--persist", "-p", "1", "-o", "ConnectTimeout=5"}
	if r := s.do(t, nil, "true"); r.code != 255 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "refused") {
		t.Errorf("a host that is not there: %s", r)
	}
}

// A terminal that goes away takes the shell on it along, and not only what is
// in its foreground.
func TestPersistHangUp(t *testing.T) {
	s := newStaying(t)
	for _, kill := range []bool{false, true} {
		os.Remove(filepath.Join(s.Work, "up"))
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		term, err := harness.NewTerminal(s.command(ctx, "bash", "--norc", "--noprofile", "-i"), 24, 80)
		if err != nil {
			t.Fatal(err)
		}
		if err := term.Send("sh -c 'echo 1 >up; exec sleep 500'\n"); err != nil {
			t.Fatal(err)
		}
		s.started(t, "up")
		if kill {
			err = term.Cmd.Process.Kill()
		} else {
			err = term.HangUp()
		}
		if err != nil {
			t.Fatal(err)
		}
		term.Wait(10 * time.Second)
		for end := time.Now().Add(10 * time.Second); !strings.Contains(strings.Join(strings.Fields(s.control(t, "list").out), " "), "s 0 "); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("killed %v: still there: %s", kill, s.control(t, "list"))
			}
		}
		for end := time.Now().Add(10 * time.Second); len(harness.Named("sleep"))+len(harness.Named("bash")) > 0; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("killed %v: %q still run", kill, append(harness.Named("sleep"), harness.Named("bash")...))
			}
		}
	}
}
