package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nexec starts nexec with a stand-in server and the environment added.
func nexecCmd(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	argv := nexecArgs(args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir()), env...)
	return cmd
}

func shell(t *testing.T, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "FAKESSH=", "N=nexec --ssh fakessh host")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Binary data goes both ways unchanged, more of it than all windows hold, and
// the end of input is the end of input there.
func TestBytesThroughCat(t *testing.T) {
	const size = 64 << 20
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{1})
	if _, err := rng.Read(data); err != nil {
		t.Fatal(err)
	}
	cmd := nexecCmd(t, nil, "cat")
	cmd.Stdin = bytes.NewReader(data)
	hash := sha256.New()
	cmd.Stdout = hash
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Error("cat changed the data")
	}
	if rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; rss > 150<<10 { // also under the race detector
		t.Errorf("nexec took %d KiB of memory", rss)
	}
}

// A reader that does not read stops the writer: memory stays bounded and
// nothing is lost.
func TestSlowReader(t *testing.T) {
	progress := filepath.Join(t.TempDir(), "progress")
	cmd := nexecCmd(t, nil, "sh", "-c", `i=0; while [ $i -lt 1024 ]; do head -c 65536 /dev/zero; i=$((i+1)); echo $i >`+progress+`; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := ""
	for stable := 0; stable < 5; { // until the writer makes no progress
		time.Sleep(100 * time.Millisecond)
		b, _ := os.ReadFile(progress) // not there at first
		if now := string(b); now != "" && now == last {
			stable++
		} else {
			last, stable = now, 0
		}
	}
	if strings.TrimSpace(last) == "1024" {
		t.Error("the writer was not stopped")
	}
	n, err := io.Copy(io.Discard, out)
	if err != nil || n != 1024*65536 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestPipelines(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"reader leaves", `$N yes | head -1; echo ${PIPESTATUS[@]}`, "y\n141 0\n"},
		{"reader leaves, status kept", `$N sh -c 'trap "" PIPE; yes 2>/dev/null; exit 9' | head -1; echo ${PIPESTATUS[@]}`, "y\n9 0\n"},
		{"command does not read", `yes | $N true; echo ${PIPESTATUS[@]}`, "141 0\n"},
		{"command stops reading", `(yes; echo w=$? >&2) | $N sh -c 'exec <&-; sleep 1; echo slept'`, "w=141\nslept\n"},
		{"input is shared", `echo rest | (nexec -n --ssh fakessh host true; cat)`, "rest\n"},
		{"O_NONBLOCK is never set", `sleep 1 | ($N cat <&0 & sleep 0.5; sed -n 's/flags:\t//p' /proc/self/fdinfo/0; wait)`, "00\n"},
		{"error and output apart", `$N sh -c 'echo a; echo b >&2' 2>/dev/null`, "a\n"},
		{"error into output", `$N sh -c 'for i in 1 2 3; do echo a$i; echo b$i >&2; done' 2>&1 | cat`, "a1\nb1\na2\nb2\na3\nb3\n"},
		{"full device", `$N echo hi >/dev/full; echo $?`, "nexec: cannot write standard output: no space left on device; output of the command was lost\n255\n"},
		{"socket", `python3 -c '
import socket, subprocess
a, b = socket.socketpair()
p = subprocess.Popen("nexec --ssh fakessh host tr a-z A-Z".split(), stdin=b, stdout=b)
b.close()
a.sendall(b"abc"); a.shutdown(socket.SHUT_WR)
print(a.recv(99), p.wait())'`, "b'ABC' 0\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := shell(t, c.script)
			if err != nil || out != c.want {
				t.Errorf("got %q, %v; want %q", out, err, c.want)
			}
		})
	}
}

// What each standard stream is, and which are one, goes with the command.
func TestStreamKinds(t *testing.T) {
	for _, c := range []struct {
		redirect string
		want     []string
	}{
		{`</dev/null >/dev/null 2>&1`, []string{"stdio 0 kind 1 dup -1 flags 0 ", "stdio 1 kind 1 dup -1 flags 01 ", "stdio 2 kind 1 dup -1"}},
		{`<in >out 2>&1`, []string{"stdio 0 kind 4 dup -1 flags 0 append false off 0", "stdio 1 kind 4 dup -1 flags 01 append false off 0", "stdio 2 kind 4 dup 1"}},
		{`>out 2>out`, []string{"stdio 1 kind 4 dup -1", "stdio 2 kind 4 dup -1"}},
		{`>>in`, []string{"stdio 1 kind 4 dup -1 flags 01 append true off 0"}},
		{`<>in 1>&0`, []string{"stdio 0 kind 4 dup -1 flags 02", "stdio 1 kind 4 dup 0"}},
		{`</`, []string{"stdio 0 kind 4 dup -1"}},
		{`< <(echo) > >(cat)`, []string{"stdio 0 kind 2 dup -1", "stdio 1 kind 2 dup -1 flags 01"}},
		{`</dev/zero`, []string{"stdio 0 kind 2"}},
	} {
		out, err := shell(t, `printf 12345 >in; export FAKESSH=describe; FAKESSH_OUT=$PWD/described $N true `+c.redirect+`; cat described`)
		for _, w := range c.want {
			if err != nil || !strings.Contains(out, w) {
				t.Errorf("%s: no %q in\n%s%v", c.redirect, w, out, err)
			}
		}
	}
}

// A file goes on from where the command left it, also one that was begun.
func TestOffsetsOfFiles(t *testing.T) {
	out, err := shell(t, `printf 0123456789 >in; export FAKESSH=offsets
		{ head -c 2 >/dev/null; $N true; cat; } <in; echo
		{ printf ab; $N true; printf yz; } >out; od -An -c out`)
	want := "789\n   a   b  \\0  \\0  \\0  \\0   y   z\n"
	if err != nil || out != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestSignalsReachCommand(t *testing.T) {
	// Python can catch every signal, and its writes are unbuffered. It sleeps
	// rather than pause: a signal that came just before would not end that.
	cmd := nexecCmd(t, nil, "python3", "-uc", `
import signal, time
for s in range(1, 65):
    try: signal.signal(s, lambda s, f: print(s))
    except (OSError, ValueError): pass
print("up")
while True: time.sleep(0.05)`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "up" {
		t.Fatalf("the command said %q, %v", lines.Text(), lines.Err())
	}
	for _, sig := range []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGTERM, unix.SIGVTALRM, unix.SIGXCPU, unix.SIGPWR, unix.SIGTSTP, unix.SIGCONT, 40, 64,
	} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != strconv.Itoa(int(sig)) {
			t.Errorf("signal %d: the command got %q, %v", sig, lines.Text(), lines.Err())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
}

// nexec dies by the signal that the command died by, without a core.
func TestDeathBySignal(t *testing.T) {
	for _, sig := range []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE,
		unix.SIGKILL, unix.SIGUSR1, unix.SIGSEGV, unix.SIGPIPE, unix.SIGALRM, unix.SIGTERM, unix.SIGXCPU,
		unix.SIGPROF, unix.SIGIO, unix.SIGSYS, 34, 64,
	} {
		cmd := nexecCmd(t, []string{"FAKESSH=signal", "FAKESSH_SIGNAL=" + strconv.Itoa(int(sig))}, "true")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Errorf("signal %d: %v", sig, err)
			continue
		}
		ws := exit.Sys().(syscall.WaitStatus)
		if !ws.Signaled() || ws.Signal() != sig || ws.CoreDump() || stderr.Len() > 0 {
			t.Errorf("signal %d: ended with %v, core %v, said %q", sig, exit, ws.CoreDump(), stderr.String())
		}
	}
}

// Ignored signals stay ignored here and are said to be.
func TestIgnoredSignals(t *testing.T) {
	out, err := shell(t, `trap '' HUP INT; export FAKESSH=describe; FAKESSH_OUT=$PWD/described $N sh -c 'sleep 1; echo lived' & sleep 0.5; kill -HUP $!; kill -INT $!; wait $!; echo $?; grep ignored described`)
	if err != nil || !strings.HasPrefix(out, "lived\n0\nignored 0x") || !strings.HasSuffix(out, "3\n") {
		t.Errorf("got %q, %v", out, err)
	}
}

// A server that says nothing any more cannot hold a user who interrupts.
func TestSecondInterruptEndsDeadSession(t *testing.T) {
	cmd := nexecCmd(t, []string{"FAKESSH=deaf"}, "true")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	for range 2 {
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	began := time.Now()
	err := cmd.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if err == nil || err.Error() != "exit status 255" || !strings.Contains(stderr.String(), "interrupted twice without an answer") {
		t.Errorf("ended with %v, said %q", err, stderr.String())
	}
}

// Before the server has answered, a signal is for nexec.
func TestInterruptWhileConnecting(t *testing.T) {
	cmd := nexecCmd(t, []string{"FAKESSH=silent"}, "true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("ended with %v", err)
	}
}

// However nexec ends, the commands and fslave end.
func TestNothingOutlivesNexec(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	cmd := nexecCmd(t, []string{"HOME=" + dir}, "sh", "-c", "echo $$ >"+pidFile+"; echo up; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	awaitGone(t, pidFile)
	awaitGone(t, filepath.Join(dir, "fslave-pid"))
}

func TestFileServiceDies(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "fslave-pid")
	cmd := nexecCmd(t, []string{"HOME=" + dir}, "sh", "-c", "echo up; exec sleep 1000")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(readPid(t, pidFile), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	want := "nexec: the file service (fslave) failed: signal: killed; the command on the server was ended\n"
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 255" || stderr.String() != want {
		t.Errorf("ended with %v, said %q", err, stderr.String())
	}
}

func TestArguments(t *testing.T) {
	big := strings.Repeat("x", 100<<10)
	cmd := nexecCmd(t, nil, "sh", "-c", `echo ${#1} ${#2} ${#3}`, "sh", big, big, big)
	out, err := cmd.Output()
	if err != nil || string(out) != "102400 102400 102400\n" {
		t.Errorf("got %q, %v", out, err)
	}
	args := []string{"true"}
	for range 12 {
		args = append(args, big)
	}
	cmd = nexecCmd(t, nil, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	if err == nil || err.Error() != "exit status 126" || stderr.String() != "nexec: true: arguments and environment are too long for host; use xargs or a file\n" {
		t.Errorf("ended with %v, said %q", err, stderr.String())
	}
}
