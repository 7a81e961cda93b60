package namespace

import (
	"encoding/binary"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Descriptors that the exec stage starts with, after the standard three; a
// terminal may follow.
const (
	stageSpec   = 3
	stageReport = 4
	stageFiles  = 6
)

// stageReportSize is the length of a failure's report: stage and errno.
const stageReportSize = 5

// stageMain turns this process into the command. It does not return.
func stageMain() {
	runtime.LockOSThread() // what follows is of the thread that executes
	for fd := stageSpec; fd < stageFiles; fd++ {
		unix.CloseOnExec(fd)
	}
	st, err := prepareStage()
	if err == nil {
		err = st.execute()
	}
	var b [stageReportSize]byte
	b[0] = uint8(st.at)
	errno := syscall.EIO
	if e, ok := err.(syscall.Errno); ok && e != 0 {
		errno = e
	}
	binary.LittleEndian.PutUint32(b[1:], uint32(errno))
	unix.Write(stageReport, b[:])
	os.Exit(1)
}

// stage is a program about to be executed. Everything that needs memory is
// made before the limits are set, which may leave none.
type stage struct {
	at         fsyscall.ExecStage // what is being done, for the report
	spec       *spec
	candidates []*byte // paths to try in turn
	argv       []*byte
	script     []*byte // argv for /bin/sh when a candidate has no known format; [1] is its path
	envp       []*byte
	shell      *byte
}

// prepareStage does all that comes before the limits.
func prepareStage() (*stage, error) {
	st := &stage{at: fsyscall.ExecFork}
	b, err := readMemoryFile(stageSpec, maxSpec)
	if err != nil {
		return st, err
	}
	if st.spec, err = decodeSpec(b); err != nil {
		return st, syscall.EPROTO
	}
	x := &st.spec.exec
	for i, s := range x.Stdio {
		if s.Kind == fsyscall.StdioClosed {
			unix.Close(i) // the Go runtime has opened /dev/null in its place
		}
	}
	if !st.spec.keep {
		if err := dropPrivilege(); err != nil {
			return st, err
		}
	}
	unix.Umask(int(x.Umask))
	st.at = fsyscall.ExecCwd
	if err := retry(func() error { return unix.Chdir(x.Cwd) }); err != nil {
		return st, err
	}
	st.at = fsyscall.ExecProgram
	return st, st.arguments()
}

func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

// arguments decides what to execute and lays it out for the kernel.
func (st *stage) arguments() error {
	x := &st.spec.exec
	argv, program := x.Argv, ""
	if len(argv) > 0 {
		program = argv[0]
	} else {
		program = st.spec.shell
		if unix.Access(program, unix.X_OK) != nil {
			program = "/bin/sh" // the view may not have the server's shell
		}
		argv = []string{"-" + path.Base(program)}
	}
	var paths []string
	if program != "" {
		paths = candidates(program, st.spec.path)
	}
	if len(paths) == 0 {
		return syscall.ENOENT
	}
	var err error
	if st.candidates, err = cStrings(paths, false); err != nil {
		return err
	}
	if st.argv, err = cStrings(argv, true); err != nil {
		return err
	}
	if st.envp, err = cStrings(x.Env, true); err != nil {
		return err
	}
	if st.shell, err = unix.BytePtrFromString("/bin/sh"); err != nil {
		return err
	}
	st.script = append([]*byte{st.shell, nil}, st.argv[1:]...)
	return nil
}

// candidates lists the paths that execvp(3) tries for a program name.
func candidates(program, search string) []string {
	if strings.Contains(program, "/") {
		return []string{program}
	}
	var list []string
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		if p := dir + "/" + program; len(p) < fsyscall.MaxTarget {
			list = append(list, p)
		}
	}
	return list
}

// cStrings lays out strings for the kernel, with a null pointer at the end if
// asked for.
func cStrings(list []string, null bool) ([]*byte, error) {
	var ptrs []*byte
	for _, s := range list {
		p, err := unix.BytePtrFromString(s)
		if err != nil {
			return nil, syscall.EINVAL
		}
		ptrs = append(ptrs, p)
	}
	if null {
		ptrs = append(ptrs, nil)
	}
	return ptrs, nil
}

// execute sets the limits, the signals, and becomes the program. From the
// first limit on it allocates nothing.
func (st *stage) execute() error {
	st.at = fsyscall.ExecLimits
	usualFileLimit()
	for i := range st.spec.exec.Limits {
		if errno := setLimit(&st.spec.exec.Limits[i]); errno != 0 {
			return errno
		}
	}
	st.at = fsyscall.ExecProgram
	releaseSignals(st.spec.exec.Ignored)
	denied := false
	for _, p := range st.candidates {
		errno := execve(p, st.argv, st.envp)
		switch errno {
		case syscall.ENOEXEC:
			if binary, errno := looksBinary(p); binary || errno != 0 {
				return syscall.ENOEXEC
			}
			st.script[1] = p
			errno = execve(st.shell, st.script, st.envp)
			return errno
		case syscall.EACCES:
			denied = true
		case syscall.ENOENT:
			if exists(p) && len(st.candidates) == 1 {
				// The file is there: it is its interpreter that is not.
				return syscall.ELIBACC
			}
		case syscall.ENOTDIR, syscall.ESTALE, syscall.ENODEV, syscall.ETIMEDOUT, syscall.ENAMETOOLONG, syscall.ELOOP:
			if len(st.candidates) == 1 {
				return errno
			}
		default:
			return errno
		}
	}
	if denied {
		return syscall.EACCES
	}
	return syscall.ENOENT
}

// usualFileLimit undoes what the Go runtime does at its start, raising the
// soft limit on open files to the hard one: programs that use select(2), or
// close every possible descriptor, want the kernel's usual 1,024. The client's
// own limit comes after it.
func usualFileLimit() {
	var l unix.Rlimit
	if prlimit(unix.RLIMIT_NOFILE, nil, &l) == 0 && l.Cur > 1024 {
		l.Cur = 1024
		prlimit(unix.RLIMIT_NOFILE, &l, nil)
	}
}

// setLimit sets a limit as far as the server allows: a hard limit below the
// client's stays.
func setLimit(l *fsyscall.Rlimit) syscall.Errno {
	var old unix.Rlimit
	if errno := prlimit(l.Resource, nil, &old); errno != 0 {
		return errno
	}
	limit := unix.Rlimit{Cur: l.Cur, Max: l.Max}
	errno := prlimit(l.Resource, &limit, nil)
	if errno == syscall.EPERM {
		limit.Max = min(limit.Max, old.Max)
		limit.Cur = min(limit.Cur, limit.Max)
		errno = prlimit(l.Resource, &limit, nil)
	}
	return errno
}

func prlimit(resource uint8, limit, old *unix.Rlimit) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(resource),
		uintptr(unsafe.Pointer(limit)), uintptr(unsafe.Pointer(old)), 0, 0)
	return errno
}

func execve(path *byte, argv, envp []*byte) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])))
	return errno
}

// looksBinary tells whether a file is rather a program for another machine than
// a script that lacks its first line: as shells decide it, by a zero byte in
// its first line.
func looksBinary(path *byte) (bool, syscall.Errno) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, atCwd, uintptr(unsafe.Pointer(path)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return false, errno
	}
	var head [128]byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&head)), unsafe.Sizeof(head))
	unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if errno != 0 {
		return false, errno
	}
	for _, c := range head[:n] {
		if c == 0 || c == '\n' {
			return c == 0, 0
		}
	}
	return false, 0
}

const atCwd = ^uintptr(99) // AT_FDCWD, -100

func exists(path *byte) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_FACCESSAT, atCwd, uintptr(unsafe.Pointer(path)), 0)
	return errno == 0
}

// sigaction is the kernel's struct sigaction on amd64 and arm64.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// releaseSignals gives every signal its default action, or ignores it, behind
// the Go runtime's back, and then lets those in that were blocked.
func releaseSignals(ignored uint64) {
	for sig := range uintptr(64) {
		var sa sigaction
		if ignored&(1<<sig) != 0 {
			sa.handler = 1 // SIG_IGN
		}
		// Fails for SIGKILL and SIGSTOP, as it should.
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig+1, uintptr(unsafe.Pointer(&sa)), 0, 8, 0, 0)
	}
	var none uint64
	const setMask = 2
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
}

// dropPrivilege makes sure that neither this thread nor what it executes has
// or can get a capability.
func dropPrivilege() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == syscall.EINVAL {
			break // past the last capability of this kernel
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capset(&hdr, &data[0])
}
