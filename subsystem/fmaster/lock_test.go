package fmaster_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lock of a reader ends with its descriptor, although the kernel does not
// ask at close(2), and the second time at any descriptor's close, as POSIX has
// it.
func TestReadersLock(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		path := filepath.Join(w.client, "f")
		if err := os.WriteFile(path, []byte("text"), 0o644); err != nil {
			t.Fatal(err)
		}
		local, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		locked := func(want bool) {
			t.Helper()
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				err := unix.FcntlFlock(local.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
				if err == nil {
					err = unix.FcntlFlock(local.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
				}
				if (err == unix.EAGAIN) == want {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("locked on the client: %v; want %v", err, want)
				}
			}
		}
		p := w.python()
		p.do("a = os.open('f', os.O_RDONLY); fcntl.lockf(a, fcntl.LOCK_SH)")
		locked(true)
		p.do("os.close(a)")
		locked(false)
		p.do("a = os.open('f', os.O_RDONLY); fcntl.lockf(a, fcntl.LOCK_SH); b = os.open('f', os.O_RDONLY)")
		locked(true)
		p.do("os.close(b)")
		locked(false)
	})
}

// A close of what was only read is no request of its own.
func TestReadersClose(t *testing.T) {
	if !kernelHas(t, 5, 16) {
		t.Log("the kernel asks at each close: it is too old")
		return
	}
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.client, "f"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := w.python()
	p.do("os.close(os.open('f', os.O_RDONLY))")
	before := w.stat("kernel requests")
	const times = 100
	p.do("for i in range(100): os.close(os.open('f', os.O_RDONLY))")
	// An open and a release each.
	if got := w.stat("kernel requests") - before; got > 2*times+times/10 {
		t.Errorf("%d requests for %d times open and close", got, times)
	}
}
