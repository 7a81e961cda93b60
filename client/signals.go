package client

import (
	"os"
	"os/signal"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// early are caught while the connection is being made: there is no command
// yet, and nexec is to end by them after it has put things back.
var early = []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM}

// forwarded returns the signals that are for the command. PIPE and CHLD are
// this process's own, URG is Go's, and the synchronous ones are real faults.
// TTIN and TTOU stop nexec as they would stop the command.
func forwarded() []unix.Signal {
	sigs := []unix.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGALRM, unix.SIGTERM, unix.SIGSTKFLT, unix.SIGTSTP, unix.SIGCONT, unix.SIGVTALRM,
		unix.SIGXCPU, unix.SIGXFSZ, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR,
	}
	// 32 to 34 belong to the C library's threads.
	for s := unix.Signal(35); s <= 64; s++ {
		sigs = append(sigs, s)
	}
	return sigs
}

// catch starts delivering sigs to ch, except those that were ignored when the
// process started: they stay ignored, or are again where Go's runtime caught
// them.
func (s self) catch(ch chan os.Signal, sigs []unix.Signal) {
	for _, sig := range sigs {
		if s.ignores(sig) {
			signal.Ignore(sig)
		} else {
			signal.Notify(ch, sig)
		}
	}
}

// sigaction is the kernel's struct, the same on amd64 and arm64.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigDefault = 0 // SIG_DFL
	sigIgnore  = 1 // SIG_IGN
)

// setAction replaces the disposition of a signal behind the runtime's back
// and returns the one before. The runtime keeps handlers for signals that it
// was told to give up, and these are needed as the kernel has them.
func setAction(sig unix.Signal, act sigaction) (old sigaction, err error) {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(&act)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	if errno != 0 {
		return old, errno
	}
	return old, nil
}

// signalSelf sends sig to the calling thread, which has it before this
// returns. The calling goroutine must be locked to its thread.
func signalSelf(sig unix.Signal) { _ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig) }

// stopSelf stops this process as the command was stopped, and returns when it
// goes on (at once where the kernel discards the signal: in an orphaned
// process group). With group the other processes of the job stop as well, as
// they do when the key is typed at a terminal that is not raw; a file service
// in a session of its own is none of them.
func stopSelf(sig unix.Signal, group bool) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if sig == unix.SIGSTOP {
		signalSelf(sig)
		return
	}
	old, err := setAction(sig, sigaction{handler: sigIgnore})
	if err != nil {
		return
	}
	if group {
		_ = unix.Kill(0, sig) // ignored here, so that the next line is what stops us
	}
	if _, err := setAction(sig, sigaction{handler: sigDefault}); err == nil {
		signalSelf(sig)
	}
	_, _ = setAction(sig, old) // what worked before works again
}

// DieBySignal ends this process by sig, without a core of its own: the one
// that counts is on the server. It returns only if sig does not end a process.
func DieBySignal(sig unix.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Either failing leaves a core file at worst.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	switch sig {
	case unix.SIGKILL:
	case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH,
		unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return
	default:
		if _, err := setAction(sig, sigaction{handler: sigDefault}); err != nil {
			return
		}
		set := uint64(1) << (sig - 1)
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_UNBLOCK, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
	}
	signalSelf(sig)
}
