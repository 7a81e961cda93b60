package relay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Pipes is a byte stream of two files: a program's standard input and output,
// or the pipes to a child.
type Pipes struct {
	r, w *os.File
	head []byte // read already, to be read again
}

// pipeSize is what a pipe is asked to hold, the most that the kernel gives an
// ordinary user: several frames for one system call and one change of process.
const pipeSize = 1 << 20

// NewPipes makes a byte stream that reads from r and writes to w, which may
// be the same file; they must be pipes or sockets. Its Close makes blocked
// reads and writes return, which that of os.Stdin and os.Stdout does not: their
// descriptors are duplicated and made non-blocking. r and w are used up: they
// are closed, or, where they are descriptors 0 to 2, are /dev/null from then on.
func NewPipes(r, w *os.File) (*Pipes, error) {
	// Asking for a number may make the file blocking: not once it must not be.
	numberR, numberW := r.Fd(), w.Fd()
	nr, err := pollable(r, numberR)
	if err != nil {
		return nil, err
	}
	nw := nr
	if w != r {
		if nw, err = pollable(w, numberW); err != nil {
			nr.Close()
			return nil, err
		}
	}
	p := &Pipes{r: nr, w: nw}
	if err := useUp(r, numberR); err != nil {
		p.Close()
		return nil, err
	}
	if w == r {
		return p, nil
	}
	if err := useUp(w, numberW); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func pollable(f *os.File, number uintptr) (*os.File, error) {
	fd, err := unix.FcntlInt(number, unix.F_DUPFD_CLOEXEC, 3)
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
func useUp(f *os.File, number uintptr) error {
	if number > 2 {
		return f.Close()
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), int(number), 0); err != nil {
		return fmt.Errorf("replace %s: %w", f.Name(), err)
	}
	return nil
}

func (p *Pipes) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.r.Read(b)
}

func (p *Pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p *Pipes) writeVector(parts [][]byte) error { return writeVector(p.w, parts) }

// BlockingPipes is a byte stream of two files that are read and written as
// they are: for a program whose only way to end is that its input does, which
// spares it the poller between itself and the kernel.
type BlockingPipes struct{ R, W *os.File }

func (p BlockingPipes) Read(b []byte) (int, error)  { return p.R.Read(b) }
func (p BlockingPipes) Write(b []byte) (int, error) { return p.W.Write(b) }

func (p BlockingPipes) writeVector(parts [][]byte) error { return writeVector(p.W, parts) }

// writeVector writes the parts, which it uses up, in as few system calls as
// the file allows.
func writeVector(f *os.File, parts [][]byte) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	write := func(fd uintptr) (done bool) {
		for {
			for len(parts) > 0 && len(parts[0]) == 0 {
				parts = parts[1:]
			}
			if len(parts) == 0 {
				return true
			}
			n, err := unix.Writev(int(fd), parts)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failed = &os.PathError{Op: "writev", Path: f.Name(), Err: err}
				return true
			}
			for n > 0 {
				k := min(n, len(parts[0]))
				parts[0] = parts[0][k:]
				if n -= k; len(parts[0]) == 0 {
					parts = parts[1:]
				}
			}
		}
	}
	if err := c.Write(write); err != nil {
		return err
	}
	return failed
}

// Descriptors returns the numbers of the descriptors that are read from and
// written to, which stay the byte stream's.
func (p *Pipes) Descriptors() (r, w int, err error) {
	for _, x := range []struct {
		f  *os.File
		fd *int
	}{{p.r, &r}, {p.w, &w}} {
		c, err := x.f.SyscallConn()
		if err == nil {
			err = c.Control(func(fd uintptr) { *x.fd = int(fd) })
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", x.f.Name(), err)
		}
	}
	return r, w, nil
}

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
