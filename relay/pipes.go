package relay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/rawio"
)

// Pipes is a byte stream of two files: a program's standard input and output,
// or the pipes to a child.
type Pipes struct {
	r, w *rawio.File
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

func pollable(f *os.File, number uintptr) (*rawio.File, error) {
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
	return rawio.NewFile(os.NewFile(uintptr(fd), f.Name()))
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

func (p *Pipes) writeVector(parts [][]byte) error { return p.w.WriteVector(parts) }

// Descriptors returns the numbers of the descriptors that are read from and
// written to, which stay the byte stream's.
func (p *Pipes) Descriptors() (r, w int, err error) {
	for _, x := range []struct {
		f  *rawio.File
		fd *int
	}{{p.r, &r}, {p.w, &w}} {
		if err := x.f.Raw().Control(func(fd uintptr) { *x.fd = int(fd) }); err != nil {
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
	var errShut error
	if err := p.w.Raw().Control(func(fd uintptr) { errShut = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	if errShut == unix.ENOTSOCK && p.r != p.w {
		return p.w.Close()
	}
	return errShut
}
