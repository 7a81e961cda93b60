package client

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// terminal is the local terminal of a session. Its zero value is no terminal.
//
// While both standard input and output are the terminal (or -t asks for it)
// it is raw: every key goes to the command's own terminal on the server,
// which does the editing, the echo and the signals. In all other cases it
// stays as it is, because other programs of the pipeline use it at the same
// time: it edits and echoes, and the server's terminal must do neither.
//
// All methods may be called from any goroutine.
type terminal struct {
	fd    int  // -1: none
	raw   bool // wanted while in the foreground
	watch func(fd int) *guard

	mu        sync.Mutex
	guard     *guard       // nil until the terminal is raw
	active    bool         // raw now
	suspended bool         // stopping, or over: not to be made raw
	saved     unix.Termios // before it was made raw
	set       unix.Termios // as we made it
}

func newTerminal(fd int, raw bool) *terminal { return &terminal{fd: fd, raw: raw} }

// foreground tells whether this process may read the terminal. A terminal
// that is not the controlling one has no job control.
func (t *terminal) foreground() bool {
	pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	return err != nil || pgrp == unix.Getpgrp()
}

// enter makes the terminal raw if that is wanted and this process is in its
// foreground. It may be called again at any time.
func (t *terminal) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fd < 0 || !t.raw || t.suspended || !t.foreground() {
		return
	}
	now, err := unix.IoctlGetTermios(t.fd, unix.TCGETS2)
	if err != nil {
		return // gone: the reader will see it
	}
	if t.active && sameModes(now, &t.set) {
		return
	}
	if !t.active {
		t.saved = *now
	}
	t.set = rawModes(*now)
	if t.guard == nil && t.watch != nil {
		t.guard = t.watch(t.fd)
	}
	t.guard.tell(guardOrder{guardArmed, t.saved, t.set})
	if unix.IoctlSetTermios(t.fd, unix.TCSETSW2, &t.set) == nil {
		t.active = true
	}
}

// leave gives the terminal back. With stay it is not made raw again before
// resume.
func (t *terminal) leave(stay bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.suspended = t.suspended || stay
	if !t.active {
		return
	}
	t.active = false
	// From the background it would disturb whoever has the terminal now, and
	// stop us.
	if t.foreground() {
		_ = unix.IoctlSetTermios(t.fd, unix.TCSETSW2, &t.saved)
	}
	t.guard.tell(guardOrder{Armed: guardDisarmed})
}

// close follows the last leave.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.guard.stop()
	t.guard = nil
}

// resume follows a SIGCONT: the shell may have set other modes meanwhile.
func (t *terminal) resume() {
	t.mu.Lock()
	t.suspended = false
	t.mu.Unlock()
	t.enter()
}

func sameModes(a, b *unix.Termios) bool {
	return a.Iflag == b.Iflag && a.Oflag == b.Oflag && a.Lflag == b.Lflag &&
		a.Cflag == b.Cflag && a.Cc == b.Cc
}

// rawModes is cfmakeraw(3).
func rawModes(t unix.Termios) unix.Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN] = 1
	t.Cc[unix.VTIME] = 0
	return t
}

// size returns the window size, or zeros.
func (t *terminal) size() fsyscall.Size {
	if t.fd < 0 {
		return fsyscall.Size{}
	}
	w, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
	if err != nil {
		return fsyscall.Size{}
	}
	return fsyscall.Size{Rows: w.Row, Cols: w.Col, XPixel: w.Xpixel, YPixel: w.Ypixel}
}

// describe returns what the command's terminal on the server is to be like.
// It must be called before enter.
func (t *terminal) describe() fsyscall.Terminal {
	d := fsyscall.Terminal{Termios: defaultTermios(), Size: t.size()}
	if t.fd < 0 {
		d.Size = fsyscall.Size{Rows: 24, Cols: 80}
		return d
	}
	// In the background the modes of the moment are those of the shell's own
	// line editor, and no command would be started with them.
	if now, err := unix.IoctlGetTermios(t.fd, unix.TCGETS2); err == nil && t.foreground() {
		d.Termios = wireTermios(now)
	}
	if !t.raw {
		d.Termios.Oflag &^= unix.OPOST
		d.Termios.Lflag &^= unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHONL | unix.ECHOCTL | unix.ECHOKE
	}
	return d
}

func wireTermios(t *unix.Termios) fsyscall.Termios {
	return fsyscall.Termios{
		Iflag: t.Iflag, Oflag: t.Oflag, Cflag: t.Cflag, Lflag: t.Lflag,
		Cc: t.Cc, Ispeed: t.Ispeed, Ospeed: t.Ospeed,
	}
}

// defaultTermios is what Linux gives a new terminal.
func defaultTermios() fsyscall.Termios {
	t := fsyscall.Termios{
		Iflag: unix.ICRNL | unix.IXON | unix.IUTF8,
		Oflag: unix.OPOST | unix.ONLCR,
		Cflag: unix.B38400 | unix.CS8 | unix.CREAD,
		Lflag: unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK |
			unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN,
		Ispeed: 38400, Ospeed: 38400,
	}
	for i, c := range map[int]uint8{
		unix.VINTR: 3, unix.VQUIT: 28, unix.VERASE: 127, unix.VKILL: 21, unix.VEOF: 4,
		unix.VMIN: 1, unix.VSTART: 17, unix.VSTOP: 19, unix.VSUSP: 26, unix.VREPRINT: 18,
		unix.VDISCARD: 15, unix.VWERASE: 23, unix.VLNEXT: 22,
	} {
		t.Cc[i] = c
	}
	return t
}

// isActive tells whether the terminal is raw now.
func (t *terminal) isActive() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.active
}
