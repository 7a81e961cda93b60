package namespace

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// openTerminal makes a terminal in the session's own /dev/pts, set up as the
// client's is.
func (in *initProcess) openTerminal(c *command) error {
	if in.pts < 0 {
		return unix.ENODEV
	}
	master, err := unix.Openat(in.pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	slave, err := setUpTerminal(master, &c.spec.exec.Terminal)
	if err != nil {
		unix.Close(master)
		return err
	}
	in.mu.Lock()
	c.master, c.slave = master, slave
	if c.size != nil {
		unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, c.size)
	}
	in.mu.Unlock()
	return nil
}

func setUpTerminal(master int, t *fsyscall.Terminal) (slave int, err error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, err
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, errno
	}
	slave = int(r)
	tio := unix.Termios{
		Iflag: t.Termios.Iflag, Oflag: t.Termios.Oflag, Cflag: t.Termios.Cflag, Lflag: t.Termios.Lflag,
		Cc: t.Termios.Cc, Ispeed: t.Termios.Ispeed, Ospeed: t.Termios.Ospeed,
	}
	if tio.Cflag == 0 { // the client could not say: what the kernel gives stays
		return slave, unix.IoctlSetWinsize(slave, unix.TIOCSWINSZ, winsize(t.Size))
	}
	if err := unix.IoctlSetTermios(slave, unix.TCSETS2, &tio); err != nil {
		unix.Close(slave)
		return -1, err
	}
	if err := unix.IoctlSetWinsize(slave, unix.TIOCSWINSZ, winsize(t.Size)); err != nil {
		unix.Close(slave)
		return -1, err
	}
	return slave, nil
}

func winsize(s fsyscall.Size) *unix.Winsize {
	return &unix.Winsize{Row: s.Rows, Col: s.Cols, Xpixel: s.XPixel, Ypixel: s.YPixel}
}
