package fslave

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// retry calls f again while a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func retryFD(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// errnoOf returns the error number that goes on the wire.
func errnoOf(err error) fsyscall.Errno {
	if err == nil {
		return 0
	}
	var e unix.Errno
	if errors.As(err, &e) {
		if e == unix.EOPNOTSUPP {
			return fsyscall.Errno(unix.ENOTSUP)
		}
		return fsyscall.Errno(e)
	}
	return fsyscall.Errno(unix.EIO)
}

// kernel opens things the ways that resolution needs.
type kernel struct {
	procFD    int  // /proc/self/fd
	openat2   bool // the kernel has openat2
	listxattr bool // the kernel has listxattrat
}

func newKernel() (kernel, error) {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return kernel{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return kernel{}, unix.ENOSYS
	}
	k := kernel{procFD: fd, openat2: true, listxattr: true}
	_, errno := listXattrAt(fd, ".")
	k.listxattr = errno != unix.ENOSYS && errno != unix.EPERM
	probe, err := unix.Openat2(fd, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH})
	if err != nil {
		// ENOSYS from a kernel before 5.6, EPERM from a container's filter.
		k.openat2 = false
		return k, nil
	}
	unix.Close(probe)
	return k, nil
}

// openPath opens the inode at one name with O_PATH, a symbolic link as itself.
// name is a valid component, so openat with O_NOFOLLOW cannot leave the
// directory either; openat2 says so to the kernel.
func (k kernel) openPath(dir int, name string) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !k.openat2 {
		return retryFD(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	}
	return retryFD(func() (int, error) {
		return unix.Openat2(dir, name, &unix.OpenHow{
			Flags:   flags,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
	})
}

// reopen opens the inode that fd is open on, whatever its name is by now. The
// caller has made sure that it is a regular file or a directory.
func (k kernel) reopen(fd, flags int) (int, error) {
	return retryFD(func() (int, error) {
		return unix.Openat(k.procFD, strconv.Itoa(fd), flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	})
}

// procPath names the inode that fd is open on, for calls that take only paths.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func statAt(dir int, name string, st *unix.Statx_t) error {
	return retry(func() error {
		return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, statMask, st)
	})
}

func statFD(fd int, st *unix.Statx_t) error {
	return retry(func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, statMask, st) })
}

func statDev(st *unix.Statx_t) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }

func isDir(st *unix.Statx_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// identity is who the process is to the kernel's permission checks.
type identity struct {
	uid    uint32
	groups map[uint32]bool
}

func newIdentity() (identity, error) {
	id := identity{uid: uint32(unix.Geteuid()), groups: map[uint32]bool{uint32(unix.Getegid()): true}}
	list, err := unix.Getgroups()
	if err != nil {
		return id, err
	}
	for _, g := range list {
		id.groups[uint32(g)] = true
	}
	return id, nil
}

// access forecasts access(2) from the mode bits.
func (id identity) access(st *unix.Statx_t) uint8 {
	bits := uint8(st.Mode) & 7
	switch {
	case id.uid == 0:
		if st.Mode&0o111 != 0 || isDir(st) {
			return 7
		}
		return 6
	case id.uid == st.Uid:
		bits = uint8(st.Mode>>6) & 7
	case id.groups[st.Gid]:
		bits = uint8(st.Mode>>3) & 7
	}
	return bits
}

// fillAttr turns what the kernel says into what the wire says.
// dir and name say where st is from, name being empty where dir is the inode
// itself.
func (s *Server) fillAttr(a *fsyscall.Attr, st *unix.Statx_t, mode Mode, dir int, name string) {
	*a = fsyscall.Attr{
		Ino: st.Ino, Dev: statDev(st), Mode: uint32(st.Mode), Nlink: st.Nlink,
		UID: st.Uid, GID: st.Gid, Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor),
		Size: st.Size, Blocks: st.Blocks,
		Atime:  fsyscall.Time{Sec: st.Atime.Sec, Nsec: st.Atime.Nsec},
		Mtime:  fsyscall.Time{Sec: st.Mtime.Sec, Nsec: st.Mtime.Nsec},
		Ctime:  fsyscall.Time{Sec: st.Ctime.Sec, Nsec: st.Ctime.Nsec},
		Access: s.who.access(st),
	}
	if mode != ModeReadWrite {
		a.Flags |= fsyscall.AttrReadOnly
		a.Access &^= 2
	}
	if !isDir(st) && st.Nlink > 1 {
		a.Flags |= fsyscall.AttrUnwatched
	}
	if s.kernel.noXattr(dir, name) {
		a.Flags |= fsyscall.AttrNoXattr
	}
}

// noXattr tells whether the inode at name in dir, or dir itself, has no
// extended attributes for sure.
func (k kernel) noXattr(dir int, name string) bool {
	if !k.listxattr {
		return false
	}
	n, errno := listXattrAt(dir, name)
	return errno == 0 && n == 0
}

// sysListxattrat is the system call's number on amd64 and arm64, since Linux
// 6.13.
const sysListxattrat = 465

// listXattrAt returns the size of the list of attribute names.
func listXattrAt(dir int, name string) (int, unix.Errno) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, unix.EINVAL
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	n, _, errno := unix.Syscall6(sysListxattrat, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(flags), 0, 0, 0)
	return int(n), errno
}
