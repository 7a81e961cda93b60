package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Terminal is a pseudo-terminal with a command on it.
type Terminal struct {
	Cmd *exec.Cmd

	file *os.File
	out  Buffer
	seen int // bytes of out that Expect has gone past
	stop chan struct{}
	done chan struct{}
	once sync.Once
}

// NewTerminal starts the command as the leader of a session on a new terminal.
// Its standard streams are the terminal except those that are already set.
func NewTerminal(c *exec.Cmd, rows, cols uint16) (*Terminal, error) {
	f, err := pty.StartWithSize(c, &pty.Winsize{Rows: rows, Cols: cols})
	if err != nil {
		return nil, err
	}
	t := &Terminal{Cmd: c, file: f, stop: make(chan struct{}), done: make(chan struct{})}
	go t.read()
	return t, nil
}

// read collects the output until the terminal ends or stop is closed. It never
// blocks in read(2), which would keep the terminal open beyond HangUp.
func (t *Terminal) read() {
	defer close(t.done)
	buf := make([]byte, 32<<10)
	fds := []unix.PollFd{{Fd: int32(t.file.Fd()), Events: unix.POLLIN}}
	for {
		select {
		case <-t.stop:
			return
		default:
		}
		n, err := unix.Poll(fds, 20)
		if err == unix.EINTR || (err == nil && n == 0) {
			continue
		}
		if err != nil {
			return
		}
		n, err = t.file.Read(buf)
		t.out.Write(buf[:n])
		if err != nil {
			return
		}
	}
}

// Send types s.
func (t *Terminal) Send(s string) error {
	_, err := t.file.WriteString(s)
	return err
}

// Expect waits until s appears in the output after what was expected before.
func (t *Terminal) Expect(s string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		all := t.out.String()
		if i := strings.Index(all[t.seen:], s); i >= 0 {
			t.seen += i + len(s)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no %q in %s, but %q", s, limit, all[t.seen:])
		}
	}
}

// Resize gives the terminal a new size.
func (t *Terminal) Resize(rows, cols uint16) error {
	return pty.Setsize(t.file, &pty.Winsize{Rows: rows, Cols: cols})
}

// Output returns everything that was written to the terminal.
func (t *Terminal) Output() string { return t.out.String() }

// HangUp closes the terminal, as closing its window does.
func (t *Terminal) HangUp() (err error) {
	t.once.Do(func() {
		close(t.stop)
		<-t.done
		err = t.file.Close()
	})
	return err
}

// Wait waits for the command, kills it after limit, and closes the terminal.
func (t *Terminal) Wait(limit time.Duration) error {
	timer := time.AfterFunc(limit, func() { t.Cmd.Process.Kill() })
	err := t.Cmd.Wait()
	if !timer.Stop() {
		err = errors.Join(fmt.Errorf("killed after %s", limit), err)
	}
	select {
	case <-t.done:
	case <-time.After(time.Second):
	}
	return errors.Join(err, t.HangUp())
}
