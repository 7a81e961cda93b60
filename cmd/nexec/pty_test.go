package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// screen is a program at a terminal of its own.
type screen struct {
	t      *testing.T
	master *os.File
	tty    *os.File // the program's side, to look at its modes
	cmd    *exec.Cmd
	before unix.Termios
	done   chan error

	mu   sync.Mutex
	text bytes.Buffer
	seen int // how much of text expect has passed
}

// atTerminal starts a program at a new terminal of 33 rows and 99 columns.
func atTerminal(t *testing.T, env []string, args ...string) *screen {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, master: pollable(t, master), tty: tty, done: make(chan error, 1)}
	s.before = *s.modes()
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir(), "PS1=ready> ", "TERM=dumb", "FAKESSH="), env...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	copied := make(chan struct{})
	go s.copy(copied)
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL) // most have ended by then
		tty.Close()
		s.master.Close()
		<-copied
	})
	return s
}

// pollable replaces a file by one whose Close ends a Read.
func pollable(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return os.NewFile(uintptr(fd), f.Name())
}

func (s *screen) copy(copied chan struct{}) {
	defer close(copied)
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) modes() *unix.Termios {
	s.t.Helper()
	// Not tty.Fd(), which would make the file blocking for good.
	raw, err := s.tty.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	var modes *unix.Termios
	if cerr := raw.Control(func(fd uintptr) { modes, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) }); cerr != nil || err != nil {
		s.t.Fatal(cerr, err)
	}
	return modes
}

// set sets the terminal's modes, as a shell does that has it back.
func (s *screen) set(modes *unix.Termios) {
	s.t.Helper()
	raw, err := s.tty.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetTermios(int(fd), unix.TCSETS, modes) }); cerr != nil || err != nil {
		s.t.Fatal(cerr, err)
	}
}

func (s *screen) isRaw() bool { return s.modes().Lflag&unix.ICANON == 0 }

const patience = 20 * time.Second // a loaded machine

func (s *screen) await(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("no %s; %+v the screen:\n%q", what, s.modes(), s.text.String())
		}
	}
}

// expect waits for text after what was expected before.
func (s *screen) expect(pattern string) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	var got string
	s.await(fmt.Sprintf("%q", pattern), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		m := re.FindIndex(s.text.Bytes()[s.seen:])
		if m == nil {
			return false
		}
		got = string(s.text.Bytes()[s.seen+m[0] : s.seen+m[1]])
		s.seen += m[1]
		return true
	})
	return got
}

func (s *screen) send(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// ended waits for the program's end and checks that the terminal is as before.
func (s *screen) ended() *os.ProcessState {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("the program does not end; the screen:\n%q", s.text.String())
	}
	if now := *s.modes(); now != s.before {
		s.t.Errorf("the terminal was left as %+v, was %+v", now, s.before)
	}
	return s.cmd.ProcessState
}

func nexecArgs(args ...string) []string {
	return append([]string{"nexec", "--ssh", "fakessh", "host"}, args...)
}

func TestTerminalRawAndRestored(t *testing.T) {
	s := atTerminal(t, nil, nexecArgs("sh", "-c", `tty -s && stty size && read x && echo "got $x."; exit 7`)...)
	s.expect(`33 99\r\n`)
	s.await("raw terminal", s.isRaw)
	s.send("hello\r") // Enter, as a raw terminal passes it on
	s.expect(`hello\r\ngot hello\.\r\n`)
	if st := s.ended(); st.ExitCode() != 7 {
		t.Errorf("ended with %v, want status 7", st)
	}
}

func TestTerminalRestoredOnEveryEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		env  string
		argv []string
		do   func(*screen)
		want string
	}{
		{"remote death", "", []string{"sh", "-c", "echo up; read x; kill -KILL $$"}, func(s *screen) { s.send("\r") }, "signal: killed"},
		{"nexec gets TERM", "", []string{"sh", "-c", "echo up; read x"}, func(s *screen) { _ = s.cmd.Process.Signal(unix.SIGTERM) }, "signal: terminated"},
		{"keyboard interrupt", "", []string{"sh", "-c", "echo up; exec sleep 100"}, func(s *screen) { s.send("\x03") }, "signal: interrupt"},
		{"keyboard quit", "", []string{"sh", "-c", "echo up; exec sleep 100"}, func(s *screen) { s.send("\x1c") }, "signal: quit"},
		{"connection cut", "FAKESSH=cut-later", []string{"sh", "-c", "echo up; read x"}, func(*screen) {}, "exit status 255"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := atTerminal(t, []string{c.env}, nexecArgs(c.argv...)...)
			s.expect("up")
			s.await("raw terminal", s.isRaw)
			c.do(s)
			if st := s.ended(); st.String() != c.want {
				t.Errorf("ended with %v, want %s", st, c.want)
			}
		})
	}
}

// TestTerminalRestoredWhenKilled ends nexec in ways that it cannot answer: the
// terminal is given back by the process that it keeps for that, unless somebody
// has set it anew.
func TestTerminalRestoredWhenKilled(t *testing.T) {
	for _, c := range []struct {
		name string
		sig  unix.Signal
		anew bool
	}{{"killed", unix.SIGKILL, false}, {"a fault", unix.SIGSEGV, false}, {"killed, set anew", unix.SIGKILL, true}} {
		t.Run(c.name, func(t *testing.T) {
			s := atTerminal(t, nil, nexecArgs("sh", "-c", "echo here; sleep 1000")...)
			s.expect("here")
			s.await("raw terminal", s.isRaw)
			guard := guardOf(t, s.cmd.Process.Pid)
			want := s.before
			if c.anew {
				want.Lflag ^= unix.ECHO
				s.set(&want)
			}
			if err := s.cmd.Process.Signal(c.sig); err != nil {
				t.Fatal(err)
			}
			s.await("end of the guard", func() bool { return !alive(guard) })
			if now := *s.modes(); now != want {
				t.Errorf("the terminal was left as %+v, want %+v", now, want)
			}
		})
	}
}

// guardOf finds the guard of an nexec.
func guardOf(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		stat, _ := os.ReadFile("/proc/" + e.Name() + "/stat")
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		_, parent, _ := strings.Cut(string(stat), ") ")
		if len(parent) > 2 && strings.HasPrefix(parent[2:], fmt.Sprintf("%d ", pid)) && strings.Contains(string(line), guardOption) {
			guard, err := strconv.Atoi(e.Name())
			if err != nil {
				t.Fatal(err)
			}
			return guard
		}
	}
	t.Fatalf("process %d has no guard", pid)
	return 0
}

// alive tells whether a process runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestTerminalOfFailedCommand(t *testing.T) {
	s := atTerminal(t, nil, nexecArgs("/no/such/command")...)
	s.expect(`nexec: /no/such/command: no such command[^\r\n]*\r\n`)
	if st := s.ended(); st.ExitCode() != 127 {
		t.Errorf("ended with %v, want status 127", st)
	}
}

func TestWindowSize(t *testing.T) {
	s := atTerminal(t, nil, nexecArgs("sh", "-c", `trap 'stty size; exit' WINCH; echo go; while :; do sleep 0.05; done`)...)
	s.expect("go")
	if err := pty.Setsize(s.tty, &pty.Winsize{Rows: 20, Cols: 55}); err != nil {
		t.Fatal(err)
	}
	s.expect(`20 55\r\n`)
	s.ended()
}

// Each stream keeps its own kind, newlines are not doubled, and a terminal
// that others of the pipeline use is left as it is.
func TestMixedKinds(t *testing.T) {
	for _, c := range []struct{ name, shell, want string }{
		{"output piped", `nexec --ssh fakessh host sh -c 'test -t 0 && ! test -t 1 && test -t 2 && echo yes' | cat; echo end`, `^yes\r\nend\r\n`},
		{"input piped", `echo x | nexec --ssh fakessh host sh -c 'test ! -t 0 && test -t 1 && cat && echo yes'; echo end`, `^x\r\nyes\r\nend\r\n`},
		{"no terminal", `nexec -T --ssh fakessh host sh -c 'test ! -t 0 && test ! -t 1 && test ! -t 2 && echo yes'; echo end`, `^yes\r\nend\r\n`},
		{"forced", `echo x | nexec -tt --ssh fakessh host sh -c 'test -t 0 && test -t 1 && read y && echo $y' | cat; echo end`, `^x\r\nend\r\n`},
		{"error to terminal", `nexec --ssh fakessh host sh -c 'echo a; echo b >&2; echo c >&2' </dev/null >/dev/null; echo end`, `^b\r\nc\r\nend\r\n`},
		{"no input", `nexec -n --ssh fakessh host cat; echo end`, `^end\r\n`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := atTerminal(t, nil, "sh", "-c", c.shell)
			s.expect(c.want)
			s.ended()
		})
	}
}

// A line typed while the output goes elsewhere is edited and echoed here, and
// Ctrl-D is the end of input.
func TestLinesTypedIntoPipeline(t *testing.T) {
	s := atTerminal(t, nil, "sh", "-c", `nexec --ssh fakessh host cat | sed s/^/out:/; echo end`)
	time.Sleep(300 * time.Millisecond) // it must not become raw meanwhile
	s.send("abx\x7fc\n")
	s.expect(`out:abc\r\n`)
	if s.isRaw() {
		t.Error("the terminal of a pipeline was made raw")
	}
	s.send("\x04")
	s.expect(`end\r\n`)
	s.ended()
}

func TestStopAndContinue(t *testing.T) {
	s := atTerminal(t, nil, "bash", "--norc", "--noprofile", "-i")
	s.expect("ready> ")
	s.send("nexec --ssh fakessh host sh -c 'echo up; exec cat'\n")
	s.expect(`up\r\n`)
	for range 2 {
		s.await("raw terminal", s.isRaw)
		s.send("one\r")
		s.expect(`one\r\none\r\n`)
		s.send("\x1a")
		s.expect(`Stopped.*\r\n(.*\r\n)*ready> `)
		s.send("jobs\n")
		s.expect(`Stopped.*nexec`)
		s.expect("ready> ")
		if err := pty.Setsize(s.tty, &pty.Winsize{Rows: 21, Cols: 99}); err != nil {
			t.Fatal(err)
		}
		s.send("fg\n")
		s.expect(`exec cat'\r\n`)
	}
	s.await("raw terminal", s.isRaw)
	s.send("two\r")
	s.expect(`two\r\ntwo\r\n`)
	s.send("\x04")
	s.expect("ready> ")
	s.send("echo $?; exit\n")
	s.expect(`\r\n0\r\n`)
	s.ended()
}

// In the background nexec neither reads the terminal nor changes it; fg gives
// it both.
func TestBackgroundThenForeground(t *testing.T) {
	s := atTerminal(t, nil, "bash", "--norc", "--noprofile", "-i")
	s.expect("ready> ")
	s.send("nexec --ssh fakessh host sh -c 'echo up; exec cat' &\n")
	s.expect(`up\r+\n`)
	s.send("echo for-bash-$((20+3))\n")
	s.expect(`for-bash-23`)
	s.send("fg\n")
	s.expect(`exec cat'\r\n`)
	s.await("raw terminal", s.isRaw)
	s.send("now\r")
	s.expect(`now\r\nnow\r\n`)
	s.send("\x03")
	s.expect("ready> ")
	s.send("echo $?; exit\n")
	s.expect(`\r\n130\r\n`)
	s.ended()
}

// Closing the terminal ends nexec and the command, even one that ignores HUP.
func TestTerminalCloses(t *testing.T) {
	for _, trap := range []string{"", "trap '' HUP; "} {
		pidFile := filepath.Join(t.TempDir(), "pid")
		s := atTerminal(t, nil, nexecArgs("sh", "-c", trap+`echo $$ >`+pidFile+`; echo up; while :; do sleep 0.1; done`)...)
		s.expect("up")
		s.await("raw terminal", s.isRaw)
		s.tty.Close()
		s.master.Close()
		select {
		case <-s.done:
		case <-time.After(patience):
			t.Fatal("nexec outlived its terminal")
		}
		awaitGone(t, pidFile)
	}
}

// readPid waits for a process to write its number to a file.
func readPid(t *testing.T, file string) int {
	t.Helper()
	var pid int
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if err == nil {
			if _, err = fmt.Sscan(string(b), &pid); err == nil {
				return pid
			}
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// awaitGone waits until the process whose number is in a file has ended.
func awaitGone(t *testing.T, file string) {
	t.Helper()
	pid := readPid(t, file)
	for end := time.Now().Add(5 * time.Second); !errors.Is(unix.Kill(pid, 0), unix.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d still runs", pid)
		}
	}
}
