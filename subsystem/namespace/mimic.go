package namespace

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// maxMimic bounds the entries of a server's directory that is rebuilt: each
// costs a mount, of which the kernel allows 100,000 per namespace.
const maxMimic = 8192

// openBare gives FUSE once more, without what is mounted over it.
func (b *builder) openBare() *Failure {
	if b.bare >= 0 {
		return nil
	}
	dir := b.scratchDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return failure(fsyscall.FatalInternal, "make a directory", dir, err)
	}
	if err := unix.Mount(b.base+"/root", dir, "", unix.MS_BIND, ""); err != nil {
		return failure(fsyscall.FatalInternal, "bind FUSE", dir, err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure(fsyscall.FatalInternal, "open", dir, err)
	}
	b.bare = fd
	return nil
}

func (b *builder) scratchDir() string {
	b.scratch++
	return b.base + "/" + strconv.Itoa(b.scratch)
}

// placeLocal puts a tree of the client over one of the server. Where the
// server has nothing to mount it on, or the client has nothing to mount, the
// directory above is rebuilt with the tree in it, or without it.
func (b *builder) placeLocal(t Tree) *Failure {
	if f := b.openBare(); f != nil {
		return f
	}
	source, err := walk(b.bare, t.Path)
	switch {
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR):
		source = -1
	case err != nil:
		return failure(fsyscall.FatalView, "open this tree of the client", t.Path, err)
	default:
		defer unix.Close(source)
	}
	target, err := b.at(t.Path)
	if err == nil {
		defer unix.Close(target)
	}
	if source >= 0 && err == nil && isDir(source) == isDir(target) {
		if err := unix.Mount(fdPath(source), fdPath(target), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return failure(fsyscall.FatalView, "mount the client's tree", t.Path, err)
		}
		return nil
	}
	if source < 0 && errors.Is(err, syscall.ENOENT) {
		return nil // missing on both sides
	}
	return b.rebuildFor(t.Path, source)
}

func isDir(fd int) bool { return kindOf(fd) == unix.S_IFDIR }

// rebuildFor makes a mount point for p (or removes p, if source is negative)
// in the deepest directory above it that the server has.
func (b *builder) rebuildFor(p string, source int) *Failure {
	dir := path.Dir(p)
	for ; dir != "/"; dir = path.Dir(dir) {
		fd, err := b.at(dir)
		if err != nil {
			continue
		}
		ok := isDir(fd)
		unix.Close(fd)
		if !ok {
			return failure(fsyscall.FatalView, "make a place for the client's tree", p, syscall.ENOTDIR)
		}
		break
	}
	if b.mimics[dir] == "" {
		original, err := b.at(dir)
		if err != nil {
			return failure(fsyscall.FatalView, "open", dir, err)
		}
		f := b.mimic(dir, original)
		unix.Close(original)
		if f != nil {
			return f
		}
	}
	return b.replace(dir, p, source)
}

// mimic mounts a tmpfs over the view's directory p that has the entries of
// the directory original, each bound in its place. With no original it is
// empty. It is writable until sealMimics.
func (b *builder) mimic(p string, original int) *Failure {
	dir := b.scratchDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return failure(fsyscall.FatalInternal, "make a directory", dir, err)
	}
	if err := unix.Mount("nexec", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m,nr_inodes=32k"); err != nil {
		return failure(fsyscall.FatalView, "mount a tmpfs", p, err)
	}
	if original >= 0 {
		if f := copyEntries(p, original, dir); f != nil {
			return f
		}
	}
	target, err := b.at(p)
	if err != nil {
		return failure(fsyscall.FatalView, "find the mount point", p, err)
	}
	defer unix.Close(target)
	if err := unix.Mount(dir, fdPath(target), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return failure(fsyscall.FatalView, "mount over", p, err)
	}
	b.mimics[p] = dir
	return nil
}

// copyEntries fills dir with the entries of original: symbolic links as they
// are, all else as an empty thing with the entry mounted on it.
func copyEntries(p string, original int, dir string) *Failure {
	d, err := os.Open(fdPath(original))
	if err != nil {
		return failure(fsyscall.FatalView, "read the server's directory", p, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(maxMimic)
	if err != nil && len(names) > 0 || len(names) == maxMimic {
		return failure(fsyscall.FatalView, "rebuild the server's directory, which is too large:", p, syscall.EFBIG)
	}
	for _, name := range names {
		if err := copyEntry(int(d.Fd()), name, dir+"/"+name); err != nil {
			return failure(fsyscall.FatalView, "rebuild the server's directory", p+"/"+name, err)
		}
	}
	return nil
}

func copyEntry(from int, name, to string) error {
	fd, err := unix.Openat(from, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil // removed since it was listed
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kindOf(fd) == unix.S_IFLNK {
		text, err := os.Readlink(fdPath(from) + "/" + name)
		if err != nil {
			return err
		}
		return os.Symlink(text, to)
	}
	if err := mountPointFor(fd, to); err != nil {
		return err
	}
	return unix.Mount(fdPath(fd), to, "", unix.MS_BIND|unix.MS_REC, "")
}

// mountPointFor makes an empty directory or file, as what fd is open on.
func mountPointFor(fd int, to string) error {
	if isDir(fd) {
		return os.Mkdir(to, 0o755)
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// replace takes the server's entry on the way to p out of the rebuilt
// directory dir, and puts the client's tree there.
func (b *builder) replace(dir, p string, source int) *Failure {
	first, rest, deeper := strings.Cut(strings.TrimPrefix(p, dir+"/"), "/")
	entry := b.mimics[dir] + "/" + first
	// The copy that is mounted over dir is a second mount of the same tmpfs:
	// what is bound in it must go from there.
	if fd, err := b.at(dir + "/" + first); err == nil {
		err := unix.Unmount(fdPath(fd), unix.MNT_DETACH)
		unix.Close(fd)
		if err != nil && err != syscall.EINVAL {
			return failure(fsyscall.FatalView, "hide the server's entry", p, err)
		}
	}
	unix.Unmount(entry, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) // not mounted: nothing to do
	if err := unix.Rmdir(entry); err == syscall.ENOTDIR {
		if err := unix.Unlink(entry); err != nil {
			return failure(fsyscall.FatalView, "hide the server's entry", p, err)
		}
	}
	if source < 0 {
		return nil
	}
	place := entry
	if deeper {
		if err := os.MkdirAll(path.Dir(entry+"/"+rest), 0o755); err != nil {
			return failure(fsyscall.FatalView, "make a place for the client's tree", p, err)
		}
		place = entry + "/" + rest
	}
	if err := mountPointFor(source, place); err != nil {
		return failure(fsyscall.FatalView, "make a place for the client's tree", p, err)
	}
	target, err := b.at(p)
	if err != nil {
		return failure(fsyscall.FatalView, "find the mount point", p, err)
	}
	defer unix.Close(target)
	if err := unix.Mount(fdPath(source), fdPath(target), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return failure(fsyscall.FatalView, "mount the client's tree", p, err)
	}
	return nil
}

// sealMimics makes rebuilt directories read-only: what a command would write
// there would be lost.
func (b *builder) sealMimics() *Failure {
	for p, dir := range b.mimics {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return failure(fsyscall.FatalView, "make read-only", p, err)
		}
	}
	return nil
}
