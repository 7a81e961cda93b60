package fslave

import (
	"time"

	"golang.org/x/sys/unix"
)

// Content that the server keeps beyond the session is found again by what
// stat(2) says of the file: a change of content changes its ctime, which no
// program can set. That this holds for what is about to be read (AttrSettled)
// is for this side to say, because it needs this machine's clock, and because
// there are three exceptions:
//
//   - A change within the tick of the one before it, which shows by no other
//     ctime. So ctime must be older than tick when the reading begins.
//   - Stores through a shared mapping change ctime when a page is first made
//     dirty, and then not until it was written to disk. So nobody may have the
//     file open for writing, which a mapping counts as; the kernel tells by
//     granting a read lease, which is given back at once. Where it cannot
//     tell, ctime must be older than writeBack.
//   - File systems on which ctime means something else: in memory, where
//     stores through a mapping never change it, and those of other machines,
//     where it is whatever these say, some seconds late. Only those on a list
//     count.

const (
	// tick is a tenfold of the coarsest clock of a file system that counts
	// (ext3 keeps whole seconds) and of the kernel's.
	tick = 2 * time.Second
	// writeBack is how old the kernel lets dirty pages become: 30 s and the 5 s
	// between two looks (vm.dirty_expire_centisecs), and some more.
	writeBack = 60 * time.Second
)

// magicZFS is not in the kernel's headers.
const magicZFS = 0x2fc12fc1

// settling returns what a file's ctime must lie before, so that content read
// after the call is settled; zero: nothing is old enough. fd is open for
// reading only, and it is this process's alone: a lease belongs to what a
// descriptor shares with its duplicates.
func settling(fd int) time.Time {
	now := time.Now()
	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return time.Time{}
	}
	age := settlingAge(uint32(fs.Type), func() error {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
			return err
		}
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
		return err // if it is not given back now it ends with the descriptor
	})
	if age == 0 {
		return time.Time{}
	}
	return now.Add(-age)
}

// settlingAge returns how old ctime must be on a file system of the type, zero
// if no age is enough. lease takes a read lease and gives it back.
func settlingAge(fsType uint32, lease func() error) time.Duration {
	switch fsType {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
	case unix.OVERLAYFS_SUPER_MAGIC, magicZFS, unix.BCACHEFS_SUPER_MAGIC:
		// A mapping counts as a writer of another inode, or times are told late.
		return writeBack
	default:
		return 0
	}
	switch lease() {
	case nil:
		return tick
	case unix.EAGAIN: // somebody has it open for writing
		return 0
	}
	return writeBack // another user's file, or leases are switched off
}

// settled tells whether a file with the attributes st is, by settling's answer.
func settled(before time.Time, st *unix.Statx_t) bool {
	return time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec)).Before(before)
}
