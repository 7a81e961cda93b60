package client

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client/startup"
	"github.com/SumiTomohiko/nexec/fsyscall"
)

// TerminalUse says which terminal a command gets, as ssh's -t and -T do.
type TerminalUse uint8

const (
	// TerminalAuto: a standard stream that is a terminal stays one.
	TerminalAuto TerminalUse = iota
	// TerminalNone (-T): a terminal is passed on as a stream of bytes.
	TerminalNone
	// TerminalWanted (-t): as auto, and keystrokes go to the command
	// unprocessed even if its output does not come to the terminal.
	TerminalWanted
	// TerminalForced (-tt): all standard streams are a terminal, made up if
	// this side has none.
	TerminalForced
)

// stdioSet describes the three standard streams of a command.
type stdioSet struct {
	wire [3]fsyscall.Stdio
	// tty is the descriptor whose terminal the command gets; -1 for none.
	tty int
	// forced: the wire says terminal where this side has another kind.
	forced bool
}

func (s *stdioSet) terminal(slot int) bool {
	return s.wire[slot].Kind == fsyscall.StdioTerminal
}

func (s *stdioSet) hasTerminal() bool {
	return s.terminal(0) || s.terminal(1) || s.terminal(2)
}

// closedStreams tells which standard streams nexec was started without. Go's
// runtime has put /dev/null in their places.
func closedStreams() (closed [3]bool) {
	for slot := range closed {
		closed[slot] = startup.Closed(slot)
	}
	return closed
}

// classify finds out what the standard streams are. fds are the descriptors
// that stand for slots 0 to 2, some of which the command is not to have.
func classify(fds [3]int, closed [3]bool, use TerminalUse) *stdioSet {
	s := &stdioSet{tty: -1}
	var st [3]unix.Stat_t
	for slot, fd := range fds {
		if closed[slot] {
			fd = -1
		}
		s.wire[slot] = classifyOne(fd, &st[slot])
		w := &s.wire[slot]
		if w.Kind == fsyscall.StdioTerminal {
			// Output is preferred for the size: it is what shows it.
			if s.tty < 0 || slot == 1 {
				s.tty = fd
			}
			if use == TerminalNone {
				w.Kind = fsyscall.StdioStreamed
			}
		}
	}
	if use == TerminalNone {
		s.tty = -1
	}
	if use == TerminalForced {
		for slot := range s.wire {
			s.wire[slot] = fsyscall.Stdio{Kind: fsyscall.StdioTerminal, DupOf: -1}
		}
		s.forced = true
		return s
	}
	s.findDuplicates(fds, &st)
	return s
}

func classifyOne(fd int, st *unix.Stat_t) fsyscall.Stdio {
	d := fsyscall.Stdio{DupOf: -1}
	if fd < 0 || unix.Fstat(fd, st) != nil {
		return d // closed
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_PATH != 0 {
		return d
	}
	d.Flags = wireFlags(flags)
	d.Append = flags&unix.O_APPEND != 0
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		d.Kind = fsyscall.StdioFile
		if off, err := unix.Seek(fd, 0, unix.SEEK_CUR); err == nil && off > 0 {
			d.Off = uint64(off)
		}
	case unix.S_IFCHR:
		switch {
		case unix.Major(st.Rdev) == 1 && unix.Minor(st.Rdev) == 3:
			d.Kind = fsyscall.StdioNull
		case isTerminal(fd):
			d.Kind = fsyscall.StdioTerminal
		default:
			d.Kind = fsyscall.StdioStreamed
		}
	default:
		d.Kind = fsyscall.StdioStreamed
	}
	return d
}

// wireFlags translates what F_GETFL returns; the wire has amd64's numbers.
func wireFlags(flags int) fsyscall.OpenFlags {
	f := fsyscall.OpenFlags(flags & unix.O_ACCMODE)
	if f == fsyscall.OpenAccMode { // for ioctl(2) only
		f = fsyscall.OpenReadOnly
	}
	for _, m := range []struct {
		host int
		wire fsyscall.OpenFlags
	}{
		{unix.O_SYNC, fsyscall.OpenSync},
		{unix.O_DSYNC, fsyscall.OpenDSync},
		{unix.O_DIRECT, fsyscall.OpenDirect},
	} {
		if flags&m.host == m.host {
			f |= m.wire
		}
	}
	return f
}

// findDuplicates marks 2>&1 and the like. Both descriptors of a pair then are
// one open file for the command as well: one offset, one order of bytes. The
// standard input is a stream of its own unless it is a file, because bytes
// flow the other way.
func (s *stdioSet) findDuplicates(fds [3]int, st *[3]unix.Stat_t) {
	for slot := 1; slot <= 2; slot++ {
		for low := range slot {
			a, b := &s.wire[low], &s.wire[slot]
			if a.Kind != b.Kind || a.DupOf >= 0 {
				continue
			}
			switch b.Kind {
			case fsyscall.StdioFile:
				if !sameOpenFile(fds[low], fds[slot], &st[low], &st[slot]) {
					continue
				}
			case fsyscall.StdioStreamed:
				// Two descriptors of one pipe cannot be told apart by
				// what comes out of it, whether or not they share flags.
				if low == 0 || st[low].Dev != st[slot].Dev || st[low].Ino != st[slot].Ino {
					continue
				}
			default:
				continue
			}
			b.DupOf = int32(low)
			break
		}
	}
}

// sameOpenFile tells whether two descriptors share one open file description.
func sameOpenFile(a, b int, sa, sb *unix.Stat_t) bool {
	if sa.Dev != sb.Dev || sa.Ino != sb.Ino {
		return false
	}
	// Linux 6.10; older kernels return EINVAL.
	if same, err := unix.FcntlInt(uintptr(a), unix.F_DUPFD_QUERY, b); err == nil {
		return same == 1
	}
	const kcmpFile = 0
	pid := unix.Getpid()
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(pid), kcmpFile, uintptr(a), uintptr(b), 0)
	if errno == 0 {
		return order == 0
	}
	return looksSame(a, b)
}

// looksSame stands in where the kernel will not compare: one file, the same
// flags and the same offset is 2>&1 far more often than two openings of it.
func looksSame(a, b int) bool {
	fa, ea := unix.FcntlInt(uintptr(a), unix.F_GETFL, 0)
	fb, eb := unix.FcntlInt(uintptr(b), unix.F_GETFL, 0)
	oa, ec := unix.Seek(a, 0, unix.SEEK_CUR)
	ob, ed := unix.Seek(b, 0, unix.SEEK_CUR)
	return ea == nil && eb == nil && ec == nil && ed == nil && fa == fb && oa == ob
}

// fileDescriptors returns the slots that are files, with the descriptors that
// fslave must inherit to serve them.
func (s *stdioSet) fileDescriptors(fds [3]int) map[int]int {
	m := map[int]int{}
	for slot, w := range s.wire {
		if w.Kind == fsyscall.StdioFile && w.DupOf < 0 {
			m[slot] = fds[slot]
		}
	}
	return m
}

// applyOffsets moves the local files to where the command left them, so that
// what a shell runs next goes on from there.
func (s *stdioSet) applyOffsets(fds [3]int, off [3]uint64) error {
	for slot, fd := range s.fileDescriptors(fds) {
		if _, err := unix.Seek(fd, int64(off[slot]), unix.SEEK_SET); err != nil {
			return &StreamError{Slot: slot, Op: "seek", Err: err}
		}
	}
	return nil
}
