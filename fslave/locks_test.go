package fslave

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const wholeFile = 1<<63 - 1

func lockMsg(f fsyscall.FileID, owner uint64, typ fsyscall.LockType, start, end uint64, wait bool) *fsyscall.SetLock {
	return &fsyscall.SetLock{File: f, Owner: owner, Wait: wait, Lock: fsyscall.Lock{Type: typ, Start: start, End: end, PID: uint32(owner)}}
}

func flockMsg(f fsyscall.FileID, owner uint64, typ fsyscall.LockType, wait bool) *fsyscall.SetLock {
	return &fsyscall.SetLock{File: f, Owner: owner, Wait: wait, Lock: fsyscall.Lock{Type: typ, Flock: true, End: wholeFile}}
}

func lockFile1(t *testing.T) (*client, string, fsyscall.FileID, fsyscall.FileID) {
	root := t.TempDir()
	path := put(t, root, "f", "0123456789")
	c := dial(t, root, Config{})
	id := c.walk("f")
	return c, path, c.open(id, fsyscall.OpenReadWrite), c.open(id, fsyscall.OpenReadWrite)
}

// Two processes of the session exclude each other.
func TestLocksWithinSession(t *testing.T) {
	c, _, a, b := lockFile1(t)
	c.do(fsyscall.OpSetLock, lockMsg(a, 1, fsyscall.LockWrite, 0, 9, false), 0)
	c.do(fsyscall.OpSetLock, lockMsg(b, 2, fsyscall.LockRead, 5, 20, false), unix.EAGAIN)
	c.do(fsyscall.OpSetLock, lockMsg(b, 2, fsyscall.LockRead, 10, wholeFile, false), 0)
	c.do(fsyscall.OpSetLock, lockMsg(b, 1, fsyscall.LockRead, 0, 4, false), 0) // by the same owner
	c.do(fsyscall.OpSetLock, lockMsg(b, 2, fsyscall.LockRead, 0, 4, false), 0)
	r := c.do(fsyscall.OpGetLock, &fsyscall.GetLock{File: b, Owner: 2, Lock: fsyscall.Lock{Type: fsyscall.LockWrite, Start: 5, End: 6}}, 0).(*fsyscall.GetLockReply)
	if r.Lock != (fsyscall.Lock{Type: fsyscall.LockWrite, Start: 5, End: 9, PID: 1}) {
		t.Errorf("%+v", r.Lock)
	}
	r = c.do(fsyscall.OpGetLock, &fsyscall.GetLock{File: b, Owner: 1, Lock: fsyscall.Lock{Type: fsyscall.LockWrite, Start: 5, End: 6}}, 0).(*fsyscall.GetLockReply)
	if r.Lock.Type != fsyscall.LockRemove {
		t.Errorf("%+v", r.Lock)
	}
	c.do(fsyscall.OpUnlock, &fsyscall.Unlock{File: a, Owner: 1}, 0)
	c.do(fsyscall.OpSetLock, lockMsg(b, 2, fsyscall.LockWrite, 0, wholeFile, false), 0)
	c.do(fsyscall.OpSetLock, lockMsg(b, 2, fsyscall.LockRemove, 0, wholeFile, false), 0)
	c.do(fsyscall.OpSetLock, lockMsg(a, 3, fsyscall.LockWrite, 0, wholeFile, false), 0)
}

// Locks exclude local programs, and are excluded by them.
func TestLocksAgainstLocal(t *testing.T) {
	c, path, a, _ := lockFile1(t)
	local, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer local.Close()
	// A POSIX lock of this process conflicts with the session's, which belong
	// to descriptions, although it is the same process here.
	posix := func(typ int16) error {
		fl := unix.Flock_t{Type: typ, Start: 2, Len: 3}
		return unix.FcntlFlock(local.Fd(), unix.F_SETLK, &fl)
	}
	must(t, posix(unix.F_WRLCK))
	c.do(fsyscall.OpSetLock, lockMsg(a, 1, fsyscall.LockRead, 0, 9, false), unix.EAGAIN)
	r := c.do(fsyscall.OpGetLock, &fsyscall.GetLock{File: a, Owner: 1, Lock: fsyscall.Lock{Type: fsyscall.LockRead, End: 9}}, 0).(*fsyscall.GetLockReply)
	if r.Lock != (fsyscall.Lock{Type: fsyscall.LockWrite, Start: 2, End: 4}) {
		t.Errorf("%+v", r.Lock)
	}
	must(t, posix(unix.F_UNLCK))
	c.do(fsyscall.OpSetLock, lockMsg(a, 1, fsyscall.LockWrite, 0, 9, false), 0)
	if err := posix(unix.F_RDLCK); err != unix.EAGAIN && err != unix.EACCES {
		t.Errorf("local lock: %v", err)
	}
	c.do(fsyscall.OpUnlock, &fsyscall.Unlock{File: a, Owner: 1}, 0)
	must(t, posix(unix.F_RDLCK))

	must(t, unix.Flock(int(local.Fd()), unix.LOCK_EX))
	c.do(fsyscall.OpSetLock, flockMsg(a, 1, fsyscall.LockRead, false), unix.EAGAIN)
	must(t, unix.Flock(int(local.Fd()), unix.LOCK_SH))
	c.do(fsyscall.OpSetLock, flockMsg(a, 1, fsyscall.LockRead, false), 0)
	if err := unix.Flock(int(local.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
		t.Errorf("local flock: %v", err)
	}
	c.release(a)
	c.do(fsyscall.OpBarrier, nil, 0)
}

// A waiting lock holds up nothing, is had when it is free, and can be
// interrupted, again and again.
func TestLocksWait(t *testing.T) {
	c, path, a, b := lockFile1(t)
	local, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer local.Close()
	for name, msg := range map[string]func(owner uint64, wait bool) *fsyscall.SetLock{
		"fcntl": func(o uint64, w bool) *fsyscall.SetLock { return lockMsg(b, o, fsyscall.LockWrite, 0, 5, w) },
		"flock": func(o uint64, w bool) *fsyscall.SetLock { return flockMsg(b, o, fsyscall.LockWrite, w) },
	} {
		t.Run(name, func(t *testing.T) {
			flock := name == "flock"
			c.do(fsyscall.OpSetLock, msg(1, false), 0)
			_, waiting := c.send(fsyscall.OpSetLock, msg(2, true))
			c.write(a, 0, "goes on")
			select {
			case got := <-waiting:
				t.Fatalf("had it: %v", got.h)
			case <-time.After(30 * time.Millisecond):
			}
			c.do(fsyscall.OpUnlock, &fsyscall.Unlock{File: a, Owner: 1, Flock: flock}, 0)
			if got := c.last(waiting); got.h.Errno != 0 {
				t.Fatalf("%v", got.h)
			}
			for i := range 50 {
				tag, waiting := c.send(fsyscall.OpSetLock, msg(3, true))
				if i%2 == 0 {
					time.Sleep(time.Millisecond)
				}
				c.send(fsyscall.OpInterrupt, &fsyscall.Interrupt{Tag: tag})
				if got := c.last(waiting); unix.Errno(got.h.Errno) != unix.EINTR {
					t.Fatalf("interrupted: %v", got.h)
				}
			}
			c.send(fsyscall.OpInterrupt, &fsyscall.Interrupt{Tag: 1 << 30})
			c.do(fsyscall.OpUnlock, &fsyscall.Unlock{File: a, Owner: 2, Flock: flock}, 0)
		})
	}
	if !c.s.locks.signals {
		t.Error("waiting is done by polling")
	}
}

// The end of the connection ends waits and drops locks.
func TestLocksEnd(t *testing.T) {
	c, path, a, b := lockFile1(t)
	local, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer local.Close()
	must(t, unix.Flock(int(local.Fd()), unix.LOCK_EX))
	c.do(fsyscall.OpSetLock, lockMsg(a, 1, fsyscall.LockWrite, 0, 5, false), 0)
	c.send(fsyscall.OpSetLock, lockMsg(b, 2, fsyscall.LockWrite, 0, 5, true))
	c.send(fsyscall.OpSetLock, flockMsg(b, 2, fsyscall.LockWrite, true))
	c.do(fsyscall.OpBarrier, nil, 0)
	c.close()
	fl := unix.Flock_t{Type: unix.F_WRLCK}
	must(t, unix.FcntlFlock(local.Fd(), unix.F_OFD_SETLK, &fl))
}

// Releasing the last file of an inode drops what its owners forgot.
func TestLocksReleased(t *testing.T) {
	c, path, a, b := lockFile1(t)
	local, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer local.Close()
	c.do(fsyscall.OpSetLock, flockMsg(a, 1, fsyscall.LockWrite, false), 0)
	c.release(a)
	if err := unix.Flock(int(local.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EAGAIN {
		t.Errorf("dropped early: %v", err)
	}
	c.release(b)
	must(t, unix.Flock(int(local.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

// A wait that cannot begin leaves nothing behind to be interrupted.
func TestLocksBadWait(t *testing.T) {
	c := dial(t, t.TempDir(), Config{})
	tag, ch := c.send(fsyscall.OpSetLock, lockMsg(77, 1, fsyscall.LockWrite, 0, 5, true))
	if got := c.last(ch); unix.Errno(got.h.Errno) != unix.EBADF {
		t.Errorf("%v", got.h)
	}
	c.send(fsyscall.OpInterrupt, &fsyscall.Interrupt{Tag: tag})
	c.do(fsyscall.OpBarrier, nil, 0)
}
