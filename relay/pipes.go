package relay

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Pipes is a byte stream of two files: a program's standard input and output,
// or the pipes to a child.
type Pipes struct{ r, w *os.File }

// NewPipes makes a byte stream that reads from r and writes to w, which may
// be the same file. Its Close makes blocked reads and writes return, which the
// files of os.Stdin and os.Stdout do not: their descriptors are duplicated and
// made non-blocking, and r and w are closed. They must be pipes or sockets.
func NewPipes(r, w *os.File) (*Pipes, error) {
	nr, err := pollable(r)
	if err != nil {
		return nil, err
	}
	nw := nr
	if w != r {
		if nw, err = pollable(w); err != nil {
			nr.Close()
			return nil, err
		}
	}
	r.Close()
	w.Close()
	return &Pipes{nr, nw}, nil
}

func pollable(f *os.File) (*os.File, error) {
	fd, _, errno := syscall.Syscall(syscall.SYS_FCNTL, f.Fd(), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), errno)
	}
	if err := syscall.SetNonblock(int(fd), true); err != nil {
		syscall.Close(int(fd))
		return nil, fmt.Errorf("make %s non-blocking: %w", f.Name(), err)
	}
	return os.NewFile(fd, f.Name()), nil
}

func (p *Pipes) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *Pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

// Close closes both files.
func (p *Pipes) Close() error {
	if p.r == p.w {
		return p.r.Close()
	}
	return errors.Join(p.r.Close(), p.w.Close())
}

// CloseWrite closes the file that is written to: the other end reads its end.
func (p *Pipes) CloseWrite() error {
	if p.r != p.w {
		return p.w.Close()
	}
	c, err := p.w.SyscallConn()
	if err != nil {
		return err
	}
	var errShut error
	if err := c.Control(func(fd uintptr) { errShut = syscall.Shutdown(int(fd), syscall.SHUT_WR) }); err != nil {
		return err
	}
	return errShut
}
