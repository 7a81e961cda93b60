// Package clienttest has a stand-in for nexec-server that tests of the client
// talk to: it speaks the session's protocol on a byte stream and runs the
// commands on this machine, without a view and without serving files.
package clienttest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// Server is the stand-in's behaviour. The zero value is a well-behaved one.
type Server struct {
	// OnHello and OnExec see the client's messages.
	OnHello func(*fsyscall.Hello)
	OnExec  func(*fsyscall.Exec)
	// Exec replaces the running of a command: what it returns is sent.
	Exec func(*fsyscall.Exec) (fsyscall.ExecReply, *fsyscall.Exit)
	// EditExit may change an Exit before it is sent.
	EditExit func(*fsyscall.Exit)
	// Fatal is sent in place of the Welcome.
	Fatal *fsyscall.Fatal
	// Silent: receive everything, answer nothing.
	Silent bool
}

// session is one connection.
type session struct {
	Server
	link *relay.Link
	ctl  *relay.Stream
	wg   sync.WaitGroup

	mu   sync.Mutex
	cmds map[uint32]*command
}

// Serve speaks on rw until the client ends the session; every process that it
// started has ended when it returns.
func (s Server) Serve(rw io.ReadWriteCloser) error {
	// Commands must not inherit that the ssh-like command ignores these: Go
	// resets in a child what it catches. HUP comes to the leader of a session
	// when its terminal goes.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP)
	defer signal.Stop(caught)
	ss := &session{Server: s, cmds: map[uint32]*command{}}
	ss.link = relay.New(rw, relay.Config{})
	ss.ctl = ss.link.Stream(fsyscall.StreamControl)
	err := ss.receive()
	ss.mu.Lock()
	for _, c := range ss.cmds {
		_ = unix.Kill(-c.pid, unix.SIGKILL)
	}
	ss.mu.Unlock()
	_ = ss.link.Close()
	ss.wg.Wait()
	if errors.Is(err, relay.ErrAborted) || errors.Is(err, io.EOF) || errors.Is(err, relay.ErrClosed) {
		return nil
	}
	return err
}

func (s *session) receive() error {
	var buf []byte
	for {
		msg, err := s.ctl.ReadMessage(buf)
		if err != nil {
			return err
		}
		h, body, err := fsyscall.ParseHeader(msg)
		if err != nil {
			return err
		}
		m := h.NewBody()
		if err := fsyscall.Decode(body, m); err != nil {
			return err
		}
		if s.Silent {
			continue
		}
		if err := s.dispatch(h, m); err != nil {
			return err
		}
		buf = msg
	}
}

func (s *session) dispatch(h fsyscall.Header, m fsyscall.Message) error {
	switch m := m.(type) {
	case *fsyscall.Hello:
		if s.OnHello != nil {
			s.OnHello(m)
		}
		if s.Fatal != nil {
			return s.send(fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpFatal}, s.Fatal)
		}
		return s.notify(fsyscall.OpWelcome, &fsyscall.Welcome{Version: fsyscall.Version, User: "stand-in", PID: uint32(os.Getpid())})
	case *fsyscall.Exec:
		if s.OnExec != nil {
			s.OnExec(m)
		}
		return s.exec(h.Tag, m)
	case *fsyscall.Signal:
		if c := s.command(m.Cmd); c != nil {
			c.signal(unix.Signal(m.Sig))
		}
	case *fsyscall.Winsize:
		if c := s.command(m.Cmd); c != nil && c.pty != nil {
			return setSize(c.pty, m.Size)
		}
	}
	return nil
}

func (s *session) command(n uint32) *command {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmds[n]
}

func (s *session) send(h fsyscall.Header, m fsyscall.Message) error {
	b, err := fsyscall.AppendMessage(nil, h, m)
	if err != nil {
		return err
	}
	return s.ctl.WriteMessage(b)
}

func (s *session) notify(op fsyscall.Op, m fsyscall.Message) error {
	return s.send(fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, m)
}

func (s *session) exec(tag uint32, e *fsyscall.Exec) error {
	reply, exit := fsyscall.ExecReply{}, (*fsyscall.Exit)(nil)
	var c *command
	if s.Exec != nil {
		reply, exit = s.Exec(e)
	} else {
		c, reply = s.start(e)
	}
	if err := s.send(fsyscall.Header{Kind: fsyscall.KindReply, Op: fsyscall.OpExec, Tag: tag}, &reply); err != nil {
		return err
	}
	switch {
	case exit != nil:
		exit.Cmd = e.Cmd
		s.endStreams(e)
		return s.notify(fsyscall.OpExit, exit)
	case c == nil:
		s.endStreams(e)
	default:
		s.mu.Lock()
		s.cmds[e.Cmd] = c
		s.mu.Unlock()
		s.wg.Go(func() {
			s.watch(c)
			s.endStreams(e)
		})
	}
	return nil
}

// endStreams ends what the client has for the command, as the real server
// does.
func (s *session) endStreams(e *fsyscall.Exec) {
	for slot, w := range e.Stdio {
		if w.Kind == fsyscall.StdioStreamed && w.DupOf < 0 {
			s.link.Stream(fsyscall.StdioStream(e.Cmd, slot)).Close()
		}
	}
	if e.HasTerminal {
		s.link.Stream(fsyscall.StdioStream(e.Cmd, fsyscall.TerminalSlot)).Close()
	}
}

// command is a process on this machine.
type command struct {
	num     uint32
	pid     int
	pty     *os.File
	outputs sync.WaitGroup
	onEnd   []func()
}

// signal goes to the foreground process group, as in the real server.
func (c *command) signal(sig unix.Signal) {
	group := c.pid
	if c.pty != nil {
		if fg, err := unix.IoctlGetInt(int(c.pty.Fd()), unix.TIOCGPGRP); err == nil && fg > 0 {
			group = fg
		}
	}
	_ = unix.Kill(-group, sig)
}

func (s *session) start(e *fsyscall.Exec) (*command, fsyscall.ExecReply) {
	fail := func(stage fsyscall.ExecStage, err error) (*command, fsyscall.ExecReply) {
		no := unix.EIO
		errors.As(err, &no)
		return nil, fsyscall.ExecReply{Stage: stage, Errno: fsyscall.Errno(no)}
	}
	argv := e.Argv
	if len(argv) == 0 {
		argv = []string{"/bin/sh"}
	}
	if err := unix.Access(e.Cwd, unix.X_OK); err != nil {
		return fail(fsyscall.ExecCwd, err)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = unix.ENOENT
		}
		return fail(fsyscall.ExecProgram, err)
	}
	c := &command{num: e.Cmd}
	files, local, err := s.streams(c, e)
	defer func() {
		for _, f := range local {
			f.Close()
		}
	}()
	if err != nil {
		return fail(fsyscall.ExecStdio, err)
	}
	attr := &os.ProcAttr{Dir: e.Cwd, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true}}
	attr.Env = append([]string{"PATH=" + os.Getenv("PATH")}, e.Env...)
	if e.HasTerminal {
		if err := leadSession(files[len(files)-1]); err != nil {
			return fail(fsyscall.ExecStdio, err)
		}
		attr.Sys = &syscall.SysProcAttr{Foreground: true, Ctty: int(files[len(files)-1].Fd())}
	}
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		for _, f := range c.onEnd {
			f()
		}
		return fail(fsyscall.ExecProgram, err)
	}
	c.pid = p.Pid
	_ = p.Release() // waited for with wait4, which sees stops
	return c, fsyscall.ExecReply{PID: uint32(c.pid)}
}

// leadSession makes this process the leader of a session at a terminal, so
// that the command's process group is not an orphaned one, in which the kernel
// stops nothing. It works once in a process.
func leadSession(tty *os.File) error {
	if _, err := unix.Setsid(); err != nil {
		return err
	}
	// The terminal's foreground group is set from a background one.
	signal.Ignore(unix.SIGTTOU)
	return unix.IoctlSetInt(int(tty.Fd()), unix.TIOCSCTTY, 0)
}

// watch waits for a command and tells of its stops and its end.
func (s *session) watch(c *command) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(c.pid, &ws, unix.WUNTRACED, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || !ws.Stopped() {
			break
		}
		_ = s.notify(fsyscall.OpStopped, &fsyscall.Stopped{Cmd: c.num, Sig: uint8(ws.StopSignal())})
	}
	for _, f := range c.onEnd {
		f()
	}
	c.outputs.Wait()
	e := &fsyscall.Exit{Cmd: c.num}
	if ws.Signaled() {
		e.Signal = uint8(ws.Signal())
	} else {
		e.Code = uint8(ws.ExitStatus())
	}
	if s.EditExit != nil {
		s.EditExit(e)
	}
	_ = s.notify(fsyscall.OpExit, e) // fails only with the link
}

// Describe says what a command was asked for, one fact per line, for tests
// that look at the whole of an Exec.
func Describe(e *fsyscall.Exec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "argv %q\ncwd %s\numask %#o\nignored %#x\nterminal %v\n", e.Argv, e.Cwd, e.Umask, e.Ignored, e.HasTerminal)
	for slot, w := range e.Stdio {
		fmt.Fprintf(&b, "stdio %d kind %d dup %d flags %#o append %v off %d\n", slot, w.Kind, w.DupOf, w.Flags, w.Append, w.Off)
	}
	return b.String()
}
