package test

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// TestSignals sends nexec every signal that is for the command. It reaches the
// command's process group: a shell that waits for a child, and the child.
func TestSignals(t *testing.T) {
	s := newSite(t)
	const script = `for s in HUP INT QUIT TERM USR1 USR2 ALRM; do trap "echo shell $s; done=1" $s; done
sh -c 'for s in HUP INT QUIT TERM USR1 USR2 ALRM; do trap "echo child $s; exit 0" $s; done; >child; while :; do sleep 0.05; done' &
while ! test -e child; do sleep 0.05; done; >ready
while test -z "$done"; do sleep 0.05; done; wait; exit 9`
	for _, sig := range []struct {
		name string
		sig  syscall.Signal
	}{
		{"HUP", syscall.SIGHUP}, {"INT", syscall.SIGINT}, {"QUIT", syscall.SIGQUIT}, {"TERM", syscall.SIGTERM},
		{"USR1", syscall.SIGUSR1}, {"USR2", syscall.SIGUSR2}, {"ALRM", syscall.SIGALRM},
	} {
		t.Run(sig.name, func(t *testing.T) {
			ready := filepath.Join(s.Work, "ready")
			os.Remove(ready)
			os.Remove(filepath.Join(s.Work, "child"))
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c := s.Nexec(ctx, "box", "sh", "-c", script)
			var out, stderr harness.Buffer
			c.Stdout, c.Stderr = &out, &stderr
			must(t, c.Start())
			waitFor(t, "the command", func() bool { _, err := os.Stat(ready); return err == nil })
			must(t, c.Process.Signal(sig.sig))
			if sig.sig == syscall.SIGINT || sig.sig == syscall.SIGQUIT {
				// POSIX: what such a shell starts in the background ignores these.
				waitFor(t, "the shell", func() bool { return strings.Contains(out.String(), "shell "+sig.name) })
				must(t, c.Process.Signal(syscall.SIGTERM))
			}
			c.Wait()
			for _, who := range []string{"shell ", "child "} {
				want := who + sig.name
				if who == "child " && (sig.sig == syscall.SIGINT || sig.sig == syscall.SIGQUIT) {
					want = "child TERM"
				}
				if !strings.Contains(out.String(), want+"\n") {
					t.Errorf("no %q in %q, stderr %q", want, out.String(), stderr.String())
				}
			}
			if code := exitCode(c.ProcessState); code != 9 {
				t.Errorf("status %d, want 9", code)
			}
		})
	}
}

// TestStatuses has exit statuses from the whole range.
func TestStatuses(t *testing.T) {
	s := newSite(t)
	for _, want := range []int{0, 1, 2, 63, 64, 126, 127, 128, 129, 143, 200, 254, 255} {
		if r := s.run(t, "", "box", "sh", "-c", "exit "+strconv.Itoa(want)); r.code != want || r.err != "" || r.out != "" {
			t.Errorf("%s; want status %d", r, want)
		}
	}
}

// TestLostConnection kills the process that carries the connection. nexec ends
// with 255 and one line, and so does the session, whose command ignores HUP;
// what is left of it is looked for after the test.
func TestLostConnection(t *testing.T) {
	needProgram(t, "ssh")
	s := newSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Nexec(ctx, "--ssh", "ssh -F "+s.Config, "box", "sh", "-c", "trap '' HUP; echo up >up; (setsid sleep 805 &); while :; do sleep 1; done")
	var stderr harness.Buffer
	c.Stderr = &stderr
	must(t, c.Start())
	waitFor(t, "the command", func() bool { _, err := os.Stat(filepath.Join(s.Work, "up")); return err == nil })
	killed := 0
	for _, p := range harness.Descendants(c.Process.Pid) {
		if p.Name == "ssh" {
			must(t, syscall.Kill(p.PID, syscall.SIGKILL))
			killed++
		}
	}
	c.Wait()
	said := stderr.String()
	if code := exitCode(c.ProcessState); killed != 1 || code != 255 || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "nexec: ") {
		t.Errorf("%d processes killed; status %d, stderr %q; want 255 and one line", killed, code, said)
	}
	for deadline := time.Now().Add(20 * time.Second); len(harness.Named("nexec-server")) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nexec-server is there 20 s after the end of its connection")
		}
	}
}

var sentBytes = regexp.MustCompile(`client: (\d+) bytes in \d+ frames (?:received|sent)`)

// TestCopyStaysHere copies a file of the client with copy_file_range, which is
// what cp does: the bytes do not go to the server and back.
func TestCopyStaysHere(t *testing.T) {
	s := newSite(t)
	const size = 20 << 20
	s.write(t, "big", strings.Repeat("0123456789abcdef", size/16))
	r := s.run(t, "", "--stats", "box", "python3", "-c", fmt.Sprintf(`import os
a, b = os.open("big", os.O_RDONLY), os.open("copy", os.O_WRONLY | os.O_CREAT)
n = 0
while n < %d: n += os.copy_file_range(a, b, %d - n)`, size, size))
	both := sentBytes.FindAllStringSubmatch(r.err, -1)
	if r.code != 0 || len(both) != 2 {
		t.Fatal(r)
	}
	for _, m := range both {
		if n, err := strconv.Atoi(m[1]); err != nil || n > 1<<20 {
			t.Errorf("%d bytes crossed for a copy of %d", n, size)
		}
	}
	s.local(t, "cmp big copy")
}

// TestStaticBinaries checks that the commands need no loader and no library.
func TestStaticBinaries(t *testing.T) {
	for _, name := range []string{"nexec", "nexecd", "nexec-server", "fslave"} {
		f, err := elf.Open(filepath.Join(os.Getenv("NEXEC_BIN"), name))
		must(t, err)
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is linked dynamically", name)
			}
		}
		must(t, f.Close())
	}
}
