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
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// staying is a site whose sessions stay, for as long as the test takes.
type staying struct {
	*site
	runtime string // the sockets' directory is in it
	options []string
}

func newStaying(t *testing.T, options ...string) *staying {
	t.Helper()
	s := &staying{site: newSite(t), options: append([]string{"--persist=5m"}, options...)}
	s.runtime = filepath.Join(s.Client, "run")
	if err := os.Mkdir(s.runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.control(t, "exit")
		if left := s.sockets(t); len(left) > 0 {
			t.Errorf("sockets left behind: %q", left)
		}
	})
	return s
}

// command is nexec with a session that stays.
func (s *staying) command(ctx context.Context, args ...string) *exec.Cmd {
	c := s.Nexec(ctx, append(append([]string{}, s.options...), append([]string{"box"}, args...)...)...)
	c.Env = append(c.Env, "XDG_RUNTIME_DIR="+s.runtime)
	return c
}

func (s *staying) do(t *testing.T, edit func(*exec.Cmd), args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.command(ctx, args...)
	if edit != nil {
		edit(c)
	}
	return collect(t, ctx, c)
}

func (s *staying) good(t *testing.T, args ...string) string {
	t.Helper()
	r := s.do(t, nil, args...)
	if r.code != 0 || r.err != "" {
		t.Fatalf("nexec --persist box %q: %s", args, r)
	}
	return r.out
}

// control runs nexec -O.
func (s *staying) control(t *testing.T, verb string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Nexec(ctx, "-O", verb, "box")
	c.Env = append(c.Env, "XDG_RUNTIME_DIR="+s.runtime)
	r := collect(t, ctx, c)
	if verb == "exit" {
		for end := time.Now().Add(5 * time.Second); len(s.sockets(t)) > 0 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		}
	}
	return r
}

func (s *staying) sockets(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(s.runtime + "/nexec/*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// connections counts those that nexecd has let in.
func (s *staying) connections() int { return strings.Count(s.nexecd.Log.String(), "Accepted ") }

// masters returns the processes of sessions that stay.
func (s *staying) masters() []int {
	var pids []int
	for _, p := range harness.Named("nexec") {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID)); err == nil && strings.Contains(string(b), "\x00--master\x00") {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

func (s *staying) master(t *testing.T) int {
	t.Helper()
	all := s.masters()
	if len(all) != 1 {
		t.Fatalf("%d processes of sessions", len(all))
	}
	return all[0]
}

func (s *staying) noMaster(t *testing.T, within time.Duration) {
	t.Helper()
	for end := time.Now().Add(within); len(s.masters()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the session's process still lives after %v", within)
		}
	}
}

func TestPersist(t *testing.T) {
	s := newStaying(t)
	if out := s.good(t, "echo", "one"); out != "one\n" {
		t.Fatalf("got %q", out)
	}
	first := s.connections()
	began := time.Now()
	for i := range 10 {
		if out := s.good(t, "echo", strconv.Itoa(i)); out != fmt.Sprintln(i) {
			t.Errorf("got %q", out)
		}
	}
	t.Logf("%v for each further command", time.Since(began)/10)
	if n := s.connections(); n != first || n == 0 {
		t.Errorf("%d connections after the first command, %d after ten more", first, n)
	}
	if r := s.do(t, nil, "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exit status: %s", r)
	}
	if r := s.do(t, nil, "sh", "-c", "kill -TERM $$"); r.code != 128+15 {
		t.Errorf("signal: %s", r)
	}
	if r := s.do(t, nil, "no-such-command"); r.code != 127 || !strings.Contains(r.err, "no such command") {
		t.Errorf("missing command: %s", r)
	}
}

// Commands of one session run side by side, each with its own streams, and the
// end of one means nothing to the others.
func TestPersistSideBySide(t *testing.T) {
	s := newStaying(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			want := strings.Repeat(strconv.Itoa(i), 300_000)
			r := s.do(t, func(c *exec.Cmd) { c.Stdin = strings.NewReader(want) }, "sh", "-c", "cat; echo $0 >&2; exit $0", strconv.Itoa(i))
			if r.code != i || r.out != want || r.err != fmt.Sprintln(i) {
				t.Errorf("command %d: %s", i, r)
			}
		})
	}
	wg.Wait()
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Many more commands than a link can have streams, with and without success.
func TestPersistManyCommands(t *testing.T) {
	s := newStaying(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				name, want := "true", 0
				if (i+w)%4 == 0 {
					name, want = "no-such-command", 127
				}
				if r := s.do(t, func(c *exec.Cmd) { c.Stdin = strings.NewReader("unread") }, name); r.code != want {
					t.Errorf("command %d: %s", i, r)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Standard streams that are files are the same files in later commands, and
// their offsets go on.
func TestPersistFiles(t *testing.T) {
	s := newStaying(t)
	s.good(t, "true")
	s.write(t, "in", "one\ntwo\nthree\n")
	for round := range 3 {
		in, err := os.Open(filepath.Join(s.Work, "in"))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("out%d", round)
		out, err := os.Create(filepath.Join(s.Work, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, cmd := range []string{"head -n 1", "true", "wc -c"} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			c := s.command(ctx, "sh", "-c", "read l; echo $l; "+cmd)
			c.Stdin, c.Stdout = in, out
			if err := c.Run(); err != nil {
				t.Errorf("%s: %v", cmd, err)
			}
			cancel()
		}
		in.Close()
		out.Close()
		// Each takes a line or two; what a shell or head has read ahead it
		// puts back.
		if got, want := s.read(t, name), "one\ntwo\nthree\n\n0\n"; got != want {
			t.Errorf("round %d: %q, want %q", round, got, want)
		}
	}
	// Appended to by several at once.
	s.write(t, "log", "old\n")
	log, err := os.OpenFile(filepath.Join(s.Work, "log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c := s.command(ctx, "sh", "-c", "echo out; echo err >&2")
			c.Stdout, c.Stderr = log, log
			if err := c.Run(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.read(t, "log"); len(got) != len("old\n")+4*len("out\nerr\n") || strings.Count(got, "out\n") != 4 || strings.Count(got, "err\n") != 4 {
		t.Errorf("appended %q", got)
	}
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Every command has its own environment, umask, limits and directory.
func TestPersistSurroundings(t *testing.T) {
	s := newStaying(t)
	sub := filepath.Join(s.Work, "sub dir")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	const script = `"$0" "$@" sh -c 'echo $WHO; umask; ulimit -n; pwd; trap'`
	for i, c := range []struct{ who, umask, files, dir string }{
		{"first", "0022", "256", s.Work},
		{"second", "0077", "300", sub},
		{"third", "0002", "256", s.Home},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		nexec := s.command(ctx)
		sh := s.Command(ctx, "sh", append([]string{"-c", "umask " + c.umask + "; ulimit -S -n " + c.files + "; " + script}, nexec.Args...)...)
		sh.Dir = c.dir
		sh.Env = append(nexec.Env, "WHO="+c.who, "PWD="+c.dir)
		r := collect(t, ctx, sh)
		cancel()
		if want := strings.Join([]string{c.who, c.umask, c.files, c.dir, ""}, "\n"); r.out != want || r.code != 0 {
			t.Errorf("command %d: %s, want %q", i, r, want)
		}
	}
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A directory that only the default rules lend, and other rules, are other
// sessions: what one command lends no other one can use.
func TestPersistRules(t *testing.T) {
	s := newStaying(t)
	s.good(t, "true")
	outside, err := os.MkdirTemp("/var/tmp", "nexec-persist-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(outside)
	in := func(dir string) func(*exec.Cmd) {
		return func(c *exec.Cmd) { c.Dir, c.Env = dir, append(c.Env, "PWD="+dir) }
	}
	view := []string{"--local", "/var/tmp"}
	s.options = append(s.options, view...)
	if r := s.do(t, in(outside), "touch", "here"); r.code != 0 {
		t.Errorf("own directory: %s", r)
	}
	if r := s.do(t, nil, "touch", outside+"/there"); r.code == 0 {
		t.Errorf("another command's directory can be written: %s", r)
	}
	if n := s.connections(); n != 3 {
		t.Errorf("%d connections, want 3: another view, and another directory lent", n)
	}
	r := s.control(t, "list")
	if n := strings.Count(r.out, "box "); n != 3 || r.code != 0 {
		t.Errorf("-O list: %s", r)
	}
	s.control(t, "exit")
	s.noMaster(t, 5*time.Second)
}

func TestPersistTerminal(t *testing.T) {
	s := newStaying(t)
	for round := range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		term, err := harness.NewTerminal(s.command(ctx, "sh"), 30, 90)
		if err != nil {
			t.Fatal(err)
		}
		steps := []struct{ send, expect string }{
			{"PS1=; stty size; test -t 0 && test -t 1 && echo is-a-$((1+1))tty\n", "is-a-2tty"},
			{"trap 'echo resized $(stty size)' WINCH; echo set-$((40+2))\n", "set-42"},
			{"sleep 100\n", ""},
			{"\x03", ""},
			{"echo status-$?\n", "status-130"},
		}
		for _, step := range steps {
			if step.send == "\x03" {
				time.Sleep(300 * time.Millisecond) // for sleep to begin
			}
			if err := term.Send(step.send); err != nil {
				t.Fatal(err)
			}
			if step.expect != "" {
				if err := term.Expect(step.expect, 10*time.Second); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
		}
		if !strings.Contains(term.Output(), "30 90") {
			t.Errorf("no size in %q", term.Output())
		}
		if err := term.Resize(40, 100); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)      // for the signal to come:
		if err := term.Send("\n"); err != nil { // a trap runs between commands
			t.Fatal(err)
		}
		if err := term.Expect("resized 40 100", 10*time.Second); err != nil {
			t.Error(err)
		}
		if err := term.Send("exit 3\n"); err != nil {
			t.Fatal(err)
		}
		if err := term.Wait(10 * time.Second); err == nil || exitCode(term.Cmd.ProcessState) != 3 {
			t.Errorf("ended with %v", err)
		}
	}
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A job is stopped with ^Z and continued, by a shell of this side.
func TestPersistStop(t *testing.T) {
	s := newStaying(t)
	s.good(t, "true")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nexec := s.command(ctx)
	sh := s.Command(ctx, "bash", "--norc", "--noprofile", "-i")
	sh.Env = append(nexec.Env, "PS1=at-the-prompt")
	term, err := harness.NewTerminal(sh, 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(nexec.Args, " ")
	for _, step := range []struct{ send, expect string }{
		{line + " sh -c 'echo be''gun; read l; echo got-$l'\n", "begun"},
		{"\x1a", "Stopped"},
		{"stty -a | grep -c -- -icanon; fg\n", "0"},
		{"word\n", "got-word"},
		{"", "at-the-prompt"}, // what is typed before is the command's
		{"echo status-$?; exit\n", "status-0"},
	} {
		if err := term.Send(step.send); err != nil {
			t.Fatal(err)
		}
		if err := term.Expect(step.expect, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := term.Wait(10 * time.Second); err != nil {
		t.Error(err)
	}
}
