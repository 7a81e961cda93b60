package client

import (
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// execution is a command as the server runs it, without its streams' other
// ends on this machine.
type execution struct {
	session *Session
	num     uint32

	reply   chan fsyscall.ExecReply
	stopped chan fsyscall.Stopped
	exit    chan fsyscall.Exit
}

// begin sends e, whose number it fills in, off to the server, having called
// before, if that is not nil, with the number. It does not wait for an answer.
func (s *Session) begin(e *fsyscall.Exec, before func(num uint32) error) (*execution, error) {
	s.sending.Lock() // numbers rise in the order in which they are sent
	defer s.sending.Unlock()
	x := &execution{
		session: s, num: s.next, reply: make(chan fsyscall.ExecReply, 1),
		stopped: make(chan fsyscall.Stopped, 1), exit: make(chan fsyscall.Exit, 1),
	}
	e.Cmd = x.num
	msg, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec, Tag: x.num}, e)
	if err != nil {
		if s.next >= fsyscall.MaxCommand {
			return nil, errWornOut
		}
		// The only bounds that a user can reach are those of argv and the
		// environment.
		return nil, &ExecError{Stage: fsyscall.ExecProgram, Errno: unix.E2BIG, Name: argv0(e.Argv), Cwd: e.Cwd}
	}
	if before != nil {
		if err := before(x.num); err != nil {
			return nil, err
		}
	}
	s.next++
	s.mu.Lock()
	s.commands[x.num] = x
	s.mu.Unlock()
	s.out.post(msg)
	return x, nil
}

// errWornOut: a session that stays has had a million commands.
var errWornOut = &SaidError{"the session has run as many commands as it can; run 'nexec -O exit HOST' and try again"}

// forget is for a command that the server says nothing more about.
func (x *execution) forget() {
	x.session.mu.Lock()
	defer x.session.mu.Unlock()
	delete(x.session.commands, x.num)
}

// Signal sends sig to the command's foreground process group.
func (x *execution) Signal(sig unix.Signal) { x.session.out.signal(x.num, uint8(sig)) }

// Resize tells the command of its terminal's size.
func (x *execution) Resize(size fsyscall.Size) { x.session.out.resize(x.num, size) }

func (x *execution) stream(slot int) *relay.Stream {
	return x.session.link.Stream(fsyscall.StdioStream(x.num, slot))
}

// Command is one command of a session, with the pumps of its streams.
type Command struct {
	*execution
	stdio *stdioSet
	fds   [3]int
	tty   *terminal
	wake  waker

	inputs, outputs sync.WaitGroup
	flushed         chan struct{} // closed when every output has ended
	hangup          chan struct{} // closed when the terminal went away
	keys            chan unix.Signal
	over            chan struct{} // closed by stop

	mu        sync.Mutex
	streamErr error // the first one of an output
}

// pumpSize is what a pump reads at once: a pipe's capacity.
const pumpSize = 64 << 10

// Exec starts a command: it sends e, whose number it fills in, and starts the
// pumps. It does not wait for the server.
func (s *Session) Exec(e *fsyscall.Exec, stdio *stdioSet, fds [3]int, tty *terminal) (*Command, error) {
	wake, err := newWaker()
	if err != nil {
		return nil, err
	}
	x, err := s.begin(e, nil)
	if err != nil {
		wake.close()
		return nil, err
	}
	c := &Command{
		execution: x, stdio: stdio, fds: fds, tty: tty, wake: wake, flushed: make(chan struct{}),
		hangup: make(chan struct{}), keys: make(chan unix.Signal, 1), over: make(chan struct{}),
	}
	c.startPumps()
	return c, nil
}

func argv0(argv []string) string {
	if len(argv) == 0 {
		return ""
	}
	return argv[0]
}

func (c *Command) startPumps() {
	for slot := range c.stdio.wire {
		w := c.stdio.wire[slot]
		if w.Kind != fsyscall.StdioStreamed || w.DupOf >= 0 {
			continue
		}
		stream := c.stream(slot)
		if slot == 0 {
			ep := newEndpoint(c.fds[0], unix.O_RDONLY, c.wake)
			c.inputs.Go(func() { c.pumpIn(ep, stream) })
			continue
		}
		ep := newEndpoint(c.fds[slot], unix.O_WRONLY, c.wake)
		c.outputs.Go(func() { c.pumpOut(slot, stream, ep) })
	}
	if c.stdio.hasTerminal() {
		c.startTerminal(c.stream(fsyscall.TerminalSlot))
	}
	go func() {
		c.outputs.Wait()
		close(c.flushed)
	}()
}

// pumpOut copies what the command writes to a local stream. A local reader
// that is gone is passed on: the command gets its SIGPIPE there.
func (c *Command) pumpOut(slot int, stream *relay.Stream, ep *endpoint) {
	defer ep.Close()
	if slot != fsyscall.TerminalSlot {
		defer stream.Close() // nothing goes the other way
	}
	buf := make([]byte, pumpSize)
	// What the server's terminal has made of the output, the local one must
	// not change again: it is raw before it shows the first of it.
	enter := slot == fsyscall.TerminalSlot && c.stdio.terminal(0) && isTerminal(c.fds[0])
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if enter {
				c.tty.enter()
				enter = false
			}
			if _, werr := ep.Write(buf[:n]); werr != nil {
				stream.CloseRead()
				c.outputFailed(slot, werr)
				return
			}
		}
		if err != nil {
			return // the end, or the link's: then the session says so
		}
	}
}

func (c *Command) outputFailed(slot int, err error) {
	if errors.Is(err, errStopped) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streamErr == nil {
		c.streamErr = &StreamError{Slot: slot, Op: "write", Err: err}
	}
}

// pumpIn copies the local standard input to the command.
func (c *Command) pumpIn(ep *endpoint, stream *relay.Stream) {
	defer ep.Close()
	stream.CloseRead() // nothing comes the other way
	buf := make([]byte, pumpSize)
	for {
		n, err := ep.Read(buf)
		if n > 0 {
			_, err = stream.Write(buf[:n])
			if errors.Is(err, relay.ErrClosedByPeer) {
				c.abandonInput()
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, errStopped):
			return
		default:
			// The end; what cannot be read any more has ended as well.
			stream.CloseWrite()
			return
		}
	}
}

// abandonInput follows when nothing reads the command's standard input any
// more: whoever writes to ours is to find out, as from a local command.
func (c *Command) abandonInput() {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it finds out when nexec ends
	}
	_ = unix.Dup3(null, c.fds[0], 0)
	unix.Close(null)
}

// terminalOut returns the descriptor that terminal output goes to.
func (c *Command) terminalOut() int {
	for _, slot := range []int{1, 2, 0} {
		if c.stdio.forced || c.stdio.terminal(slot) {
			return c.fds[slot]
		}
	}
	return c.tty.fd
}

func (c *Command) startTerminal(stream *relay.Stream) {
	out := newEndpoint(c.terminalOut(), unix.O_WRONLY, c.wake)
	c.outputs.Go(func() { c.pumpOut(fsyscall.TerminalSlot, stream, out) })
	switch {
	case !c.stdio.terminal(0):
		// Keys typed are for whoever reads the terminal on this side.
	case isTerminal(c.fds[0]):
		in := newEndpoint(c.fds[0], unix.O_RDONLY, c.wake)
		c.inputs.Go(func() { c.pumpKeys(in, stream) })
	default:
		in := newEndpoint(c.fds[0], unix.O_RDONLY, c.wake)
		c.inputs.Go(func() { c.pumpForced(in, stream) })
	}
}

const (
	// backgroundPoll is how often a background nexec looks whether it was
	// brought to the foreground: nothing tells it, as it is not stopped.
	backgroundPoll = time.Second
	keyEOF         = 4 // VEOF, Ctrl-D
	keyIntr        = 3 // VINTR, Ctrl-C
)

// pumpKeys carries what is typed, while nexec is in the foreground.
func (c *Command) pumpKeys(in *endpoint, stream *relay.Stream) {
	defer in.Close()
	// Until the server answers, the connection may still be asking its own
	// questions at this terminal.
	select {
	case <-c.session.Greeted():
	case <-c.over:
		return
	}
	buf := make([]byte, 4096) // what the terminal's line buffer holds
	for {
		if !c.tty.foreground() {
			if in.await(0, int(backgroundPoll/time.Millisecond)) == errStopped {
				return
			}
			if hungUp(in.fd) {
				close(c.hangup)
				return
			}
			continue
		}
		c.tty.enter()
		if err := in.await(unix.POLLIN, -1); err == errStopped {
			return
		}
		if !c.tty.foreground() {
			continue // what is typed is for somebody else
		}
		n, err := in.readNow(buf)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			continue
		case err != nil || n == 0 && hungUp(in.fd):
			close(c.hangup)
			return
		case n == 0: // Ctrl-D, where this side edits lines
			buf[0], n = keyEOF, 1
		}
		if n == 1 && buf[0] == keyIntr {
			offer(c.keys, unix.SIGINT)
		}
		if _, err := stream.Write(buf[:n]); err != nil {
			return
		}
	}
}

// hungUp tells whether the terminal behind fd is gone.
func hungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLNVAL) != 0
}

// pumpForced types what comes from a standard input that is no terminal.
func (c *Command) pumpForced(in *endpoint, stream *relay.Stream) {
	defer in.Close()
	buf := make([]byte, pumpSize)
	for {
		n, err := in.Read(buf)
		switch {
		case err == io.EOF:
			_, _ = stream.Write([]byte{keyEOF}) // the session's end is told elsewhere
			return
		case err != nil:
			return
		}
		if _, err := stream.Write(buf[:n]); err != nil {
			return
		}
	}
}

// outputError returns why an output was cut short, or nil.
func (c *Command) outputError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streamErr
}

// stop ends what waits for this side.
func (c *Command) stop() {
	close(c.over)
	c.wake.wake()
}

// join returns when every pump has ended; the session must be closed or about
// to be, and stop called.
func (c *Command) join() {
	c.inputs.Wait()
	<-c.flushed
	c.wake.close()
}
