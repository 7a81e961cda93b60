package test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// terminal starts nexec box args on a new terminal.
func (s *site) terminal(t testing.TB, args ...string) *harness.Terminal {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	c := s.Nexec(ctx, args...)
	c.Env = append(c.Env, "TERM=xterm")
	term, err := harness.NewTerminal(c, 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

func expect(t testing.TB, term *harness.Terminal, s string) {
	t.Helper()
	if err := term.Expect(s, 15*time.Second); err != nil {
		t.Fatal(err)
	}
}

func send(t testing.TB, term *harness.Terminal, s string) {
	t.Helper()
	if err := term.Send(s); err != nil {
		t.Fatal(err)
	}
}

// TestTerminal checks that a terminal is one, with its size, its name, its
// modes, and its signals.
func TestTerminal(t *testing.T) {
	s := newSite(t)
	term := s.terminal(t, "box", "sh", "-c", `test -t 0 && test -t 1 && test -t 2 && stty size && echo "$TERM"
		trap 'stty size' WINCH; trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done`)
	expect(t, term, "24 80")
	expect(t, term, "xterm")
	expect(t, term, "ready")
	if err := term.Resize(33, 101); err != nil {
		t.Fatal(err)
	}
	expect(t, term, "33 101")
	send(t, term, "\x03")
	expect(t, term, "interrupted")
	term.Wait(10 * time.Second)
	if code := exitCode(term.Cmd.ProcessState); code != 5 {
		t.Errorf("status %d, want 5", code)
	}
}

// TestLoginShell runs an interactive shell: job control, end of file.
func TestLoginShell(t *testing.T) {
	s := newSite(t)
	term := s.terminal(t, "box", "bash", "--norc", "-i")
	send(t, term, "PS1='>'; echo $((40+2))\r")
	expect(t, term, "42")
	send(t, term, "sleep 500\r")
	time.Sleep(500 * time.Millisecond)
	send(t, term, "\x1a")
	expect(t, term, "Stopped")
	send(t, term, "jobs; kill %1; wait; echo now$((1+1))\r")
	expect(t, term, "now2")
	send(t, term, "stty -a | grep -c isig; exit 7\r")
	term.Wait(10 * time.Second)
	if code := exitCode(term.Cmd.ProcessState); code != 7 {
		t.Errorf("status %d, want 7; the terminal showed %q", code, term.Output())
	}
}

// TestMixedStreams has a terminal on some of the standard streams only.
func TestMixedStreams(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct{ name, script, want string }{
		{"stdin only", `nexec box sh -c 'test -t 0 && ! test -t 1 && echo good' | cat`, "good"},
		{"stdout only", `echo x | nexec box sh -c '! test -t 0 && test -t 1 && echo good'`, "good"},
		{"stderr to a file", `nexec box sh -c 'test -t 0 && test -t 1 && ! test -t 2 && echo good' 2>err`, "good"},
		{"stdout to a file", `nexec box sh -c 'test -t 0 && test -f /dev/stdout && echo good' >out; cat out`, "good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			script := strings.ReplaceAll(c.script, "nexec ", filepath.Join(s.Bin, "nexec")+" -F "+s.Config+" ")
			term, err := harness.NewTerminal(s.Command(ctx, "sh", "-c", script), 24, 80)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, term, c.want)
			term.Wait(10 * time.Second)
		})
	}
}

// TestRawMode checks that the user's terminal passes every byte on while the
// command runs, and is as before afterwards.
func TestRawMode(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	script := fmt.Sprintf(`before=$(stty -g); %s/nexec -F %s box sh -c 'stty raw -echo; echo ready; head -c 4 | od -An -tx1'; test "$before" = "$(stty -g)" && echo restored`, s.Bin, s.Config)
	term, err := harness.NewTerminal(s.Command(ctx, "sh", "-c", script), 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, term, "ready")
	send(t, term, "\x03\x1a\x04\x00")
	expect(t, term, "03 1a 04 00")
	expect(t, term, "restored")
	term.Wait(10 * time.Second)
}

// TestHangUp closes the terminal: the session ends.
func TestHangUp(t *testing.T) {
	s := newSite(t)
	term := s.terminal(t, "box", "sh", "-c", "trap : HUP; echo ready; (setsid sleep 900 &); while :; do sleep 1; done")
	expect(t, term, "ready")
	if err := term.HangUp(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- term.Cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("nexec still runs 10 s after its terminal was closed")
		term.Cmd.Process.Kill()
		<-done
	}
}

// TestStop sends TSTP to nexec: the remote command stops, and goes on with CONT.
func TestStop(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Nexec(ctx, "box", "sh", "-c", "while :; do date +%s%N >tick; sleep 0.05; done")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { c.Process.Signal(syscall.SIGTERM); c.Wait() }()
	tick := func() string {
		b, _ := os.ReadFile(filepath.Join(s.Work, "tick"))
		return string(b)
	}
	waitFor(t, "the first tick", func() bool { return tick() != "" })
	c.Process.Signal(syscall.SIGTSTP)
	waitFor(t, "the stop", func() bool {
		was := tick()
		time.Sleep(400 * time.Millisecond)
		return was != "" && tick() == was
	})
	was := tick()
	c.Process.Signal(syscall.SIGCONT)
	waitFor(t, "going on", func() bool { now := tick(); return now != was && now != "" })
}

func waitFor(t testing.TB, what string, there func() bool) {
	t.Helper()
	const limit = 30 * time.Second
	for deadline := time.Now().Add(limit); !there(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s passed before %s", limit, what)
		}
	}
}

// TestBackPressure has a reader that does not read: the writer must stop, and
// memory must not grow with what it would have written.
func TestBackPressure(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Nexec(ctx, "box", "sh", "-c", `head -c 200000000 /dev/zero; echo done >finished`)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(s.Work, "finished")); err == nil {
		t.Error("200 MB were swallowed although nobody reads")
	}
	for _, name := range []string{"nexec", "nexec-server"} {
		for _, p := range harness.Named(name) {
			if rss := harness.RSS(p.PID); rss > 200<<20 {
				t.Errorf("%s takes %d MiB", name, rss>>20)
			}
		}
	}
	n, err := io.Copy(io.Discard, out)
	if err != nil || n != 200000000 {
		t.Errorf("%d bytes came, %v", n, err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// TestKills kills each process of a session in turn. nexec must end with 255
// and one clear line, or by its own signal, and nothing may stay.
func TestKills(t *testing.T) {
	for _, victim := range []string{"nexec", "fslave", "nexec-server", "nexecd"} {
		t.Run(victim, func(t *testing.T) {
			s := newSite(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c := s.Nexec(ctx, "box", "sh", "-c", "echo started >started; (setsid sleep 800 &); sleep 801")
			var stderr harness.Buffer
			c.Stderr = &stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the command", func() bool { _, err := os.Stat(filepath.Join(s.Work, "started")); return err == nil })
			if victim == "nexecd" {
				syscall.Kill(s.nexecd.PID, syscall.SIGKILL)
				for _, p := range harness.Descendants(s.nexecd.PID) {
					if p.Name == "nexecd" {
						syscall.Kill(p.PID, syscall.SIGKILL)
					}
				}
			} else if procs := harness.Named(victim); len(procs) == 0 {
				t.Errorf("there is no process called %s", victim)
			} else {
				for _, p := range procs {
					syscall.Kill(p.PID, syscall.SIGKILL)
				}
			}
			start := time.Now()
			c.Wait()
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("nexec took %s to end", took)
			}
			code, said := exitCode(c.ProcessState), stderr.String()
			if victim == "nexec" {
				if code != 137 {
					t.Errorf("status %d", code)
				}
				return
			}
			if code != 255 || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "nexec: ") {
				t.Errorf("status %d, stderr %q; want 255 and one line", code, said)
			}
		})
	}
}

// TestManySessions runs many sessions at once on one nexecd.
func TestManySessions(t *testing.T) {
	s := newSite(t)
	const n = 20
	var wg sync.WaitGroup
	results := make([]string, n)
	for i := range n {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c := s.Nexec(ctx, "box", "sh", "-c", fmt.Sprintf("echo %d >many.%d; cat many.%d", i, i, i))
			out, err := c.Output()
			results[i] = fmt.Sprint(string(out), err)
		})
	}
	wg.Wait()
	for i, r := range results {
		if want := fmt.Sprintf("%d\n<nil>", i); r != want {
			t.Errorf("session %d: %q", i, r)
		}
	}
}

// TestStdioEndsLate has a grandchild that keeps the standard output open after
// the command has ended, as ssh's users know it: nexec ends with the command.
func TestStdioEndsLate(t *testing.T) {
	s := newSite(t)
	start := time.Now()
	r := s.run(t, "", "box", "sh", "-c", "sleep 30 & echo over")
	if r.code != 0 || r.out != "over\n" {
		t.Error(r)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestOpenSSH covers both ways in which OpenSSH takes part.
func TestOpenSSH(t *testing.T) {
	s := newSite(t)
	needProgram(t, "ssh")
	t.Run("nexec --ssh ssh to nexecd", func(t *testing.T) {
		r := s.run(t, "text", "--ssh", "ssh -F "+s.Config, "box", "sh", "-c", "cat; exit 4")
		if r.code != 4 || r.out != "text" || r.err != "" {
			t.Error(r)
		}
	})
	t.Run("ssh -s to nexecd shows the protocol", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c := s.SSH(ctx, "-s", "box", "nexec")
		c.Stdin = strings.NewReader("this is no nexec\n")
		r := collect(t, ctx, c)
		if r.code == 0 || strings.Contains(r.err, "goroutine") {
			t.Error(r)
		}
	})
	t.Run("nothing but nexec", func(t *testing.T) {
		for _, args := range [][]string{{"box", "true"}, {"-s", "box", "sftp"}, {"-s", "box", "other"}} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if r := collect(t, ctx, s.SSH(ctx, args...)); r.code == 0 {
				t.Errorf("ssh %q: %s", args, r)
			}
		}
	})
	_, err := os.Stat("/usr/sbin/sshd")
	need(t, err == nil, "/usr/sbin/sshd")
	o := harness.ServerOptions{Alias: "sshd"}
	if os.Getuid() == 0 {
		o.Script = serverScript(s.Client)
	}
	if _, err := s.StartSSHD(o); err != nil {
		t.Fatal(err)
	}
	t.Run("nexec to sshd", func(t *testing.T) {
		s.write(t, "f", "client's")
		r := s.run(t, "text", "sshd", "sh", "-c", "cat f -; exit 5")
		if r.code != 5 || r.out != "client'stext" || r.err != "" {
			t.Error(r)
		}
	})
	t.Run("nexec --ssh ssh to sshd", func(t *testing.T) {
		r := s.run(t, "text", "--ssh", "ssh -F "+s.Config, "sshd", "sh", "-c", "cat; exit 6")
		if r.code != 6 || r.out != "text" || r.err != "" {
			t.Error(r)
		}
	})
	t.Run("sshd ends", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c := s.Nexec(ctx, "sshd", "sleep", "700")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		c.Process.Kill()
		c.Wait()
	})
}

// TestAsRootNoFUSE runs a session where there is no /dev/fuse: one line and 255.
func TestAsRootNoFUSE(t *testing.T) {
	refused(t, harness.ServerOptions{Script: `mount -t tmpfs none /dev
for d in null:3 zero:5 random:8 urandom:9; do mknod -m 666 /dev/${d%:*} c 1 ${d#*:}; done; ln -s /proc/self/fd /dev/fd`}, "fuse")
}

// TestAsRootNoNamespaces runs a session where further namespaces are
// forbidden. The limit is a user namespace's own, so the server gets one.
func TestAsRootNoNamespaces(t *testing.T) {
	everybody := []syscall.SysProcIDMap{{Size: 1 << 30}}
	refused(t, harness.ServerOptions{
		Script: "echo 0 >/proc/sys/user/max_user_namespaces; echo 0 >/proc/sys/user/max_mnt_namespaces; echo 0 >/proc/sys/user/max_pid_namespaces",
		Attr: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER, UidMappings: everybody, GidMappings: everybody, GidMappingsEnableSetgroups: true,
		},
	}, "namespace")
}

// refused wants sessions on a server, of root and of another user, to be
// refused with one line that has a word in it.
func refused(t *testing.T, o harness.ServerOptions, word string) {
	t.Helper()
	s, err := harness.NewSite()
	if err != nil {
		t.Fatal(err)
	}
	mounts := harness.Mounts()
	t.Cleanup(func() { checkClean(t, s, mounts) })
	o.Alias = "box"
	if _, err := s.StartNexecd(o); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"root", "ann"} {
		r := (&site{s, nil}).run(t, "", "-l", user, "box", "true")
		if r.code != 255 || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "nexec: ") || !strings.Contains(r.err, word) {
			t.Errorf("%s: %s; want 255 and one line with %q", user, r, word)
		}
	}
}

// TestAsRootDiskFull writes to a file system of the client that has no room.
func TestAsRootDiskFull(t *testing.T) {
	s := newSite(t)
	full := filepath.Join(s.Work, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "none", full).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer exec.Command("umount", "-l", full).Run()
	r := s.run(t, "", "box", "dd", "if=/dev/zero", "of=full/x", "bs=64k", "count=64", "conv=fsync")
	if r.code == 0 || !strings.Contains(r.err, "No space left") {
		t.Errorf("dd with fsync: %s", r)
	}
	os.Remove(filepath.Join(full, "x"))
	// Without fsync too, nobody may believe that all is well.
	r = s.run(t, "", "box", "sh", "-c", "head -c 4000000 /dev/zero >full/y; exit 0")
	if r.code == 0 && !strings.Contains(r.err, "o space left") {
		t.Errorf("without fsync: %s", r)
	}
	if r.err == "" {
		t.Errorf("ENOSPC was silent: %s", r)
	}
}
