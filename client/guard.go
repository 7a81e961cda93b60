package client

import (
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// A guard is a process that gives the terminal back when nexec cannot: because
// it was killed, or died of a fault of its own. Nothing in the process that
// dies can do that for every death.
//
// It is nexec itself, run again with the arguments of Config.Guard, in a
// session of its own, so that neither keys nor the terminal's end reach it. It
// has the terminal as descriptor 3 and reads from its standard input what to
// put back. The end of that is the death, or the orderly end, when there is
// nothing to put back.
type guard struct {
	cmd *exec.Cmd
	to  *os.File
}

const (
	// guardTerminal is the descriptor that a guard finds the terminal at.
	guardTerminal = 3
	guardArmed    = 1
	guardDisarmed = 0
)

// guardOrder is one message to a guard. The modes are put back only where the
// terminal is as nexec made it: else somebody has taken care of it already.
type guardOrder struct {
	Armed      uint8
	Saved, Set unix.Termios
}

// startGuard starts a guard of the terminal fd. Without one, which is better
// than without a terminal, it returns nil.
func startGuard(argv []string, fd int) *guard {
	if len(argv) == 0 {
		return nil
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil
	}
	defer from.Close()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		to.Close()
		return nil
	}
	terminal := os.NewFile(uintptr(dup), "terminal")
	defer terminal.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: argv, Env: []string{"GOMAXPROCS=1"}, Dir: "/", Stdin: from, ExtraFiles: []*os.File{terminal},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if cmd.Start() != nil {
		to.Close()
		return nil
	}
	return &guard{cmd, to}
}

// tell says what is to be put back. A guard that is gone is no reason to fail.
func (g *guard) tell(o guardOrder) {
	if g != nil {
		_ = binary.Write(g.to, binary.NativeEndian, o)
	}
}

// stop ends the guard, which has been told to put nothing back.
func (g *guard) stop() {
	if g != nil {
		g.to.Close()
		_ = g.cmd.Wait()
	}
}

// RunGuard is the whole life of a guard: nexec calls it in a process that was
// started with the arguments of Config.Guard.
func RunGuard() {
	var last guardOrder
	for {
		var o guardOrder
		err := binary.Read(os.Stdin, binary.NativeEndian, &o)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return
		}
		last = o
	}
	if last.Armed == guardDisarmed {
		return
	}
	now, err := unix.IoctlGetTermios(guardTerminal, unix.TCGETS2)
	if err == nil && sameModes(now, &last.Set) {
		// Not after what waits to be shown: that may never be.
		_ = unix.IoctlSetTermios(guardTerminal, unix.TCSETS2, &last.Saved)
	}
}
