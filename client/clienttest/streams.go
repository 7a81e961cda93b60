package clienttest

import (
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// streams opens the command's standard streams, and its terminal as a fourth
// where it has one. local are the descriptors to close once it runs.
func (s *session) streams(c *command, e *fsyscall.Exec) (files, local []*os.File, err error) {
	files = make([]*os.File, 3)
	var tty *os.File
	if e.HasTerminal {
		if tty, err = s.openTerminal(c, e); err != nil {
			return nil, nil, err
		}
		local = append(local, tty)
	}
	for slot, w := range e.Stdio {
		switch {
		case w.DupOf >= 0:
			files[slot] = files[w.DupOf]
			continue
		case w.Kind == fsyscall.StdioTerminal:
			files[slot] = tty
			continue
		case w.Kind == fsyscall.StdioClosed:
			continue
		case w.Kind == fsyscall.StdioStreamed:
			files[slot], err = s.openPipe(c, slot)
		default: // a file of the client is not to be had here
			files[slot], err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		}
		if err != nil {
			return nil, local, err
		}
		local = append(local, files[slot])
	}
	if tty != nil {
		files = append(files, tty)
	}
	return files, local, nil
}

func (s *session) openPipe(c *command, slot int) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stream := s.link.Stream(fsyscall.StdioStream(c.num, slot))
	if slot == 0 {
		s.wg.Go(func() {
			feed(stream, w)
			w.Close()
		})
		c.onEnd = append(c.onEnd, func() { stream.CloseRead() })
		return r, nil
	}
	c.outputs.Go(func() { drain(r, stream) })
	return w, nil
}

// feed writes what comes on a stream until its end; a reader that is gone is
// passed on.
func feed(stream *relay.Stream, w *os.File) {
	buf := make([]byte, 64<<10)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				stream.CloseRead()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func drain(r *os.File, stream *relay.Stream) {
	defer r.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := stream.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil { // EIO at the end of a terminal
			stream.CloseWrite()
			return
		}
	}
}

// openTerminal makes a terminal as the client asked for.
func (s *session) openTerminal(c *command, e *fsyscall.Exec) (*os.File, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, err
	}
	t := e.Terminal.Termios
	now, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	now.Iflag, now.Oflag, now.Lflag, now.Cc = t.Iflag, t.Oflag, t.Lflag, t.Cc
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, now); err != nil {
		return nil, err
	}
	if err := setSize(tty, e.Terminal.Size); err != nil {
		return nil, err
	}
	c.pty = master
	stream := s.link.Stream(fsyscall.StdioStream(c.num, fsyscall.TerminalSlot))
	s.wg.Go(func() { feed(stream, master) })
	c.outputs.Go(func() { drain(master, stream) })
	c.onEnd = append(c.onEnd, func() { stream.CloseRead() })
	return tty, nil
}

func setSize(f *os.File, size fsyscall.Size) error {
	return pty.Setsize(f, &pty.Winsize{Rows: size.Rows, Cols: size.Cols, X: size.XPixel, Y: size.YPixel})
}
