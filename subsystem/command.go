package subsystem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// maxCommands bounds the commands of one session that exist at once; each has
// at most four streams on a link of 1,024.
const maxCommands = 200

// command is one command of the session.
type command struct {
	s    *session
	num  uint32
	tag  uint32
	exec *fsyscall.Exec
	// requested is the argv that was asked for; the policy may change exec's.
	requested []string

	started, ended chan namespace.Event // one each
	stopped        chan namespace.Event // the last few

	// Guarded by session.mu.
	running bool        // init has the order
	held    []heldOrder // came before that
	inputs  []*pump
	outputs []*pump

	inWG, outWG sync.WaitGroup

	stats func() []byte // nil: nobody wants them
}

// heldOrder is a signal, or a window size where sig is zero.
type heldOrder struct {
	sig  uint8
	size fsyscall.Size
}

// maxHeld bounds the orders kept for a command that has not begun.
const maxHeld = 64

// exec takes a request for a command.
func (s *session) exec(tag uint32, x *fsyscall.Exec) error {
	c := &command{
		s: s, num: x.Cmd, tag: tag, exec: x, requested: x.Argv,
		started: make(chan namespace.Event, 1), ended: make(chan namespace.Event, 1), stopped: make(chan namespace.Event, 4),
	}
	if s.hello.Trace {
		c.stats = s.account()
	}
	s.mu.Lock()
	if int64(x.Cmd) <= s.lastCmd {
		s.mu.Unlock()
		return protocolError(fmt.Errorf("command %d comes after command %d", x.Cmd, s.lastCmd))
	}
	s.lastCmd = int64(x.Cmd)
	full := len(s.commands) >= maxCommands
	if !full {
		s.commands[x.Cmd] = c
		s.tidy.Stop()
	}
	s.mu.Unlock()
	if full {
		c.endStreams()
		return c.reply(fsyscall.ExecFork, fsyscall.Errno(syscall.EAGAIN), 0)
	}
	uses, err := fsyscall.UnpackUses(x.Expected)
	if err == nil { // else it is no good hint
		s.files.Expect(uses)
	}
	s.prepare(x.Cwd, len(uses) != 0)
	s.wg.Go(c.live)
	return nil
}

// prepare has the directories asked for that a command is about to use. What it
// wants in cwd is known, or guessed.
func (s *session) prepare(cwd string, known bool) {
	s.files.Prepare(cwd, !known)
	home := s.hello.Home
	if home == "" {
		return
	}
	s.files.Prepare(home, false) // most programs look for their settings there
	if known {
		return
	}
	for _, dir := range fsyscall.Settings {
		s.files.Prepare(home+"/"+dir, false)
	}
}

func (c *command) reply(stage fsyscall.ExecStage, errno fsyscall.Errno, pid uint32) error {
	return c.s.send(fsyscall.Header{Kind: fsyscall.KindReply, Op: fsyscall.OpExec, Tag: c.tag},
		&fsyscall.ExecReply{Stage: stage, Errno: errno, PID: pid})
}

// tell hands an event to the command. False: nobody takes it.
func (c *command) tell(ev namespace.Event) bool {
	ch := c.stopped
	switch ev.Kind {
	case namespace.Started:
		ch = c.started
	case namespace.Ended:
		ch = c.ended
	}
	select {
	case ch <- ev:
		return true
	default:
		return false
	}
}

// live is a command's life, from the request to the Exit.
func (c *command) live() {
	defer c.forget()
	select {
	case <-c.s.ready:
	case <-c.s.ctx.Done():
		return
	}
	stage, errno := c.start()
	if stage != fsyscall.ExecStarted {
		c.stopPumps(0)
		c.reportRefused(errno)
		c.reply(stage, errno, 0)
		return
	}
	select {
	case ev := <-c.started:
		if ev.Stage != fsyscall.ExecStarted {
			c.stopPumps(0)
			c.reportRefused(ev.Errno)
			c.reply(ev.Stage, ev.Errno, 0)
			return
		}
		c.attachTerminal(ev.Master)
		c.reportStart()
		if c.reply(ev.Stage, 0, ev.PID) != nil {
			c.s.end(c.s.linkError())
		}
	case <-c.s.space.Gone():
		c.stopPumps(0)
		return
	}
	c.watch()
}

func (s *session) linkError() error {
	if err := s.link.Err(); err != nil {
		return err
	}
	return errors.New("the control stream was closed")
}

func (c *command) forget() {
	c.s.mu.Lock()
	delete(c.s.commands, c.num)
	if len(c.s.commands) == 0 && !c.s.ended {
		c.s.tidy.Reset(tidyAfter)
	}
	c.s.mu.Unlock()
	c.endStreams()
	select {
	case ev := <-c.started: // came when nobody waited any more
		if ev.Master != nil {
			ev.Master.Close()
		}
	default:
	}
}

// endStreams ends the streams that the client has for the command, also where
// the command did not get as far as using them: the link forgets only what both
// ends have ended.
func (c *command) endStreams() {
	for slot, st := range c.exec.Stdio {
		if st.Kind == fsyscall.StdioStreamed && st.DupOf < 0 {
			c.s.link.Stream(fsyscall.StdioStream(c.num, slot)).Close()
		}
	}
	if c.exec.HasTerminal {
		c.s.link.Stream(fsyscall.StdioStream(c.num, fsyscall.TerminalSlot)).Close()
	}
}

// start applies the policy, makes the streams and gives init the order.
func (c *command) start() (fsyscall.ExecStage, fsyscall.Errno) {
	s := c.s
	if errno := s.policy.apply(c.exec, s.login, s.plan.Remote); errno != 0 {
		return fsyscall.ExecDenied, errno
	}
	c.exec.Env = s.environment(c.exec, c.requested)
	order := namespace.Command{Exec: c.exec, Path: cmp.Or(lookup(c.exec.Env, "PATH"), s.login.path), Shell: s.login.shell}
	if err := c.makeStreams(&order); err != nil {
		return fsyscall.ExecStdio, errnoOf(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.space.Run(order); err != nil {
		if errors.Is(err, syscall.E2BIG) {
			return fsyscall.ExecProgram, fsyscall.Errno(syscall.E2BIG)
		}
		return fsyscall.ExecFork, errnoOf(err)
	}
	c.running = true
	for _, h := range c.held {
		if h.sig != 0 {
			s.space.Signal(c.num, h.sig)
		} else {
			s.space.Winsize(c.num, h.size)
		}
	}
	c.held = nil
	return fsyscall.ExecStarted, 0
}

func errnoOf(err error) fsyscall.Errno {
	errno := syscall.EIO
	errors.As(err, &errno)
	return fsyscall.Errno(errno)
}

// signal passes a signal on, or keeps it until there is somebody to get it.
func (s *session) signal(m *fsyscall.Signal) {
	s.order(m.Cmd, heldOrder{sig: m.Sig}, func() { s.space.Signal(m.Cmd, m.Sig) })
}

func (s *session) winsize(m *fsyscall.Winsize) {
	s.order(m.Cmd, heldOrder{size: m.Size}, func() { s.space.Winsize(m.Cmd, m.Size) })
}

func (s *session) order(cmd uint32, h heldOrder, now func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch c := s.commands[cmd]; {
	case c == nil: // it has just ended
	case c.running:
		now()
	case len(c.held) < maxHeld:
		c.held = append(c.held, h)
	}
}

// watch reports stops until the command has ended, and then its end.
func (c *command) watch() {
	for {
		select {
		case ev := <-c.stopped:
			c.s.notice(fsyscall.OpStopped, &fsyscall.Stopped{Cmd: c.num, Sig: ev.Signal})
		case ev := <-c.ended:
			c.reportEnd(ev)
			c.finish(ev)
			return
		case <-c.s.space.Gone():
			select {
			case ev := <-c.ended:
				c.reportEnd(ev)
				c.finish(ev)
			default:
				c.stopPumps(0)
			}
			return
		}
	}
}

const (
	// drainTime is how long output may still come from processes that a
	// command left behind, such as the last member of a pipeline. What is in
	// the pipe by then is delivered in any case.
	drainTime = 200 * time.Millisecond
	// syncTimeout bounds the wait for changes at a command's end. The link's
	// own keepalive finds out earlier whether the client is there at all.
	syncTimeout = 10 * time.Minute
)

// finish sends what is left, waits for the changes, and sends the Exit; one that
// is not sure before that, where the client will know by itself.
func (c *command) finish(ev namespace.Event) {
	exit := &fsyscall.Exit{Cmd: c.num, Signal: ev.Signal, Core: ev.Core, Code: ev.Code, Off: ev.Off}
	ctx, cancel := context.WithTimeout(c.s.ctx, syncTimeout)
	defer cancel()
	type settled struct {
		lost []fsyscall.LostWrite
		n    int
		err  error
	}
	done := make(chan settled, 1)
	after, wait := c.s.files.Settle()
	go func() {
		lost, n, err := wait(ctx)
		done <- settled{lost, n, err}
	}()
	c.stopPumps(drainTime)
	exit.After, exit.Used = after, fsyscall.PackUses(c.s.files.Used())
	var end settled
	select {
	case end = <-done:
	default:
		if after != 0 {
			c.sendExit(exit)
		}
		end = <-done
	}
	if end.err != nil {
		c.s.end(fmt.Errorf("the client did not confirm the last changes: %w", end.err))
		return
	}
	exit.Lost, exit.LostCount = end.lost[:min(len(end.lost), fsyscall.MaxLost)], uint32(end.n)
	exit.Sure = true
	c.sendExit(exit)
}

func (c *command) sendExit(exit *fsyscall.Exit) {
	if c.stats != nil {
		exit.Stats = c.stats()
	}
	c.s.notice(fsyscall.OpExit, exit)
}

// account returns a function that gives the server's part of --stats, about
// what happened after account was called. The first command of a session has
// what came before it too: it is what the session was made for.
func (s *session) account() func() []byte {
	s.mu.Lock()
	first := s.lastCmd < 0
	s.mu.Unlock()
	files := s.files.Account(first)
	var began relay.Stats
	if !first {
		began = s.link.Stats()
	}
	return func() []byte {
		l := s.link.Stats()
		b := files()
		b = fmt.Appendf(b, "sent to the client: %d bytes, %d before compression\n", l.BytesOut-began.BytesOut, l.PlainOut()-began.PlainOut())
		b = fmt.Appendf(b, "received from the client: %d bytes, %d before compression\n", l.BytesIn-began.BytesIn, l.PlainIn()-began.PlainIn())
		if l.Attached > 0 {
			b = fmt.Appendf(b, "further byte streams: %d, with %d bytes\n", l.Attached, l.Striped-began.Striped)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range s.notes {
			b = append(b, "note: "+n+"\n"...)
		}
		return b[:min(len(b), fsyscall.MaxXattr)]
	}
}

// pipeSize is what the pipes of streams hold: more at once, fewer switches
// between the command and us.
const pipeSize = 256 << 10

// makeStreams makes the pipes of the command's streams and starts what moves
// their bytes.
func (c *command) makeStreams(order *namespace.Command) error {
	for slot, st := range c.exec.Stdio {
		switch {
		case st.Kind == fsyscall.StdioFile:
			order.Hidden[slot] = c.s.files.StdioPath(c.num, slot)
		case st.Kind == fsyscall.StdioStreamed && st.DupOf < 0:
			theirs, err := c.makeStream(slot)
			if err != nil {
				for _, f := range order.Files {
					if f != nil {
						f.Close()
					}
				}
				return err
			}
			order.Files[slot] = theirs
		}
	}
	return nil
}

func (c *command) makeStream(slot int) (theirs *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	growPipe(r)
	stream := c.s.link.Stream(fsyscall.StdioStream(c.num, slot))
	if slot == 0 {
		c.input(&pump{file: w, stream: stream})
		return r, nil
	}
	c.output(&pump{file: r, stream: stream})
	return w, nil
}

// input starts moving bytes from the client to the command.
func (c *command) input(p *pump) {
	p.stream.CloseWrite() // nothing goes the other way
	c.inputs = append(c.inputs, p)
	c.inWG.Go(p.toCommand)
}

// output starts moving bytes from the command to the client.
func (c *command) output(p *pump) {
	p.stream.CloseRead() // nothing comes the other way
	c.outputs = append(c.outputs, p)
	c.outWG.Go(p.toClient)
}

// attachTerminal starts moving bytes both ways through the terminal's master.
func (c *command) attachTerminal(master *os.File) {
	if master == nil {
		return
	}
	p := &pump{file: master, stream: c.s.link.Stream(fsyscall.StdioStream(c.num, fsyscall.TerminalSlot)), terminal: true}
	c.inputs = append(c.inputs, p)
	c.outputs = append(c.outputs, p)
	c.inWG.Go(p.toCommand)
	c.outWG.Go(p.toClient)
}

// stopPumps delivers what the command has written, within the time that
// others may go on writing, and ends all streams.
func (c *command) stopPumps(drain time.Duration) {
	for _, p := range c.outputs {
		p.drain(drain)
	}
	c.outWG.Wait()
	for _, p := range c.inputs {
		p.abandon()
	}
	c.inWG.Wait()
}
