package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// conversation is a shell on the server that answers one line per line.
type conversation struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// converseFor bounds a whole conversation, where the test binary's own -timeout
// does not: twelve rounds of the stress test without any cache take ten minutes
// on a machine that has other things to do.
const converseFor = 30 * time.Minute

func (s *site) converse(t testing.TB, options ...string) *conversation {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), converseFor)
	c := &conversation{t: t, cmd: s.Nexec(ctx, append(options, "box", "sh")...)}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		c.cmd.Wait()
		cancel()
	})
	return c
}

// ask runs a script in the server's shell and returns its output.
func (c *conversation) ask(script string) string {
	c.t.Helper()
	fmt.Fprintf(c.in, "{ %s\n} 2>&1; echo; echo =end=\n", script)
	var b strings.Builder
	for {
		line, err := c.out.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%s: the session ended after %q: %v", script, b.String(), err)
		}
		if line == "=end=\n" {
			return strings.TrimSpace(b.String())
		}
		b.WriteString(line)
	}
}

// eventually asks again until the answer is right, and fails after a limit.
func (c *conversation) eventually(script, want string, limit time.Duration) {
	c.t.Helper()
	start := time.Now()
	for {
		got := c.ask(script)
		if got == want {
			return
		}
		if time.Since(start) > limit {
			c.t.Errorf("%s: %q after %s, want %q", script, short(got), limit, want)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestClientEdits changes files on the client while a session has them cached:
// each kind of change is seen within 0.3 s.
func TestClientEdits(t *testing.T) {
	s := newSite(t)
	s.local(t, `mkdir -p d/e; echo one >d/f; echo deep >d/e/g; ln -s f d/l; echo 1 >d/small; echo x >d/gone; echo m >d/mode; chmod 644 d/mode`)
	c := s.converse(t)
	const limit = 300 * time.Millisecond
	look := `cat d/f d/e/g d/l; ls d d/e; stat -c '%a %s' d/mode d/small; test -e d/none`
	c.ask(look)
	c.ask(look)
	for _, step := range []struct{ name, local, remote, want string }{
		{"content", "echo two >d/f", "cat d/f", "two"},
		{"content through a link", "echo three >d/f", "cat d/l", "three"},
		{"size", "printf 123456789 >d/small", "stat -c %s d/small", "9"},
		{"mode", "chmod 600 d/mode", "stat -c %a d/mode", "600"},
		{"new file", "echo new >d/none", "cat d/none", "new"},
		{"removed file", "rm d/gone", "cat d/gone 2>/dev/null || echo gone", "gone"},
		{"rename over", "echo over >d/tmp; mv d/tmp d/f", "cat d/f", "over"},
		{"link retargeted", "ln -sfn small d/l", "cat d/l", "123456789"},
		{"directory above renamed", "mv d/e d/e2", "cat d/e/g 2>/dev/null; cat d/e2/g", "deep"},
		{"in the renamed directory", "echo deeper >d/e2/g", "cat d/e2/g", "deeper"},
		{"listing", "mkdir d/e2/x; touch d/e2/y", "ls d/e2 | tr '\\n' ' '", "g x y"},
		{"tree removed", "rm -r d/e2", "ls d/e2 >/dev/null 2>&1 || echo none", "none"},
		{"append", "echo more >>d/f", "cat d/f | tr '\\n' ' '", "over more"},
		{"time", "touch -d @1000000000 d/f", "stat -c %Y d/f", "1000000000"},
		{"further name", "ln d/small d/hard", "stat -c %h d/small", "2"},
		{"content by the further name", "echo hard >d/hard", "cat d/small", "hard"},
		{"further name of a file never looked at", "echo a >d/new; ln d/new d/new2; rm d/new", "cat d/new2; stat -c %h d/new2", "a\n1"},
	} {
		s.local(t, step.local)
		c.eventually(step.remote, step.want, limit)
		if t.Failed() {
			t.Fatalf("at %q", step.name)
		}
	}
}

// TestServerEdits changes files on the server: once a command has ended, or
// an fsync has returned, the client has them.
func TestServerEdits(t *testing.T) {
	s := newSite(t)
	c := s.converse(t)
	for i := range 20 {
		c.ask(fmt.Sprintf("echo %d >f; sync f", i))
		if got := s.read(t, "f"); got != fmt.Sprintf("%d\n", i) {
			t.Fatalf("round %d: the client has %q after fsync", i, got)
		}
	}
	for i := range 20 {
		s.sh(t, fmt.Sprintf("mkdir d%d; echo %d >d%d/f; ln d%d/f d%d/g; mv d%d/f d%d/h", i, i, i, i, i, i, i))
		if got := s.read(t, fmt.Sprintf("d%d/h", i)); got != fmt.Sprintf("%d\n", i) {
			t.Fatalf("round %d: the client has %q after the session", i, got)
		}
	}
	// Without any fsync the change arrives soon all the same.
	c.ask("echo soon >soon")
	waitFor(t, "a write-behind", func() bool { b, _ := os.ReadFile(filepath.Join(s.Work, "soon")); return string(b) == "soon\n" })
}

// TestLocksAgainstClient has locks of client processes and of the session
// stand in each other's way.
func TestLocksAgainstClient(t *testing.T) {
	needProgram(t, "python3", "flock")
	s := newSite(t)
	s.write(t, "f", "x")
	c := s.converse(t)
	hold := func(how string) (release func()) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		script := `import fcntl,sys
f=open("f","r+b"); fcntl.` + how + `(f,fcntl.LOCK_EX); print("held",flush=True); sys.stdin.read()`
		p := s.Command(ctx, "/usr/bin/python3", "-c", script)
		in, _ := p.StdinPipe()
		out, _ := p.StdoutPipe()
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
			t.Fatalf("%s: %q, %v", how, line, err)
		}
		return func() { in.Close(); p.Wait(); cancel() }
	}
	try := `python3 -c '
import fcntl
f=open("f","r+b")
try: fcntl.HOW(f,fcntl.LOCK_EX|fcntl.LOCK_NB); print("had")
except OSError: print("busy")'`
	for _, how := range []string{"lockf", "flock"} {
		ask := strings.ReplaceAll(try, "HOW", how)
		release := hold(how)
		if got := c.ask(ask); got != "busy" {
			t.Errorf("%s while the client holds it: %q", how, got)
		}
		release()
		if got := c.ask(ask); got != "had" {
			t.Errorf("%s after the client let go: %q", how, got)
		}
		c.ask(strings.Replace(strings.ReplaceAll(`(python3 -c 'import fcntl,time; f=open("f","r+b"); fcntl.HOW(f,fcntl.LOCK_EX); open("locked","w").close(); time.sleep(1.5)' >background 2>&1 &)`, "HOW", how), "locked", "locked."+how, 1))
		c.eventually("ls locked."+how+" 2>/dev/null || cat background", "locked."+how, 5*time.Second)
		if got := strings.TrimSpace(s.local(t, strings.Replace(ask, "python3", "/usr/bin/python3", 1))); got != "busy" {
			t.Errorf("%s while the session holds it: %q", how, got)
		}
		// A blocking lock waits for its turn on the client's file.
		s.local(t, "flock f true")
	}
}

// TestDeletedByAnother removes a file on the client while the session has it
// open: reading goes on, nothing hangs.
func TestDeletedByAnother(t *testing.T) {
	s := newSite(t)
	s.write(t, "f", strings.Repeat("line\n", 100_000))
	c := s.converse(t)
	c.ask("exec 5<f; head -c 5 <&5")
	s.local(t, "rm f")
	if got := c.ask("wc -c <&5"); got == "" {
		t.Errorf("%q", got)
	}
	c.eventually("cat f 2>&1 | grep -c 'No such'", "1", 300*time.Millisecond)
}
