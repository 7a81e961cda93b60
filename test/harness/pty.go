package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/creack/pty"
)

// Terminal is a pseudo-terminal with a command on it.
type Terminal struct {
	Cmd *exec.Cmd

	file *os.File
	out  Buffer
	seen int // bytes of out that Expect has gone past
	done chan struct{}
}

// NewTerminal starts the command as the leader of a session on a new terminal.
// Its standard streams are the terminal except those that are already set.
func NewTerminal(c *exec.Cmd, rows, cols uint16) (*Terminal, error) {
	f, err := pty.StartWithSize(c, &pty.Winsize{Rows: rows, Cols: cols})
	if err != nil {
		return nil, err
	}
	t := &Terminal{Cmd: c, file: f, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		buf := make([]byte, 32<<10)
		for {
			n, err := f.Read(buf)
			t.out.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return t, nil
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
func (t *Terminal) HangUp() error { return t.file.Close() }

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
	t.file.Close()
	<-t.done
	return err
}
