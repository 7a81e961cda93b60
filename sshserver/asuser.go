package sshserver

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asUser runs f with an account's rights to files, so that what the account
// could not read is not read for it, and home directories on NFS, where root is
// nobody, can be. The rights are those of one thread; when they cannot be
// taken back the thread ends with its goroutine.
func asUser(acct *Account, f func() error) error {
	if os.Geteuid() != 0 || acct.UID == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := becomeForFiles(acct)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// becomeForFiles changes this thread's identity alone, by raw system calls: Go's
// own change that of all threads. Leaving fsuid 0 drops the capabilities that
// override permissions.
func becomeForFiles(acct *Account) error {
	var groups unsafe.Pointer
	if len(acct.Groups) > 0 {
		groups = unsafe.Pointer(&acct.Groups[0])
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(acct.Groups)), uintptr(groups), 0)
	if errno != 0 {
		return fmt.Errorf("setgroups for %s: %w", acct.Name, errno)
	}
	// They return the former value; whether they worked is seen by asking again.
	syscall.RawSyscall(unix.SYS_SETFSGID, uintptr(acct.GID), 0, 0)
	syscall.RawSyscall(unix.SYS_SETFSUID, uintptr(acct.UID), 0, 0)
	gid, _, _ := syscall.RawSyscall(unix.SYS_SETFSGID, ^uintptr(0), 0, 0)
	uid, _, _ := syscall.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0)
	if uint32(gid) != acct.GID || uint32(uid) != acct.UID {
		return fmt.Errorf("setfsuid for %s: not permitted", acct.Name)
	}
	return nil
}
