package client

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func mustOpen(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func mustDup(t *testing.T, fd int) int {
	t.Helper()
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(d) })
	return d
}

func mustPipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

func TestClassifyKinds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := mustOpen(t, path, unix.O_RDWR|unix.O_APPEND)
	if _, err := unix.Seek(file, 7, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	_, w := mustPipe(t)
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	for _, c := range []struct {
		fd   int
		want fsyscall.Stdio
	}{
		{-1, fsyscall.Stdio{Kind: fsyscall.StdioClosed}},
		{file, fsyscall.Stdio{Kind: fsyscall.StdioFile, Flags: fsyscall.OpenReadWrite, Append: true, Off: 7}},
		{mustOpen(t, path, unix.O_WRONLY|unix.O_SYNC), fsyscall.Stdio{Kind: fsyscall.StdioFile, Flags: fsyscall.OpenWriteOnly | fsyscall.OpenSync | fsyscall.OpenDSync}},
		{mustOpen(t, "/", unix.O_RDONLY), fsyscall.Stdio{Kind: fsyscall.StdioFile}},
		{mustOpen(t, path, unix.O_PATH), fsyscall.Stdio{Kind: fsyscall.StdioClosed}},
		{mustOpen(t, "/dev/null", unix.O_WRONLY), fsyscall.Stdio{Kind: fsyscall.StdioNull, Flags: fsyscall.OpenWriteOnly}},
		{mustOpen(t, "/dev/zero", unix.O_RDONLY), fsyscall.Stdio{Kind: fsyscall.StdioStreamed}},
		{w, fsyscall.Stdio{Kind: fsyscall.StdioStreamed, Flags: fsyscall.OpenWriteOnly}},
		{int(tty.Fd()), fsyscall.Stdio{Kind: fsyscall.StdioTerminal, Flags: fsyscall.OpenReadWrite}},
	} {
		c.want.DupOf = -1
		s := classify([3]int{c.fd, -1, -1}, [3]bool{}, TerminalAuto)
		if s.wire[0] != c.want {
			t.Errorf("descriptor %d: %+v, want %+v", c.fd, s.wire[0], c.want)
		}
		// Whatever a stream is, the message that describes it can be sent.
		e := &fsyscall.Exec{Stdio: s.wire}
		if _, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec}, e); err != nil {
			t.Errorf("descriptor %d: %v", c.fd, err)
		}
	}
	three := [3]int{int(tty.Fd()), w, int(tty.Fd())}
	if s := classify(three, [3]bool{}, TerminalNone); s.hasTerminal() || s.tty != -1 || s.wire[0].Kind != fsyscall.StdioStreamed {
		t.Errorf("without a terminal: %+v", s)
	}
	if s := classify(three, [3]bool{}, TerminalForced); !s.terminal(0) || !s.terminal(1) || !s.terminal(2) || s.tty != three[0] {
		t.Errorf("with a forced terminal: %+v", s)
	}
}

func TestDuplicates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := mustOpen(t, path, unix.O_RDWR), mustOpen(t, path, unix.O_RDWR)
	r, w := mustPipe(t)
	_, w2 := mustPipe(t)
	for _, c := range []struct {
		name string
		fds  [3]int
		want [3]int32
	}{
		{"one file", [3]int{a, mustDup(t, a), mustDup(t, a)}, [3]int32{-1, 0, 0}},
		{"opened twice", [3]int{-1, a, b}, [3]int32{-1, -1, -1}},
		{"output and error", [3]int{r, a, mustDup(t, a)}, [3]int32{-1, -1, 1}},
		{"one pipe", [3]int{r, w, mustDup(t, w)}, [3]int32{-1, -1, 1}},
		{"both ends of a pipe", [3]int{r, w, w2}, [3]int32{-1, -1, -1}},
	} {
		s := classify(c.fds, [3]bool{}, TerminalAuto)
		for slot, want := range c.want {
			if got := s.wire[slot].DupOf; got != want {
				t.Errorf("%s: stream %d is a duplicate of %d, want %d", c.name, slot, got, want)
			}
		}
	}
	if !looksSame(a, mustDup(t, a)) {
		t.Error("without the kernel's help a duplicate is not recognised")
	}
	if _, err := unix.Seek(b, 3, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	if looksSame(a, b) {
		t.Error("two offsets look the same")
	}
}
