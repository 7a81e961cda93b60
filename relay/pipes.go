package relay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Pipes is a byte stream of two files: a program's standard input and output,
// or the pipes to a child.
type Pipes struct{ r, w *os.File }

// pipeSize is what a pipe is asked to hold, the most that the kernel gives an
// ordinary user: several frames for one system call and one change of process.
const pipeSize = 1 << 20

// NewPipes makes a byte stream that reads from r and writes to w, which may
// be the same file; they must be pipes or sockets. Its Close makes blocked
// reads and writes return, which that of os.Stdin and os.Stdout does not: their
// descriptors are duplicated and made non-blocking. r and w are used up: they
// are closed, or, where they are descriptors 0 to 2, are /dev/null from then on.
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
	p := &Pipes{nr, nw}
	if err := useUp(r); err != nil {
		p.Close()
		return nil, err
	}
	if w == r {
		return p, nil
	}
	if err := useUp(w); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make %s non-blocking: %w", f.Name(), err)
	}
	// It is faster so, and as correct if the kernel refuses.
	unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// useUp closes f. Numbers 0 to 2 must not fall to whatever is opened next.
func useUp(f *os.File) error {
	if f.Fd() > 2 {
		return f.Close()
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), int(f.Fd()), 0); err != nil {
		return fmt.Errorf("replace %s: %w", f.Name(), err)
	}
	return nil
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

// CloseWrite makes the other end read the end of the byte stream.
func (p *Pipes) CloseWrite() error {
	c, err := p.w.SyscallConn()
	if err != nil {
		return err
	}
	var errShut error
	if err := c.Control(func(fd uintptr) { errShut = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	if errShut == unix.ENOTSOCK && p.r != p.w {
		return p.w.Close()
	}
	return errShut
}
