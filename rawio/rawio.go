// Package rawio reads and writes descriptors that do not block, sockets and
// pipes, without telling Go's scheduler.
//
// Go announces every system call to its scheduler, since it might block, and
// the first one after a rest wakes a monitor thread, which then looks at the
// process again every 20 us until it rests. nexec's processes work in bursts of
// a few microseconds, so that the monitors of four processes took a tenth of
// all processor time and a fifth of the changes of context. A call on a
// descriptor that does not block takes what is there and returns; the waiting
// is done by Go's poller, as in the packages os and net.
package rawio

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVectors is how many buffers one call takes, of the 1,024 that Linux
// allows. A call of at most some MiB in memory is short enough.
const maxVectors = 64

// Read is read(2), which waits until there is something. The error at the end
// of the stream is io.EOF; an errno comes as it is.
func Read(c syscall.RawConn, b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	waited := c.Read(func(fd uintptr) bool {
		for {
			r, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
			switch {
			case errno == unix.EINTR:
				continue
			case errno == unix.EAGAIN:
				return false
			case errno != 0:
				err = errno
			case r == 0:
				err = io.EOF
			}
			if errno == 0 {
				n = int(r)
			}
			return true
		}
	})
	if waited != nil {
		return 0, waited
	}
	return n, err
}

// Write writes all parts, which it uses up, with writev(2), and waits for room.
// It returns how many bytes were written; an errno comes as it is.
func Write(c syscall.RawConn, parts [][]byte) (n int, err error) {
	vectors := make([]unix.Iovec, 0, min(len(parts), maxVectors))
	waited := c.Write(func(fd uintptr) bool {
		for {
			vectors = fill(vectors[:0], parts)
			if len(vectors) == 0 {
				return true
			}
			r, errno := write(fd, vectors)
			switch errno {
			case 0:
				n += int(r)
				parts = advance(parts, int(r))
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				err = errno
				return true
			}
		}
	})
	if waited != nil {
		return n, waited
	}
	return n, err
}

func write(fd uintptr, v []unix.Iovec) (int, syscall.Errno) {
	if len(v) == 1 {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(v[0].Base)), uintptr(v[0].Len))
		return int(n), errno
	}
	n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return int(n), errno
}

// fill adds the parts that are not empty, as many as there is room for.
func fill(vectors []unix.Iovec, parts [][]byte) []unix.Iovec {
	for _, p := range parts {
		if len(vectors) == cap(vectors) {
			break
		}
		if len(p) > 0 {
			v := unix.Iovec{Base: &p[0]}
			v.SetLen(len(p))
			vectors = append(vectors, v)
		}
	}
	return vectors
}

// advance takes the first n bytes off the parts.
func advance(parts [][]byte, n int) [][]byte {
	for len(parts) > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts[0] = nil
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}

// File reads and writes a file that does not block and that Go's poller knows.
// Its Close is the file's.
type File struct {
	*os.File
	raw syscall.RawConn
}

// NewFile returns f with this package's Read and Write.
func NewFile(f *os.File) (*File, error) {
	raw, err := f.SyscallConn()
	return &File{f, raw}, err
}

// Raw is the file's connection for the functions of this package.
func (f *File) Raw() syscall.RawConn { return f.raw }

// Read implements io.Reader.
func (f *File) Read(b []byte) (int, error) {
	n, err := Read(f.raw, b)
	return n, f.failed("read", err)
}

// Write implements io.Writer.
func (f *File) Write(b []byte) (int, error) {
	n, err := Write(f.raw, [][]byte{b})
	return n, f.failed("write", err)
}

// WriteVector writes all parts, which it uses up, in as few system calls as
// the kernel allows.
func (f *File) WriteVector(parts [][]byte) error {
	_, err := Write(f.raw, parts)
	return f.failed("writev", err)
}

// failed gives an error the form that it has in package os.
func (f *File) failed(op string, err error) error {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
	case err == nil || err == io.EOF || f.raw.Control(func(uintptr) {}) == nil:
		return err
	default:
		err = os.ErrClosed // the poller has a word of its own for it
	}
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}

// Conn is a connection of the package net with this package's Read and Write.
type Conn struct {
	net.Conn
	raw syscall.RawConn
}

// NewConn returns c with this package's Read and Write if it is a socket's, and
// c itself otherwise.
func NewConn(c net.Conn) net.Conn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	return &Conn{c, raw}
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Read implements io.Reader.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := Read(c.raw, b)
	return n, c.failed("read", err)
}

// Write implements io.Writer.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := Write(c.raw, [][]byte{b})
	return n, c.failed("write", err)
}

// failed gives an error the form that it has in package net.
func (c *Conn) failed(op string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return &net.OpError{
			Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(),
			Err: os.NewSyscallError(op, errno),
		}
	}
	return err
}
