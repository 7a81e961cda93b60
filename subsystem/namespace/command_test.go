package namespace

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// onTerminal is a command whose standard streams are a terminal of 40 by 100.
func onTerminal(argv ...string) *fsyscall.Exec {
	x := request(argv...)
	for i := range x.Stdio {
		x.Stdio[i] = fsyscall.Stdio{Kind: fsyscall.StdioTerminal, DupOf: -1}
	}
	x.HasTerminal = true
	x.Terminal.Size = fsyscall.Size{Rows: 40, Cols: 100}
	x.Terminal.Termios = fsyscall.Termios{
		Iflag: unix.ICRNL, Oflag: unix.OPOST | unix.ONLCR, Cflag: unix.CS8 | unix.CREAD | unix.B38400,
		Lflag: unix.ISIG | unix.ICANON | unix.IEXTEN,
	}
	cc := &x.Terminal.Termios.Cc
	cc[unix.VINTR], cc[unix.VSUSP], cc[unix.VEOF], cc[unix.VMIN], cc[unix.VQUIT] = 3, 26, 4, 1, 28
	return x
}

// terminal is the master's end of a command's terminal.
type terminal struct {
	t   testing.TB
	f   *os.File
	got bytes.Buffer
}

func (s *session) beginOnTerminal(x *fsyscall.Exec) *terminal {
	s.t.Helper()
	ev, _ := s.begin(x)
	if ev.Stage != fsyscall.ExecStarted || ev.Master == nil {
		s.t.Fatalf("%+v", ev)
	}
	s.t.Cleanup(func() { ev.Master.Close() })
	return &terminal{t: s.t, f: ev.Master}
}

// expect reads until text has come.
func (m *terminal) expect(text string) {
	m.t.Helper()
	m.f.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 4096)
	for {
		if _, after, ok := strings.Cut(m.got.String(), text); ok {
			m.got.Reset()
			m.got.WriteString(after)
			return
		}
		n, err := m.f.Read(buf)
		if err != nil {
			m.t.Fatalf("%q instead of %q, then %v", m.got.String(), text, err)
		}
		m.got.Write(buf[:n])
	}
}

func (m *terminal) typeIn(keys string) {
	m.t.Helper()
	if _, err := m.f.Write([]byte(keys)); err != nil {
		m.t.Fatal(err)
	}
}

func TestTerminal(t *testing.T) {
	s := start(t, rules())
	m := s.beginOnTerminal(onTerminal("sh", "-c", "tty; stty size; stty -a | grep -o 'speed 38400'; trap 'stty size' WINCH; read x; echo got $x; while :; do sleep 0.05; done"))
	m.expect("/dev/pts/0\r\n40 100\r\nspeed 38400\r\n")
	m.typeIn("hello\n")
	m.expect("got hello")
	if err := s.space.Winsize(0, fsyscall.Size{Rows: 50, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	m.expect("50 120")
	m.typeIn("\x03")
	if ev := s.event(Ended); ev.Signal != uint8(unix.SIGINT) {
		t.Errorf("after ^C: %+v", ev)
	}
}

// A command with a terminal, and one without, can be stopped and goes on.
func TestStopAndContinue(t *testing.T) {
	s := start(t, rules())
	m := s.beginOnTerminal(onTerminal("cat"))
	m.typeIn("\x1a")
	if ev := s.event(Stopped); ev.Signal != uint8(unix.SIGTSTP) {
		t.Errorf("after ^Z: %+v", ev)
	}
	s.space.Signal(0, uint8(unix.SIGCONT))
	m.typeIn("on\n")
	m.expect("on\r\n")
	m.typeIn("\x04")
	if ev := s.event(Ended); ev.Code != 0 || ev.Signal != 0 {
		t.Errorf("after ^D: %+v", ev)
	}

	x := request("sleep", "100")
	x.Cmd = 1
	s.begin(x)
	for range 2 {
		s.space.Signal(1, uint8(unix.SIGTSTP))
		if ev := s.event(Stopped); ev.Signal != uint8(unix.SIGTSTP) || ev.Cmd != 1 {
			t.Errorf("%+v", ev)
		}
		s.space.Signal(1, uint8(unix.SIGCONT))
	}
	s.space.Signal(1, uint8(unix.SIGTERM))
	if ev := s.event(Ended); ev.Signal != uint8(unix.SIGTERM) {
		t.Errorf("%+v", ev)
	}
}

// A stop that comes before the program is executed does not hold it up.
func TestStopBeforeStart(t *testing.T) {
	s := start(t, rules())
	for i := range 5 {
		x := request("true")
		x.Cmd = uint32(i)
		c := Command{Exec: x, Path: "/usr/bin:/bin"}
		c.Files[1], _ = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err := s.space.Run(c); err != nil {
			t.Fatal(err)
		}
		s.space.Signal(x.Cmd, uint8(unix.SIGTSTP))
		s.event(Started)
		for ended := false; !ended; {
			select {
			case ev := <-s.space.Events():
				if ended = ev.Kind == Ended; !ended { // it was executed before
					s.space.Signal(x.Cmd, uint8(unix.SIGCONT))
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the command does not end")
			}
		}
	}
}

// An interactive shell controls its jobs.
func TestJobControl(t *testing.T) {
	s := start(t, rules())
	x := onTerminal("bash", "--norc", "-i")
	x.Env = append(x.Env, "PS1=ready> ")
	m := s.beginOnTerminal(x)
	m.expect("ready> ")
	m.typeIn("sleep 100\n")
	time.Sleep(200 * time.Millisecond)
	m.typeIn("\x1a")
	m.expect("Stopped")
	m.typeIn("jobs; fg\n")
	m.expect("sleep 100\r\n")
	time.Sleep(200 * time.Millisecond)
	// The client's signal reaches the job in the foreground, not the shell.
	s.space.Signal(0, uint8(unix.SIGINT))
	m.expect("ready> ")
	m.typeIn("exit 5\n")
	if ev := s.event(Ended); ev.Code != 5 {
		t.Errorf("%+v", ev)
	}
}

// Two commands with terminals at once: each has its own.
func TestTwoTerminals(t *testing.T) {
	s := start(t, rules())
	a := s.beginOnTerminal(onTerminal("sh", "-c", "tty; read x; echo a $x >/dev/tty"))
	a.expect("/dev/pts/0")
	x := onTerminal("sh", "-c", "tty; read x; echo b $x >/dev/tty")
	x.Cmd = 1
	b := s.beginOnTerminal(x)
	b.expect("/dev/pts/1")
	y := request("sh", "-c", "echo x >/dev/tty")
	y.Cmd = 2
	if out, ev := s.output(y); ev.Code == 0 {
		t.Errorf("a command without a terminal has one: %q", out)
	}
	b.typeIn("1\n")
	b.expect("b 1\r\n")
	s.event(Ended)
	a.typeIn("2\n")
	a.expect("a 2\r\n")
	s.event(Ended)
	// The terminal can be had again.
	z := onTerminal("sh", "-c", "echo again >/dev/tty")
	z.Cmd = 3
	s.beginOnTerminal(z).expect("again")
	s.event(Ended)
}

// Signals reach the whole process group of a command without a terminal, also
// those that come before it is started.
func TestSignals(t *testing.T) {
	s := start(t, rules())
	for i, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGKILL, unix.SIGALRM} {
		x := request("sleep", "100")
		x.Cmd = uint32(i)
		c := Command{Exec: x, Path: "/usr/bin:/bin"}
		c.Files[1], _ = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err := s.space.Run(c); err != nil {
			t.Fatal(err)
		}
		if err := s.space.Signal(x.Cmd, uint8(sig)); err != nil {
			t.Fatal(err)
		}
		s.event(Started)
		t.Log(sig)
		if ev := s.event(Ended); ev.Signal != uint8(sig) {
			t.Errorf("%v: %+v", sig, ev)
		}
	}
}

func TestIgnoredSignalsAndDefaults(t *testing.T) {
	s := start(t, rules())
	x := request("sed", "-n", "/^Sig[BI]/p", "/proc/self/status")
	x.Ignored = 1<<(unix.SIGHUP-1) | 1<<(unix.SIGPIPE-1)
	out, _ := s.output(x)
	if want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

func TestUmaskAndLimits(t *testing.T) {
	s := start(t, rules())
	x := request("sh", "-c", "umask; ulimit -n; ulimit -c; ulimit -s; ulimit -v")
	x.Umask = 0o027
	x.Limits = []fsyscall.Rlimit{
		{Resource: unix.RLIMIT_NOFILE, Cur: 333, Max: 444},
		{Resource: unix.RLIMIT_CORE, Cur: 0, Max: 0},
		{Resource: unix.RLIMIT_STACK, Cur: 4 << 20, Max: 1<<64 - 1},
		// Far less than the exec stage itself has mapped.
		{Resource: unix.RLIMIT_AS, Cur: 100 << 20, Max: 1<<64 - 1},
	}
	if out, ev := s.output(x); out != "0027\n333\n0\n4096\n102400\n" {
		t.Errorf("%q, %+v", out, ev)
	}
	x = request("sh", "-c", "ulimit -n")
	if out, _ := s.output(x); out != "1024\n" {
		t.Errorf("files when the client does not say: %q", out)
	}
	// More than this machine allows anybody: as much as there is.
	var here unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &here); err != nil {
		t.Fatal(err)
	}
	x = request("sh", "-c", "ulimit -S -n; ulimit -H -n")
	x.Limits = []fsyscall.Rlimit{{Resource: unix.RLIMIT_NOFILE, Cur: 1<<64 - 1, Max: 1<<64 - 1}}
	if out, ev := s.output(x); out != fmt.Sprintf("%d\n%d\n", here.Max, here.Max) {
		t.Errorf("limits above the server's %d: %q, %+v", here.Max, out, ev)
	}
}

func TestStandardFiles(t *testing.T) {
	s := start(t, rules())
	write(t, s.client+"/in", "0123456789\n")
	write(t, s.client+"/out", "old\n")
	x := request("sh", "-c", "head -c 2 >/dev/null; cat; echo err >&2; printf 12345")
	file := func(flags fsyscall.OpenFlags, off uint64) fsyscall.Stdio {
		return fsyscall.Stdio{Kind: fsyscall.StdioFile, DupOf: -1, Flags: flags, Off: off}
	}
	x.Stdio = [3]fsyscall.Stdio{file(fsyscall.OpenReadOnly, 4), file(fsyscall.OpenWriteOnly, 4), file(fsyscall.OpenWriteOnly, 4)}
	x.Stdio[2].DupOf = 1
	c := Command{Exec: x, Path: "/usr/bin:/bin", Hidden: [3]string{"in", "out", ""}}
	if err := s.space.Run(c); err != nil {
		t.Fatal(err)
	}
	if ev := s.event(Started); ev.Stage != fsyscall.ExecStarted {
		t.Fatalf("%+v", ev)
	}
	ev := s.event(Ended)
	b, _ := os.ReadFile(s.client + "/out")
	// head(1) may have read ahead and moved back.
	if string(b) != "old\n6789\nerr\n12345" || ev.Off != [3]uint64{11, 18, 18} {
		t.Errorf("%q, %+v", b, ev)
	}
	x.Stdio[0] = fsyscall.Stdio{Kind: fsyscall.StdioNull, DupOf: -1}
	x.Stdio[1].Append, x.Stdio[1].Off = true, 0
	x.Stdio[2] = fsyscall.Stdio{Kind: fsyscall.StdioClosed, DupOf: -1}
	x.Argv = []string{"sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"}
	if err := s.space.Run(c); err != nil {
		t.Fatal(err)
	}
	s.event(Started)
	s.event(Ended)
	b, _ = os.ReadFile(s.client + "/out")
	if got := strings.TrimPrefix(string(b), "old\n6789\nerr\n12345"); got != "0 1 2 " && got != "0 1 3 " {
		t.Errorf("descriptors: %q", got) // ls has one more, which may be 2
	}
	x.Stdio[1].Append = false
	c.Hidden[1] = "not/there"
	s.space.Run(c)
	if ev := s.event(Started); ev.Stage != fsyscall.ExecStdio || ev.Errno != fsyscall.Errno(unix.ENOENT) {
		t.Errorf("%+v", ev)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLoginShell(t *testing.T) {
	s := start(t, rules())
	x := request()
	x.Stdio[0] = fsyscall.Stdio{Kind: fsyscall.StdioFile, DupOf: -1}
	write(t, s.client+"/script", "echo $0; shopt -q login_shell && echo login\n")
	for shell, want := range map[string]string{"/bin/bash": "-bash\nlogin\n", "/no/shell": "-sh\n"} {
		c := Command{Exec: x, Path: "/usr/bin:/bin", Shell: shell, Hidden: [3]string{"script", "", ""}}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c.Files[1] = w
		if err := s.space.Run(c); err != nil {
			t.Fatal(err)
		}
		s.event(Started)
		var b bytes.Buffer
		b.ReadFrom(r)
		r.Close()
		s.event(Ended)
		if !strings.HasPrefix(b.String(), want) {
			t.Errorf("%s: %q, want %q", shell, b.String(), want)
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct{ program, path, want string }{
		{"x", "/a:/b", "[/a/x /b/x]"}, {"x", "/a::b", "[/a/x ./x b/x]"}, {"x", "", "[./x]"},
		{"a/x", "/a", "[a/x]"}, {"/x", "/a", "[/x]"}, {strings.Repeat("x", 5000), "/a", "[]"},
	} {
		if got := fmt.Sprint(candidates(c.program, c.path)); got != c.want {
			t.Errorf("%.10q in %q: %s, want %s", c.program, c.path, got, c.want)
		}
	}
}
