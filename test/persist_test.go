package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

