package client

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// errStopped is what a read or write returns when the command is over.
var errStopped = errors.New("stopped")

// waker ends every read and write of the endpoints that share it. It is an
// eventfd that, once written, stays readable.
type waker struct{ fd int }

func newWaker() (waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return waker{-1}, fmt.Errorf("cannot make an eventfd: %w", err)
	}
	return waker{fd}, nil
}

func (w waker) wake() {
	// Cannot fail in a way that matters: a full counter is readable too.
	_, _ = unix.Write(w.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (w waker) close() { unix.Close(w.fd) }

// endpoint reads or writes one inherited descriptor so that a blocked call can
// be ended. O_NONBLOCK belongs to the open file, which other processes share
// (a shell's terminal, the other end of a pipeline), so it is never set on it.
// Instead a pipe or a terminal is opened once more for ourselves, and a socket
// is used with MSG_DONTWAIT. Where neither can be done, poll(2) comes before
// each call and writes are so short that a pipe reported ready takes them.
type endpoint struct {
	fd     int
	kind   endpointKind
	opened bool // fd is ours to close
	wake   waker
}

type endpointKind uint8

const (
	plainEndpoint    endpointKind = iota // blocking calls after poll
	nonblockEndpoint                     // fd has O_NONBLOCK
	socketEndpoint                       // MSG_DONTWAIT
)

// shortWrite is PIPE_BUF: what a pipe takes when poll says that it has room.
const shortWrite = 4096

// newEndpoint prepares fd for reading (unix.O_RDONLY) or writing
// (unix.O_WRONLY). The descriptor itself stays open and unchanged.
func newEndpoint(fd, access int, wake waker) *endpoint {
	e := &endpoint{fd: fd, wake: wake}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return e // the first call says what is wrong
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		e.kind = socketEndpoint
	case st.Mode&unix.S_IFMT == unix.S_IFIFO || isTerminal(fd):
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), access|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			e.fd, e.kind, e.opened = own, nonblockEndpoint, true
		}
	}
	return e
}

// await blocks until the descriptor is ready for events or the waker fires.
func (e *endpoint) await(events int16, timeout int) error {
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: events}, {Fd: int32(e.wake.fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, timeout)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[1].Revents != 0:
			return errStopped
		case fds[0].Revents&unix.POLLNVAL != 0:
			return unix.EBADF
		}
		return nil
	}
}

// Read returns at least one byte, io.EOF, errStopped or the system's error.
func (e *endpoint) Read(b []byte) (int, error) {
	for {
		if err := e.await(unix.POLLIN, -1); err != nil {
			return 0, err
		}
		n, err := e.readNow(b)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			// Somebody else read what poll saw.
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (e *endpoint) readNow(b []byte) (int, error) {
	if e.kind == socketEndpoint {
		n, _, err := unix.Recvfrom(e.fd, b, unix.MSG_DONTWAIT)
		return n, err
	}
	return unix.Read(e.fd, b)
}

// Write writes all of b or returns errStopped or the system's error.
func (e *endpoint) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := e.writeNow(b[done:])
		switch err {
		case nil:
			done += n
		case unix.EINTR:
		case unix.EAGAIN:
			if err := e.await(unix.POLLOUT, -1); err != nil {
				return done, err
			}
		default:
			return done, err
		}
	}
	return done, nil
}

func (e *endpoint) writeNow(b []byte) (int, error) {
	switch e.kind {
	case socketEndpoint:
		return unix.SendmsgN(e.fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	case plainEndpoint:
		if err := e.await(unix.POLLOUT, -1); err != nil {
			return 0, err
		}
		return unix.Write(e.fd, b[:min(len(b), shortWrite)])
	}
	return unix.Write(e.fd, b)
}

// Close releases what newEndpoint opened; the inherited descriptor stays.
func (e *endpoint) Close() {
	if e.opened {
		unix.Close(e.fd)
		e.opened = false
	}
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
