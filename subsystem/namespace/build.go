package namespace

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// maxRead is the largest read that the kernel asks fmaster for.
const maxRead = fsyscall.MaxData

// builder makes the view, inside init's own mount namespace. It works on
// descriptors opened before anything is covered: a path is resolved once, and
// never through a symbolic link of the client.
type builder struct {
	*setup
	base    string         // a private tmpfs in the old root, gone with it
	sources map[string]int // the server's trees, O_PATH
	copied  string         // the tree whose source is mounted nowhere yet, or empty
	root    int            // the view's root, which is the root of FUSE, O_PATH
	bare    int            // FUSE without anything mounted on it, or -1
	pts     int            // the session's devpts, O_PATH, or -1
	agentFD int            // the agent's socket, O_PATH, or -1
	spare   int            // FUSE once more, out of sight, to abort it by
	mimics  map[string]string
	notes   []string
	scratch int // number of the last directory made in base
}

// privateMounts keeps everything that follows from reaching other namespaces.
func (b *builder) privateMounts() *Failure {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		f := failure(fsyscall.FatalNamespaces, "make the mounts private", "/", err)
		if b.userns && (f.Errno == syscall.EPERM || f.Errno == syscall.EACCES) {
			f.Note = namespaceAdvice()
		}
		return f
	}
	return nil
}

// openSources opens the server's trees before any of them can be covered.
func (b *builder) openSources() *Failure {
	b.sources = make(map[string]int)
	for _, t := range b.plan.Trees {
		if !t.Remote || t.Missing {
			continue
		}
		fd, err := b.openSource(t.Path)
		if err != nil {
			return failure(fsyscall.FatalView, "open the server's tree", t.Path, err)
		}
		b.sources[t.Path] = fd
	}
	b.openAgent()
	return nil
}

// openSource opens one tree. That which the private tmpfs will cover is copied
// as it is now: a bind of it would bring the tmpfs along. Kernels before 5.2
// cannot do that.
func (b *builder) openSource(p string) (int, error) {
	if p == baseCandidates[0] {
		fd, err := unix.OpenTree(unix.AT_FDCWD, p, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err == nil {
			b.copied = p
			return fd, nil
		}
	}
	return unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
}

// baseCandidates are directories that every Linux system has one of. What is
// in them stays reachable: it was opened before.
var baseCandidates = [...]string{"/tmp", "/mnt", "/var", "/usr"}

// mountBase makes the private tmpfs that all else is put together in.
func (b *builder) mountBase() *Failure {
	var err error
	for _, dir := range baseCandidates {
		err = unix.Mount("nexec", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m,nr_inodes=32k")
		if err == nil {
			b.base = dir
			return nil
		}
	}
	return failure(fsyscall.FatalNamespaces, "mount a tmpfs", baseCandidates[0], err)
}

// mountFUSE mounts FUSE and returns its descriptor. Nothing on the mount may
// be touched before someone serves it: the kernel would wait.
func (b *builder) mountFUSE() (dev int, f *Failure) {
	const device = "/dev/fuse"
	dev, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		f := failure(fsyscall.FatalFUSE, "open", device, err)
		f.Note = fuseAdvice(f.Errno)
		return -1, f
	}
	target := b.base + "/root"
	if err := unix.Mkdir(target, 0o755); err != nil {
		return -1, failure(fsyscall.FatalInternal, "make a directory", target, err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,max_read=%d",
		dev, os.Geteuid(), os.Getegid(), maxRead)
	if err := unix.Mount("nexec", target, "fuse.nexec", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return -1, failure(fsyscall.FatalFUSE, "mount FUSE", "", err)
	}
	return dev, nil
}

// build mounts everything over the FUSE mount. FUSE is served by now.
func (b *builder) build() *Failure {
	var err error
	if b.root, err = unix.Open(b.base+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return failure(fsyscall.FatalFUSE, "open the root of the view", "/", err)
	}
	b.bare, b.pts = -1, -1
	b.mimics = make(map[string]string)
	for _, t := range b.plan.Trees {
		var f *Failure
		switch {
		case !t.Remote:
			f = b.placeLocal(t)
		case t.Missing:
			f = b.mimic(t.Path, -1)
		default:
			f = b.bind(b.sources[t.Path], t.Path)
		}
		if f != nil {
			return f
		}
	}
	if f := b.sealMimics(); f != nil {
		return f
	}
	if f := b.kernelTrees(); f != nil {
		return f
	}
	return b.accounts()
}

// at opens a path of the view as it is built so far, following no symbolic
// link: a mount must land where the rule says.
func (b *builder) at(p string) (int, error) { return walk(b.root, p) }

// walk opens the absolute path p below dir with O_PATH, crossing mounts but no
// symbolic links.
func walk(dir int, p string) (int, error) {
	fd, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		if fd = next; kindOf(fd) == unix.S_IFLNK {
			unix.Close(fd)
			return -1, syscall.ELOOP
		}
	}
	return fd, nil
}

// kindOf returns the type bits of an open inode, zero if they cannot be had.
func kindOf(fd int) uint32 {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

// fdPath names an open descriptor for system calls that take only paths.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// procPath is fdPath for a process whose working directory is /proc, which
// init's is once it has moved: its own work must not depend on FUSE.
func procPath(fd int) string { return "self/fd/" + strconv.Itoa(fd) }

// bind mounts what source is open on at the path of the view, with all that is
// mounted below it: a less privileged mount namespace may not take it apart.
func (b *builder) bind(source int, p string) *Failure {
	return b.bindFlags(source, p, unix.MS_BIND|unix.MS_REC)
}

func (b *builder) bindFlags(source int, p string, flags uintptr) *Failure {
	target, err := b.at(p)
	if err != nil {
		return failure(fsyscall.FatalView, "find the mount point", p, err)
	}
	defer unix.Close(target)
	if p == b.copied && source == b.sources[p] {
		err = unix.MoveMount(source, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	} else {
		err = unix.Mount(fdPath(source), fdPath(target), "", flags, "")
	}
	if err != nil {
		return failure(fsyscall.FatalView, "mount the server's tree", p, err)
	}
	return nil
}

// mountAt mounts a file system of its own at a directory of the view. It does
// nothing where the view has no such directory.
func (b *builder) mountAt(p, fstype string, flags uintptr, options string) error {
	target, err := b.at(p)
	if err == syscall.ENOENT || err == syscall.ELOOP {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return unix.Mount(fstype, fdPath(target), fstype, flags, options)
}

// kernelTrees mounts the session's own /proc, /dev/pts and /dev/shm.
func (b *builder) kernelTrees() *Failure {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if f := b.mountSpare(); f != nil {
		return f
	}
	if err := b.mountAt("/proc", "proc", quiet, ""); err != nil {
		// A container that hides parts of its /proc may not show a whole one.
		old, oerr := unix.Open("/proc", unix.O_PATH|unix.O_CLOEXEC, 0)
		if oerr != nil {
			return failure(fsyscall.FatalView, "mount /proc", "/proc", err)
		}
		defer unix.Close(old)
		if f := b.bind(old, "/proc"); f != nil {
			return f
		}
		b.notes = append(b.notes, "/proc is the server's, not the session's own: the kernel refused a new one: "+err.Error())
	}
	if err := b.mountAt("/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return failure(fsyscall.FatalView, "mount a tmpfs", "/dev/shm", err)
	}
	b.placeAgent()
	if err := b.mountAt("/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return failure(fsyscall.FatalView, "mount the terminals", "/dev/pts", err)
	}
	return b.ptmx()
}

// mountSpare mounts FUSE once more, in a directory that /proc will cover. A
// forced unmount makes the kernel give up on the file service; it refuses that
// of the root in a user namespace, and goes to what is mounted on top of a
// mount, so neither may be.
func (b *builder) mountSpare() *Failure {
	dir := b.base + "/proc"
	if err := os.MkdirAll(dir+"/fuse", 0o755); err != nil {
		return failure(fsyscall.FatalInternal, "make a directory", dir, err)
	}
	source, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return failure(fsyscall.FatalInternal, "open", dir, err)
	}
	defer unix.Close(source)
	if f := b.bindFlags(source, "/proc", unix.MS_BIND); f != nil {
		return f
	}
	if f := b.bindFlags(b.root, "/proc/fuse", unix.MS_BIND); f != nil {
		return f
	}
	if b.spare, err = b.at("/proc/fuse"); err != nil {
		return failure(fsyscall.FatalView, "find the mount point", "/proc", err)
	}
	return nil
}

// ptmx makes /dev/ptmx open terminals of the session's own /dev/pts, also
// where it is a device node of another instance.
func (b *builder) ptmx() *Failure {
	pts, err := b.at("/dev/pts")
	if err != nil {
		b.notes = append(b.notes, "no /dev/pts on the server: terminals are not possible")
		return nil
	}
	b.pts = pts
	source, err := walk(pts, "ptmx")
	if err != nil {
		return failure(fsyscall.FatalView, "open the terminal multiplexer", "/dev/pts/ptmx", err)
	}
	defer unix.Close(source)
	target, err := b.at("/dev/ptmx")
	if err != nil { // a symbolic link to pts/ptmx, which is right as it is, or nothing
		return nil
	}
	defer unix.Close(target)
	if err := unix.Mount(fdPath(source), fdPath(target), "", unix.MS_BIND, ""); err != nil {
		return failure(fsyscall.FatalView, "mount the terminal multiplexer", "/dev/ptmx", err)
	}
	return nil
}

// maxAccounts bounds the account files that are rewritten; a larger one is
// left as it is.
const maxAccounts = 4 << 20

// accounts lets /etc/passwd and /etc/group answer for the session's user.
func (b *builder) accounts() *Failure {
	for _, a := range []struct {
		path   string
		update func([]byte) []byte
	}{
		{"/etc/passwd", b.identity.passwd},
		{"/etc/group", b.identity.group},
	} {
		if f := b.account(a.path, a.update); f != nil {
			return f
		}
	}
	return nil
}

func (b *builder) account(p string, update func([]byte) []byte) *Failure {
	target, err := b.at(p)
	if err != nil {
		b.notes = append(b.notes, fmt.Sprintf("%s is left as it is: %v", p, err))
		return nil
	}
	defer unix.Close(target)
	old, err := os.ReadFile(fdPath(target))
	if err != nil || len(old) > maxAccounts {
		b.notes = append(b.notes, fmt.Sprintf("%s is left as it is: it cannot be read or is too large", p))
		return nil
	}
	fresh := update(old)
	if string(fresh) == string(old) {
		return nil
	}
	file := b.base + "/" + path.Base(p)
	if err := os.WriteFile(file, fresh, 0o644); err != nil {
		return failure(fsyscall.FatalView, "write the session's copy", p, err)
	}
	if err := unix.Chmod(file, 0o644); err != nil { // whatever the umask
		return failure(fsyscall.FatalView, "write the session's copy", p, err)
	}
	if err := unix.Mount(file, fdPath(target), "", unix.MS_BIND, ""); err != nil {
		return failure(fsyscall.FatalView, "mount the session's copy", p, err)
	}
	return nil
}

// pivot makes the view the root and lets go of the old one.
func (b *builder) pivot() *Failure {
	if err := unix.Fchdir(b.root); err != nil {
		return failure(fsyscall.FatalFUSE, "enter the view", "/", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return failure(fsyscall.FatalNamespaces, "change the root", "/", err)
	}
	// The old root is now mounted over the new one, which "." still is.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return failure(fsyscall.FatalNamespaces, "detach the old root", "/", err)
	}
	if err := unix.Chdir("/proc"); err != nil {
		return failure(fsyscall.FatalView, "enter", "/proc", err)
	}
	for _, fd := range b.sources {
		unix.Close(fd)
	}
	if b.bare >= 0 {
		unix.Close(b.bare)
	}
	return nil
}
