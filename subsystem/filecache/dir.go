package filecache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// DefaultDir returns the directory of the calling user's cache, which it
// creates: nexec below $XDG_CACHE_HOME, or below .cache of the user's home.
// It fails if that is not a directory that belongs to the user alone.
func DefaultDir() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(base) { // the XDG specification: a relative one is ignored
		home, err := homeDir()
		if err != nil {
			return "", fmt.Errorf("filecache: %w", err)
		}
		base = filepath.Join(home, ".cache")
	}
	if err := ensureBase(base); err != nil {
		return "", fmt.Errorf("filecache: %w", err)
	}
	dir := filepath.Join(base, "nexec")
	d, err := openDir(dir)
	if err != nil {
		return "", fmt.Errorf("filecache: %w", err)
	}
	return dir, d.Close()
}

func homeDir() (string, error) {
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return home, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("no home directory: %w; set HOME or XDG_CACHE_HOME", err)
	}
	if !filepath.IsAbs(u.HomeDir) {
		return "", fmt.Errorf("no home directory for %s; set HOME or XDG_CACHE_HOME", u.Username)
	}
	return u.HomeDir, nil
}

// ensureBase makes the directory in which caches live. One that belongs to
// another user is refused: HOME is a wrong one then, as after su.
func ensureBase(base string) error {
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(base, &st); err != nil {
		return &os.PathError{Op: "stat", Path: base, Err: err}
	}
	if uid := uint32(os.Geteuid()); st.Uid != uid && st.Uid != 0 {
		return fmt.Errorf("%s belongs to uid %d, not to uid %d; set HOME or XDG_CACHE_HOME", base, st.Uid, uid)
	}
	return nil
}

// openDir opens the cache's directory, which it creates if need be. Its last
// component may not be a symbolic link, and it must be the user's alone. What
// is done inside is done through the descriptor, so that nobody can put
// another directory in its place.
func openDir(path string) (*os.File, error) {
	if err := unix.Mkdir(path, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%s is not a directory, or a symbolic link to one; remove it", path)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		d.Close()
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if uid := uint32(os.Geteuid()); st.Uid != uid {
		d.Close()
		return nil, fmt.Errorf("%s belongs to uid %d, not to uid %d; remove it", path, st.Uid, uid)
	}
	if st.Mode&0o077 != 0 {
		d.Close()
		return nil, fmt.Errorf("%s is open to others (mode %04o); chmod 700 it", path, st.Mode&0o7777)
	}
	return d, nil
}

// openIn opens a file of the cache. It must be a plain file of the user's,
// closed to others; a planted link, pipe or device is not touched.
func openIn(dir *os.File, name string, flags int) (*os.File, int64, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if !ours(&st) {
		unix.Close(fd)
		return nil, 0, &os.PathError{Op: "open", Path: name, Err: unix.EPERM}
	}
	// Reads and writes of plain files never block by O_NONBLOCK.
	_ = unix.SetNonblock(fd, false)
	return os.NewFile(uintptr(fd), name), st.Size, nil
}

func ours(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o077 == 0 && st.Uid == uint32(os.Geteuid())
}

// createIn makes a file that was not there.
func createIn(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func renameIn(dir *os.File, from, to string) error {
	if err := unix.Renameat(int(dir.Fd()), from, int(dir.Fd()), to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func removeIn(dir *os.File, name string) error {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// namesIn lists dir by a descriptor of its own, which has its own position.
func namesIn(dir *os.File) ([]string, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir.Name(), Err: err}
	}
	d := os.NewFile(uintptr(fd), dir.Name())
	defer d.Close()
	names, err := d.Readdirnames(maxNames)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// maxNames bounds what is read of the directory. There are some 64 packs in
// it, and a leftover per crash until the next session an hour later.
const maxNames = 1 << 14
