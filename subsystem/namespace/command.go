package namespace

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// command is one command in init. Its fields are the goroutine's that runs
// it, but pid to master, which initProcess.mu guards.
type command struct {
	id      uint32
	spec    *spec
	specFD  int
	passed  []int // descriptors that came with the order
	std     [3]int
	offsets [3]int // descriptors kept to report final offsets, or -1
	states  chan unix.WaitStatus
	ended   chan unix.WaitStatus

	pid      int              // 0 before the fork and after the end
	executed bool             // the exec stage is over
	early    []syscall.Signal // came too early to be sent
	size     *unix.Winsize    // came before the terminal was there
	master   int              // terminal, or -1
	slave    int              // kept open, so that reading master never ends before the command
}

// maxEarly bounds the signals kept for a command that is not forked yet.
const maxEarly = 64

// maxStates bounds the stops of a command that are waiting to be reported.
const maxStates = 16

// run starts a command in a goroutine of its own, because opening its streams
// may wait for the client. It owns files.
func (in *initProcess) run(files []int) {
	if len(files) == 0 {
		return
	}
	c := &command{
		specFD: files[0], passed: files[1:], std: [3]int{-1, -1, -1}, offsets: [3]int{-1, -1, -1},
		states: make(chan unix.WaitStatus, maxStates), ended: make(chan unix.WaitStatus, 1),
		master: -1, slave: -1,
	}
	b, err := readMemoryFile(c.specFD, maxSpec)
	if err == nil {
		c.spec, err = decodeSpec(b)
	}
	if err != nil {
		closeAll(files)
		return // the supervisor sent what only it could: nothing to name it by
	}
	c.id = c.spec.exec.Cmd
	in.mu.Lock()
	in.byID[c.id] = c
	in.mu.Unlock()
	go in.live(c)
}

// live is a command's life.
func (in *initProcess) live(c *command) {
	started := in.start(c)
	pid := c.pid
	c.closeFiles()
	e := encoder{b: []byte{pktStarted}}
	e.u32(c.id)
	e.u8(uint8(started.stage))
	e.u32(uint32(started.errno))
	e.u32(uint32(pid))
	if started.stage != fsyscall.ExecStarted {
		if pid != 0 {
			<-c.ended
		}
		in.finish(c)
		in.send(e.b)
		return
	}
	in.mu.Lock()
	c.executed = true
	c.sendEarly()
	in.mu.Unlock()
	if c.master >= 0 {
		in.send(e.b, c.master)
	} else {
		in.send(e.b)
	}
	in.watch(c)
}

// watch reports stops and the end of a running command.
func (in *initProcess) watch(c *command) {
	for {
		select {
		case ws := <-c.states:
			e := encoder{b: []byte{pktStopped}}
			e.u32(c.id)
			e.u8(uint8(ws.StopSignal()))
			in.send(e.b)
		case ws := <-c.ended:
			e := encoder{b: []byte{pktEnded}}
			e.u32(c.id)
			e.u32(uint32(ws))
			for _, off := range c.finalOffsets() {
				e.u64(off)
			}
			in.finish(c)
			in.send(e.b)
			return
		}
	}
}

// finish forgets a command. Closing its terminal's last descriptor here and in
// the supervisor hangs it up.
func (in *initProcess) finish(c *command) {
	in.mu.Lock()
	delete(in.byID, c.id)
	c.pid = 0
	master, slave := c.master, c.slave
	c.master, c.slave = -1, -1
	if in.terminal == c {
		in.terminal = nil
		// Takes the terminal from init's session; the kernel hangs up what
		// is left in its foreground.
		unix.IoctlSetInt(slave, unix.TIOCNOTTY, 0)
	}
	in.mu.Unlock()
	for _, fd := range append(c.offsets[:], slave, master) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (c *command) finalOffsets() (off [3]uint64) {
	for i, fd := range c.offsets {
		if fd >= 0 {
			if n, err := unix.Seek(fd, 0, unix.SEEK_CUR); err == nil {
				off[i] = uint64(n)
			}
		}
	}
	return off
}

// closeFiles closes what only the command was to have.
func (c *command) closeFiles() {
	closeAll(c.passed)
	unix.Close(c.specFD)
	for i, fd := range c.std {
		switch c.spec.exec.Stdio[i].Kind {
		case fsyscall.StdioNull, fsyscall.StdioFile:
			if fd >= 0 && c.spec.exec.Stdio[i].DupOf < 0 {
				unix.Close(fd)
			}
		}
	}
}

// outcome says where starting a command ended.
type outcome struct {
	stage fsyscall.ExecStage
	errno syscall.Errno
}

func failed(stage fsyscall.ExecStage, err error) outcome {
	errno := syscall.EIO
	errors.As(err, &errno)
	return outcome{stage, errno}
}

// start opens the command's streams, forks the exec stage and waits until it
// has executed the program or failed.
func (in *initProcess) start(c *command) outcome {
	if c.spec.exec.HasTerminal {
		if err := in.openTerminal(c); err != nil {
			return failed(fsyscall.ExecStdio, err)
		}
	}
	if err := in.openStdio(c); err != nil {
		return failed(fsyscall.ExecStdio, err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return failed(fsyscall.ExecFork, err)
	}
	err := in.fork(c, pipe[1])
	unix.Close(pipe[1])
	defer unix.Close(pipe[0])
	if err != nil {
		return failed(fsyscall.ExecFork, err)
	}
	return in.awaitStage(c, pipe[0])
}

// awaitStage waits until the exec stage has executed the program, which closes
// its report, or has failed. A stage that was stopped is made to go on: nobody
// could be told yet that the command has stopped.
func (in *initProcess) awaitStage(c *command, report int) outcome {
	const patience = 50 // milliseconds
	for {
		fds := []unix.PollFd{{Fd: int32(report), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, patience)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return failed(fsyscall.ExecFork, err)
		}
		if n > 0 {
			break
		}
		select {
		case <-c.states:
			unix.Kill(-c.pid, unix.SIGCONT)
		default:
		}
	}
	var b [stageReportSize]byte // written at once
	for {
		n, err := unix.Read(report, b[:])
		switch {
		case err == unix.EINTR:
		case n < len(b):
			return outcome{} // executed, or killed
		default:
			return outcome{fsyscall.ExecStage(b[0]), syscall.Errno(binary.LittleEndian.Uint32(b[1:]))}
		}
	}
}

// openStdio opens the standard streams that init opens itself.
func (in *initProcess) openStdio(c *command) error {
	passed := c.passed
	for i := range c.std {
		s := c.spec.exec.Stdio[i]
		switch {
		case s.Kind == fsyscall.StdioClosed:
		case s.DupOf >= 0:
			if int(s.DupOf) >= i {
				return syscall.EBADF
			}
			c.std[i] = c.std[s.DupOf]
			if s.Kind == fsyscall.StdioFile {
				c.keepOffset(i)
			}
		case s.Kind == fsyscall.StdioTerminal:
			c.std[i] = c.slave
		case s.Kind == fsyscall.StdioStreamed:
			if len(passed) == 0 {
				return syscall.EBADF
			}
			c.std[i], passed = passed[0], passed[1:]
		case s.Kind == fsyscall.StdioNull:
			fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
			if err != nil {
				return err
			}
			c.std[i] = fd
		case s.Kind == fsyscall.StdioFile:
			if err := in.openFile(c, i, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// openFile opens a standard stream that is a file of the client, at the hidden
// path that fmaster has for it.
func (in *initProcess) openFile(c *command, i int, s fsyscall.Stdio) error {
	flags := openFlags(s.Flags) | unix.O_CLOEXEC | unix.O_NOCTTY
	if s.Append {
		flags |= unix.O_APPEND
	}
	fd, err := openRetry(in.root, c.spec.hidden[i], flags)
	if err != nil {
		return err
	}
	c.std[i] = fd
	if _, err := unix.Seek(fd, int64(s.Off), unix.SEEK_SET); err != nil && isRegular(fd) {
		return err
	}
	c.keepOffset(i)
	return nil
}

func isRegular(fd int) bool { return kindOf(fd) == unix.S_IFREG }

func (c *command) keepOffset(i int) {
	if fd, err := unix.FcntlInt(uintptr(c.std[i]), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		c.offsets[i] = fd
	}
}

func openRetry(dir int, p string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, p, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openFlags translates the protocol's flags, which are amd64's, into the
// running machine's.
func openFlags(f fsyscall.OpenFlags) int {
	flags := int(f & fsyscall.OpenAccMode)
	for _, t := range []struct {
		wire  fsyscall.OpenFlags
		local int
	}{
		{fsyscall.OpenSync, unix.O_SYNC},
		{fsyscall.OpenDSync, unix.O_DSYNC},
		{fsyscall.OpenDirect, unix.O_DIRECT},
		{fsyscall.OpenNoATime, unix.O_NOATIME},
	} {
		if f&t.wire == t.wire {
			flags |= t.local
		}
	}
	return flags
}

// sendEarly sends the signals that came too early. SIGQUIT and SIGABRT wait
// until the program is executed: before, the Go runtime would answer them with
// a report on the command's standard error. initProcess.mu is held.
func (c *command) sendEarly() {
	var later []syscall.Signal
	for _, sig := range c.early {
		if !c.executed && (sig == syscall.SIGQUIT || sig == syscall.SIGABRT) {
			later = append(later, sig)
		} else {
			c.kill(sig)
		}
	}
	c.early = later
}

// fork starts the exec stage. Signals are blocked in it until it executes the
// program, and then delivered, but for those that the Go runtime unblocks at
// its start: SIGHUP, SIGINT and SIGTERM end the stage as they would have ended
// the program.
func (in *initProcess) fork(c *command, report int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return err
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)

	in.mu.Lock()
	defer in.mu.Unlock()
	attr := &syscall.ProcAttr{
		Env:   []string{"GOMAXPROCS=1", "GOGC=off", "GOTRACEBACK=none", prompt},
		Files: make([]uintptr, 0, stageFiles),
		Sys:   &syscall.SysProcAttr{},
	}
	for _, fd := range c.std {
		attr.Files = append(attr.Files, uintptr(fd)) // -1 stays closed
	}
	attr.Files = append(attr.Files, uintptr(c.specFD), uintptr(report))
	if err := in.joinSession(c, attr); err != nil {
		return err
	}
	pid, err := syscall.ForkExec(procPath(in.self), []string{stageName}, attr)
	if err != nil {
		return err
	}
	c.pid = pid
	in.commands[pid] = c
	in.children++
	in.forked.Signal()
	c.sendEarly()
	return nil
}

// joinSession decides about the command's session and controlling terminal;
// see the package comment. in.mu is held.
func (in *initProcess) joinSession(c *command, attr *syscall.ProcAttr) error {
	sys := attr.Sys
	if c.slave < 0 {
		sys.Setsid = in.terminal != nil
		sys.Setpgid = !sys.Setsid
		return nil
	}
	attr.Files = append(attr.Files, uintptr(c.slave))
	sys.Ctty = len(attr.Files) - 1
	if len(in.commands) > 0 {
		sys.Setsid, sys.Setctty = true, true
		return nil
	}
	if err := unix.IoctlSetInt(c.slave, unix.TIOCSCTTY, 0); err != nil {
		return os.NewSyscallError("TIOCSCTTY", err)
	}
	in.terminal = c
	// The new process group is made the foreground one from inside it; that
	// SIGTTOU is blocked there lets it.
	sys.Foreground, sys.Ctty = true, c.slave
	return nil
}
