package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds what is read of an answer, as OpenSSH's buffer does.
const maxAnswer = 1024

// Terminal asks on /dev/tty, or with the program that SSH_ASKPASS names where
// there is no terminal or SSH_ASKPASS_REQUIRE says so. See ssh(1).
type Terminal struct{}

// Ask implements Prompter.
func (Terminal) Ask(ctx context.Context, q Question) (string, error) {
	allowed, wanted := askpassWanted()
	if !wanted {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err == nil {
			defer tty.Close()
			return askTTY(ctx, tty, q)
		}
	}
	if !allowed {
		return "", ErrCannotAsk
	}
	return askProgram(ctx, q)
}

// askpassWanted says whether an askpass program may be used, and whether it
// must be although there may be a terminal.
func askpassWanted() (allowed, wanted bool) {
	allowed = os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
	switch strings.ToLower(os.Getenv("SSH_ASKPASS_REQUIRE")) {
	case "force":
		return true, true
	case "prefer":
		return allowed, allowed
	case "never":
		return false, false
	}
	return allowed, false
}

func askProgram(ctx context.Context, q Question) (string, error) {
	program := os.Getenv("SSH_ASKPASS")
	if program == "" {
		program = "ssh-askpass"
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%w: %v: set SSH_ASKPASS", ErrCannotAsk, err)
	}
	cmd := exec.CommandContext(ctx, path, q.Text)
	cmd.Stderr = os.Stderr
	if q.Confirm {
		cmd.Env = append(os.Environ(), "SSH_ASKPASS_PROMPT=confirm")
	}
	var out bytes.Buffer
	cmd.Stdout = &limitedWriter{w: &out, left: maxAnswer}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s gave no answer: %w", path, err)
	}
	answer, _, _ := strings.Cut(out.String(), "\n")
	return strings.TrimSuffix(answer, "\r"), nil
}

// limitedWriter takes at most left bytes and drops the rest.
type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// askTTY shows the question on a terminal and reads a line, without echo
// unless the answer may be seen. A signal that would end the process does so
// after the echo is back.
func askTTY(ctx context.Context, tty *os.File, q Question) (string, error) {
	restore, err := setEcho(tty, q.Echo)
	if err != nil {
		return "", fmt.Errorf("the terminal: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if _, err := tty.WriteString("\r" + q.Text); err != nil {
		restore()
		signal.Stop(signals)
		return "", fmt.Errorf("the terminal: %w", err)
	}
	answer := make(chan result, 1)
	go func() {
		line, err := readLine(tty)
		answer <- result{line, err}
	}()
	var got result
	var caught os.Signal
	select {
	case got = <-answer:
		answer <- result{} // for stopReader: it has ended
	case <-ctx.Done():
		got.err = ctx.Err()
	case caught = <-signals:
		got.err = errors.New("interrupted")
	}
	if got.err != nil {
		stopReader(tty, answer)
	}
	restore()
	if !q.Echo {
		_, _ = tty.WriteString("\n")
	}
	signal.Stop(signals)
	if caught != nil {
		_ = syscall.Kill(os.Getpid(), caught.(syscall.Signal))
	}
	return got.line, got.err
}

type result struct {
	line string
	err  error
}

// stopReader ends and joins the goroutine that reads the terminal. A terminal
// without deadlines keeps it until it is closed, which comes next.
func stopReader(tty *os.File, answer <-chan result) {
	if tty.SetReadDeadline(time.Now()) == nil {
		<-answer
	}
}

// setEcho switches the echo and gives a function that sets back what was.
func setEcho(tty *os.File, echo bool) (restore func(), err error) {
	raw, err := tty.SyscallConn()
	if err != nil {
		return nil, err
	}
	var before *unix.Termios
	ctlErr := raw.Control(func(fd uintptr) {
		if before, err = unix.IoctlGetTermios(int(fd), unix.TCGETS); err != nil || echo {
			return
		}
		quiet := *before
		quiet.Lflag &^= unix.ECHO | unix.ECHONL
		quiet.Lflag |= unix.ICANON | unix.ISIG
		err = unix.IoctlSetTermios(int(fd), unix.TCSETSF, &quiet)
	})
	if ctlErr != nil || err != nil {
		return nil, errors.Join(ctlErr, err)
	}
	return func() {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetTermios(int(fd), unix.TCSETS, before) })
	}, nil
}

func readLine(r io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		if _, err := r.Read(one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		if len(line) < maxAnswer {
			line = append(line, one[0])
		}
	}
}
