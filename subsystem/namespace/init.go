package namespace

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// initProcess is pid 1 of a session.
//
// Goroutines: the main one takes orders; one reaps; one per command starts it
// and reports what becomes of it. None is joined: when the orders end the
// process exits, and the kernel ends all else in the pid namespace.
type initProcess struct {
	socket   int
	identity Identity
	root     int // the root of FUSE, for standard streams
	pts      int // the session's devpts, or -1
	spare    int // FUSE once more, to abort it by
	self     int // the program itself, to start it again
	caps     bool

	sendMu sync.Mutex

	// mu is held from before a fork until the child is in commands, so that
	// the reaper, which takes it too, knows every child it reaps.
	mu       sync.Mutex
	commands map[int]*command // by pid
	byID     map[uint32]*command
	terminal *command // the one whose terminal controls init's own session
	forked   sync.Cond
	children int // started through us and not yet reaped
}

// takeSignals keeps signals that a command sends to pid 1, or that a terminal
// sends to init's session, from ending the session. They are caught rather
// than ignored, because a child inherits what is ignored: a signal that comes
// between a fork and the execution of the program would be lost.
func takeSignals() {
	taken := make(chan os.Signal, 1)
	for sig := syscall.Signal(1); sig < 32; sig++ {
		switch sig {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG,
			syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP:
		default:
			signal.Notify(taken, sig)
		}
	}
	go func() {
		for range taken {
		}
	}()
}

// prepare mounts, builds the view and moves into it.
func (in *initProcess) prepare(s *setup) *Failure {
	in.forked.L = &in.mu
	in.identity, in.caps = s.identity, !s.userns
	b := &builder{setup: s}
	if f := b.privateMounts(); f != nil {
		return f
	}
	var err error
	if in.self, err = openSelf(); err != nil {
		return failure(fsyscall.FatalInternal, "open", "/proc/self/exe", err)
	}
	if f := b.openSources(); f != nil {
		return f
	}
	if f := b.mountBase(); f != nil {
		return f
	}
	dev, f := b.mountFUSE()
	if f != nil {
		return f
	}
	err = in.send([]byte{pktDevice}, dev)
	// Only the supervisor may hold it: the kernel ends the mount's service
	// when the last descriptor is closed.
	unix.Close(dev)
	if err != nil {
		return failure(fsyscall.FatalInternal, "send the FUSE descriptor", "", err)
	}
	if f := b.build(); f != nil {
		return f
	}
	if f := b.pivot(); f != nil {
		return f
	}
	in.root, in.pts, in.spare = b.root, b.pts, b.spare
	e := encoder{b: []byte{pktReady}}
	e.strings(b.notes)
	if err := in.send(e.b); err != nil {
		return failure(fsyscall.FatalInternal, "report", "", err)
	}
	return nil
}

// openSelf opens the running program under a number that a fork, which lays out
// the exec stage's descriptors first, does not use before it executes it.
func openSelf() (int, error) {
	fd, err := unix.Open("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, stageFiles+8)
}

func (in *initProcess) send(b []byte, files ...int) error {
	in.sendMu.Lock()
	defer in.sendMu.Unlock()
	return sendPacket(in.socket, b, files...)
}

// orders carries out what the supervisor asks for, until it closes the session
// or is gone.
func (in *initProcess) orders() {
	buf := make([]byte, maxPacket)
	for {
		b, files, err := recvPacket(in.socket, buf)
		if err != nil {
			return
		}
		d := decoder{b: b[1:]}
		switch b[0] {
		case pktRun:
			in.run(files)
			files = nil
		case pktSignal:
			in.signal(d.u32(), syscall.Signal(d.u8()))
		case pktWinsize:
			in.winsize(&d)
		case pktClose:
			in.hangUp(time.Duration(d.u32()) * time.Millisecond)
			// A process that waits for the client's files cannot be killed
			// before it got an answer. This gives it one.
			unix.Unmount(procPath(in.spare), unix.MNT_FORCE)
			return
		}
		closeAll(files)
	}
}

// hangUp tells every process that the session ends and waits a while for them
// to go. What is left is killed by the kernel when init exits.
func (in *initProcess) hangUp(grace time.Duration) {
	if grace <= 0 {
		return
	}
	unix.Kill(-1, unix.SIGHUP)
	unix.Kill(-1, unix.SIGCONT)
	for end := time.Now().Add(grace); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if unix.Kill(-1, 0) == unix.ESRCH {
			return
		}
	}
}

// signal sends sig to the command's foreground process group.
func (in *initProcess) signal(id uint32, sig syscall.Signal) {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.byID[id]
	switch {
	case c == nil:
	case c.pid != 0 && (c.executed || sig != syscall.SIGQUIT && sig != syscall.SIGABRT):
		c.kill(sig)
	case len(c.early) < maxEarly:
		c.early = append(c.early, sig)
	}
}

// kill sends a signal to what is in the foreground of the command's terminal,
// or to its process group. One that ends the terminal's use goes to the command
// itself as well, as when a terminal hangs up. initProcess.mu is held.
func (c *command) kill(sig syscall.Signal) {
	group := c.pid
	if c.master >= 0 {
		if g, err := unix.IoctlGetInt(c.master, unix.TIOCGPGRP); err == nil && g > 1 {
			group = g
		}
	}
	unix.Kill(-group, sig)
	if group != c.pid && (sig == unix.SIGHUP || sig == unix.SIGKILL) {
		unix.Kill(-c.pid, sig)
	}
}

func (in *initProcess) winsize(d *decoder) {
	id := d.u32()
	size := unix.Winsize{Row: uint16(d.u32()), Col: uint16(d.u32()), Xpixel: uint16(d.u32()), Ypixel: uint16(d.u32())}
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.byID[id]
	switch {
	case c == nil || d.err != nil:
	case c.master >= 0:
		// The kernel sends SIGWINCH when the size differs.
		unix.IoctlSetWinsize(c.master, unix.TIOCSWINSZ, &size)
	default:
		c.size = &size
	}
}

// reap takes the status of every child and orphan of the session.
func (in *initProcess) reap() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		switch err {
		case nil:
			in.reapOne()
		case unix.EINTR:
		case unix.ECHILD:
			in.mu.Lock()
			for in.children == 0 {
				in.forked.Wait()
			}
			in.mu.Unlock()
		default:
			os.Exit(3)
		}
	}
}

// reapOne takes one status that is there and hands it on.
func (in *initProcess) reapOne() {
	in.mu.Lock()
	defer in.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WUNTRACED, nil)
	if err != nil || pid <= 0 {
		return
	}
	c := in.commands[pid]
	if c == nil {
		return // an orphan
	}
	if ws.Stopped() {
		select {
		case c.states <- ws:
		default: // the reader is behind: stops are news, not accounts
		}
		return
	}
	in.children--
	delete(in.commands, pid)
	c.ended <- ws
}
