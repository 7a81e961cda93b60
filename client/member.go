package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// run takes a command into the session: it answers the request as soon as
// there is a session, and then stands in for the server.
func (m *master) run(conn *net.UnixConn, req request, files []*os.File) {
	if !m.enter() {
		_ = sendShort(conn, &answer{}) // another one is to be asked
		return
	}
	defer m.leave()
	if !m.awaitSession(conn) {
		return
	}
	ans := answer{OK: true}
	switch {
	case m.session == nil:
		ans = answer{Said: m.cfg.Say(m.openErr)}
	case m.cfg.Unsure && m.session.Welcome() == nil:
		ans = answer{} // it is known to ask at the terminal, which we have not
	}
	if sendShort(conn, &ans) != nil || !ans.OK {
		return
	}
	mb := &member{m: m, link: relay.New(conn, localLink()), requests: make(chan fsyscall.Message)}
	mb.ctl = mb.link.Stream(fsyscall.StreamControl)
	mb.files = map[int]*os.File{}
	for i, slot := range req.Slots {
		mb.files[slot] = files[i]
	}
	mb.live()
}

// awaitSession waits until it is known whether there is a session. False: the
// client has gone meanwhile.
func (m *master) awaitSession(conn *net.UnixConn) bool {
	gone := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		if hungUpBeforeAnswer(conn) {
			close(gone)
		}
	})
	defer watch.Wait()
	defer conn.SetReadDeadline(time.Time{})
	here := true
	select {
	case <-m.opened:
	case <-gone:
		here = false
	}
	_ = conn.SetReadDeadline(time.Now()) // ends the watch
	watch.Wait()
	return here
}

// hungUpBeforeAnswer returns true when the other end is gone, and false at the
// connection's deadline. Nothing is sent to us before our answer.
func hungUpBeforeAnswer(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
		return gone
	})
	return gone && err == nil
}

// member is one command of a session that stays, between its client and the
// server.
type member struct {
	m        *master
	link     *relay.Link // to the client
	ctl      *relay.Stream
	files    map[int]*os.File // standard streams that are files, by slot
	requests chan fsyscall.Message

	exec    *fsyscall.Exec
	x       *execution
	streams []int // slots that have one
	copies  sync.WaitGroup
	deaf    deafness
	running int // 1 while it counts among the master's
	exited  bool
}

// live is a member's life: it returns when its client is gone and the server
// has nothing more to say of its command.
func (mb *member) live() {
	var reader sync.WaitGroup
	reader.Go(mb.read)
	err := mb.begin()
	if err == nil {
		err = mb.carry()
	}
	mb.hangUp(err)
	reader.Wait()
	if mb.x != nil {
		mb.finish()
	}
}

// read hands on what the client wants until its link ends.
func (mb *member) read() {
	defer close(mb.requests)
	for {
		msg, err := mb.ctl.ReadMessage(nil)
		if err != nil {
			return
		}
		h, body, err := fsyscall.ParseHeader(msg)
		m := h.NewBody()
		if err == nil && m == nil {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			err = fsyscall.Decode(body, m)
		}
		if err != nil {
			mb.link.Abort(fmt.Errorf("master: %w", err))
			return
		}
		select {
		case mb.requests <- m:
		case <-mb.link.Done():
			return
		}
	}
}

// errNoCommand ends a member that never said what to run.
var errNoCommand = errors.New("no command")

// begin sends the command off.
func (mb *member) begin() error {
	req, ok := <-mb.requests
	if !ok {
		return errNoCommand
	}
	if mb.exec, ok = req.(*fsyscall.Exec); !ok {
		return errNoCommand
	}
	s := mb.m.session
	x, err := s.begin(mb.exec, func(num uint32) error {
		if len(mb.files) == 0 {
			return nil
		}
		return s.files.lent.lend(num, mb.files)
	})
	var refused *ExecError
	switch {
	case asError(err, &refused):
		mb.exited = true
		mb.send(fsyscall.Header{Kind: fsyscall.KindReply, Op: fsyscall.OpExec}, &fsyscall.ExecReply{Stage: refused.Stage, Errno: fsyscall.Errno(refused.Errno)})
		return nil
	case err != nil:
		return err
	}
	mb.x = x
	mb.count(1)
	mb.startCopies()
	return nil
}

// count notes that the command runs now, or not any more.
func (mb *member) count(d int) {
	if mb.running == d {
		return
	}
	mb.m.mu.Lock()
	defer mb.m.mu.Unlock()
	if d > 0 {
		mb.m.ran++
	}
	mb.m.running += d - mb.running
	mb.running = d
}

// ended notes that the server says no more of the command.
func (mb *member) ended() {
	mb.exited = true
	mb.count(0)
}

// send tells the client something. That it is gone is found out elsewhere.
func (mb *member) send(h fsyscall.Header, msg fsyscall.Message) {
	if b, err := fsyscall.AppendMessage(nil, h, msg); err == nil {
		_ = mb.ctl.WriteMessage(b)
	}
}

func (mb *member) notice(op fsyscall.Op, msg fsyscall.Message) {
	mb.send(fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, msg)
}

// carry passes control messages both ways until the client is gone. An error
// is for the client.
func (mb *member) carry() error {
	s := mb.m.session
	greeted, dead, quit := s.Greeted(), s.Dead(), mb.m.quit
	var late *time.Timer
	var tooLate <-chan time.Time
	var reply chan fsyscall.ExecReply
	var stopped chan fsyscall.Stopped
	var exit chan fsyscall.Exit
	if mb.x != nil {
		reply, stopped, exit = mb.x.reply, mb.x.stopped, mb.x.exit
	}
	for {
		select {
		case <-greeted:
			greeted = nil
			mb.notice(fsyscall.OpWelcome, s.Welcome())
		case r := <-reply:
			mb.replied(r)
		case st := <-stopped:
			st.Cmd = 0
			mb.notice(fsyscall.OpStopped, &st)
		case e := <-exit:
			mb.exit(e)
		case req, ok := <-mb.requests:
			if !ok {
				return nil
			}
			if !mb.exited && mb.x != nil {
				mb.request(req)
			}
		case <-mb.deaf.expired():
			if mb.deaf.stillDeaf(s) {
				return &UnansweredError{}
			}
		case <-dead:
			dead = nil
			if !mb.lastWords() {
				return s.Err()
			}
		case <-quit:
			quit = nil
			if !mb.lastWords() {
				return mb.m.reason()
			}
			late = time.NewTimer(hangupGrace)
			defer late.Stop()
			tooLate = late.C
		case <-tooLate: // it does not take its output
			return nil
		}
	}
}

func (mb *member) replied(r fsyscall.ExecReply) {
	mb.send(fsyscall.Header{Kind: fsyscall.KindReply, Op: fsyscall.OpExec}, &r)
	if r.Stage != fsyscall.ExecStarted {
		mb.ended()
	}
}

func (mb *member) exit(e fsyscall.Exit) {
	e.Cmd = 0
	mb.notice(fsyscall.OpExit, &e)
	mb.ended()
}

// lastWords passes on an exit that came just before the session ended. True:
// the client knows all there is to know, and will go.
func (mb *member) lastWords() bool {
	if mb.x == nil {
		return mb.exited
	}
	select {
	case r := <-mb.x.reply:
		mb.replied(r)
	default:
	}
	select {
	case e := <-mb.x.exit:
		mb.exit(e)
	default:
	}
	return mb.exited
}

func (m *master) reason() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why == nil {
		return errMasterExit
	}
	return m.why
}

// request carries out what the client wants of its command.
func (mb *member) request(req fsyscall.Message) {
	switch req := req.(type) {
	case *fsyscall.Signal:
		sig := unix.Signal(req.Sig)
		mb.x.Signal(sig)
		if sig == unix.SIGINT || sig == unix.SIGTERM || sig == unix.SIGQUIT || sig == unix.SIGHUP {
			mb.deaf.interrupted(mb.m.session)
		}
	case *fsyscall.Winsize:
		mb.x.Resize(req.Size)
	}
}

// hangUp ends the client's link, telling it err, and a command whose client
// has gone: it gets a SIGHUP, and a SIGKILL if it does not go by that.
func (mb *member) hangUp(err error) {
	if err != nil && err != errNoCommand {
		mb.notice(fsyscall.OpFatal, &fsyscall.Fatal{Code: fatalSaid, Detail: clip(mb.m.cfg.Say(err))})
		_ = mb.link.Close() // what is written gets there
	}
	mb.link.Abort(errSessionOver)
	_ = mb.link.Wait()
	s := mb.m.session
	if mb.x == nil || mb.exited {
		return
	}
	mb.closeStreams(false)
	mb.x.Signal(unix.SIGHUP)
	mb.x.Signal(unix.SIGCONT)
	kill := time.NewTimer(hangupGrace)
	defer kill.Stop()
	for {
		select {
		case r := <-mb.x.reply:
			if r.Stage != fsyscall.ExecStarted {
				return
			}
		case <-mb.x.exit:
			return
		case <-kill.C:
			mb.x.Signal(unix.SIGKILL)
		case <-s.Dead():
			return
		case <-mb.m.quit:
			return
		}
	}
}

// clip keeps a text within what a Fatal may carry.
func clip(s string) string { return s[:min(len(s), 4000)] }

// finish ends the command's streams and gives its files back.
func (mb *member) finish() {
	mb.x.forget()
	mb.ended()
	mb.closeStreams(true)
	mb.copies.Wait()
	if len(mb.files) > 0 {
		mb.m.session.files.lent.takeBack(mb.x.num)
	}
}

// closeStreams ends the streams to the server: their reading, and with whole
// their writing too, so that the link can forget them. An input that its
// client did not finish must not look finished while the command runs.
func (mb *member) closeStreams(whole bool) {
	for _, slot := range mb.streams {
		st := mb.x.stream(slot)
		_ = st.CloseRead() // fails on a dead link only
		if whole {
			_ = st.CloseWrite()
		}
	}
}

// startCopies joins the streams of the client's link with the server's.
func (mb *member) startCopies() {
	add := func(slot int, in, out bool) {
		near := mb.link.Stream(fsyscall.StdioStream(0, slot))
		far := mb.x.stream(slot)
		mb.streams = append(mb.streams, slot)
		if in {
			mb.copies.Go(func() { copyStream(far, near) })
		} else {
			_ = far.CloseWrite() // nothing goes this way
		}
		if out {
			mb.copies.Go(func() { copyStream(near, far) })
		} else {
			_ = far.CloseRead()
		}
	}
	for slot, st := range mb.exec.Stdio {
		if st.Kind == fsyscall.StdioStreamed && st.DupOf < 0 {
			add(slot, slot == 0, slot != 0)
		}
	}
	if mb.exec.HasTerminal {
		add(fsyscall.TerminalSlot, true, true)
	}
}

// copyStream copies until src ends, and then ends dst, or until dst is read no
// more, and then stops src. A link that fails ends it without a word: what was
// cut off is no end.
func copyStream(dst, src *relay.Stream) {
	buf := make([]byte, pumpSize)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				_ = src.CloseRead()
				return
			}
		}
		if err == io.EOF {
			_ = dst.CloseWrite()
		}
		if err != nil {
			return
		}
	}
}
