package fmaster

import (
	"os"

	"golang.org/x/sys/unix"
)

// dupFd returns a descriptor that go-fuse may own and close, in blocking mode:
// its readers are threads of their own.
func dupFd(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, dupErr
	}
	return fd, unix.SetNonblock(fd, false)
}
