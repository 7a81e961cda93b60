package client

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mustWaker(t *testing.T) waker {
	t.Helper()
	w, err := newWaker()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

// pairs makes each kind of byte stream that an endpoint can be one end of.
func pairs(t *testing.T) map[string][2]int {
	r, w := mustPipe(t)
	plainR, plainW := mustPipe(t)
	s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s[0]); unix.Close(s[1]) })
	return map[string][2]int{"pipe": {r, w}, "plain": {plainR, plainW}, "socket": {s[0], s[1]}}
}

func testEndpoint(name string, fd, access int, w waker) *endpoint {
	e := newEndpoint(fd, access, w)
	if name == "plain" { // as where the pipe cannot be opened again
		e.Close()
		e.fd, e.kind = fd, plainEndpoint
	}
	return e
}

func TestEndpointCarriesBytes(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)
	for name, fds := range pairs(t) {
		in := testEndpoint(name, fds[0], unix.O_RDONLY, mustWaker(t))
		out := testEndpoint(name, fds[1], unix.O_WRONLY, mustWaker(t))
		done := make(chan error, 1)
		go func() {
			_, err := out.Write(want)
			out.Close()
			unix.Shutdown(fds[1], unix.SHUT_WR)
			unix.Close(mustMove(t, fds[1]))
			done <- err
		}()
		got, err := io.ReadAll(in)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		in.Close()
	}
}

// mustMove closes fd's place by putting /dev/null there and returns where the
// file was moved to, so that the test's cleanup closes nobody else's.
func mustMove(t *testing.T, fd int) int {
	moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
	}
	if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
		t.Error(err)
	}
	unix.Close(null)
	return moved
}

func TestWakerEndsBlockedCalls(t *testing.T) {
	for name, fds := range pairs(t) {
		w := mustWaker(t)
		in := testEndpoint(name, fds[0], unix.O_RDONLY, w)
		out := testEndpoint(name, fds[1], unix.O_WRONLY, w)
		done := make(chan error, 2)
		go func() {
			_, err := out.Write(make([]byte, 16<<20))
			done <- err
		}()
		go func() {
			// Never as much as is written: the reader of the pair is slow.
			_, err := in.Read(make([]byte, 1))
			for err == nil {
				time.Sleep(time.Millisecond)
				_, err = in.Read(make([]byte, 1))
			}
			done <- err
		}()
		time.Sleep(20 * time.Millisecond)
		w.wake()
		for range 2 {
			select {
			case err := <-done:
				if !errors.Is(err, errStopped) {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: a call is still blocked", name)
			}
		}
		in.Close()
		out.Close()
	}
}

func TestEndpointWithoutReader(t *testing.T) {
	for name, fds := range pairs(t) {
		out := testEndpoint(name, fds[1], unix.O_WRONLY, mustWaker(t))
		unix.Close(mustMove(t, fds[0]))
		if _, err := out.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
			t.Errorf("%s: %v, want EPIPE", name, err)
		}
		out.Close()
	}
}

// The open file that other processes share is left as it was.
func TestEndpointLeavesFlagsAlone(t *testing.T) {
	for name, fds := range pairs(t) {
		for _, fd := range fds {
			e := newEndpoint(fd, unix.O_RDWR&unix.O_ACCMODE, mustWaker(t))
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("%s: flags %#o, %v", name, flags, err)
			}
			e.Close()
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil {
				t.Errorf("%s: the descriptor was closed: %v", name, err)
			}
		}
	}
}
