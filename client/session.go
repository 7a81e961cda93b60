package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/user"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// Opener opens the byte stream to nexec-server. Close on what it returns must
// make blocked calls of Read and Write return.
type Opener func(ctx context.Context) (io.ReadWriteCloser, error)

// SessionConfig describes a session.
type SessionConfig struct {
	Open Opener
	// Further opens a further byte stream to a nexec-server of the same host
	// and user, once Open's stands; nil: there cannot be any. It is called
	// only where that pays; see further. Errors are not the user's business.
	Further Opener
	Files   Files
	View    []fsyscall.ViewRule
	// Prefetch says which directories the first command needs. As far as the view
	// takes them from this machine, they are sent to the server before it asks;
	// see [fsyscall.Prefetch]. It is called once the byte stream is open. Nil:
	// none.
	Prefetch func() Prefetch
	// Sync, NoCache and Trace go into the Hello, and so does Machine, if it is
	// not zero: see [MachineKey].
	Sync, NoCache, Trace bool
	Machine              [32]byte
	// Shared, if not nil, has a session that stays take the command. Where
	// that cannot be, the command gets a session of its own.
	Shared *Shared
	// Relay are the link's settings. Compress is chosen by Start.
	Relay relay.Config
}

// Session is one link to a server, with the file service that answers it. It
// runs commands. Its methods may be called concurrently.
type Session struct {
	link  *relay.Link
	ctl   *relay.Stream
	files *fileService // nil: of a session that was joined, its master has it
	began time.Time

	out outbox
	wg  sync.WaitGroup

	sending sync.Mutex // held while a command is sent off
	next    uint32     // number of the next one

	mu       sync.Mutex // may be taken while sending is held
	commands map[uint32]*execution
	welcome  *fsyscall.Welcome
	err      error
	closing  bool
	dead     chan struct{} // closed when err is set
	greeted  chan struct{} // closed by the Welcome
	settling settling
}

// Start starts the file service, opens the byte stream and sends the Hello. It
// waits for nothing that the server says. stdio has the descriptors of the
// first command's standard streams that are files, by slot.
func Start(ctx context.Context, cfg SessionConfig, stdio map[int]int) (*Session, error) {
	files, err := startFiles(cfg.Files, stdio)
	if err != nil {
		return nil, &FilesError{Err: err}
	}
	rw, err := cfg.Open(ctx)
	if err != nil {
		files.stop()
		return nil, &OpenError{err}
	}
	paths, onWay := cfg.prefetched()
	slots := slotSet(stdio)
	hello, secret, err := makeHello(cfg, paths, slots)
	if err != nil {
		rw.Close()
		files.stop()
		return nil, err
	}
	cfg.Relay.Compress = !loopback(rw)
	s := newSession(relay.New(rw, cfg.Relay), files)
	s.out.post(hello)
	s.run()
	s.wg.Go(func() { s.serveFiles(fsyscall.Prefetch(fsyscall.PrefetchDirs(paths), onWay, slots)) })
	if cfg.Further != nil {
		f := newFurther(s.link, cfg.Further, secret)
		s.wg.Go(func() { f.run(s.greeted) })
	}
	return s, nil
}

func newSession(link *relay.Link, files *fileService) *Session {
	return &Session{
		link: link, ctl: link.Stream(fsyscall.StreamControl), files: files, began: time.Now(),
		out: newOutbox(), commands: map[uint32]*execution{}, dead: make(chan struct{}), greeted: make(chan struct{}),
	}
}

func (s *Session) run() {
	s.wg.Go(s.receive)
	s.wg.Go(func() { s.out.run(s.ctl) })
}

// loopback tells whether a byte stream stays on this machine: compressing only
// costs there. A stream that does not say where it leads may lead anywhere.
func loopback(rw io.ReadWriteCloser) bool {
	c, ok := rw.(interface{ RemoteAddr() net.Addr })
	if !ok {
		return false
	}
	addr, err := netip.ParseAddrPort(c.RemoteAddr().String())
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

// makeHello returns the session's first message, and the secret in it.
func makeHello(cfg SessionConfig, prefetched []string, stdio uint8) (msg []byte, secret [32]byte, err error) {
	h := &fsyscall.Hello{
		Version: fsyscall.Version, UID: uint32(unix.Geteuid()), GID: uint32(unix.Getegid()),
		View: cfg.View, Prefetched: prefetched, StdioAsked: stdio, Sync: cfg.Sync, NoCache: cfg.NoCache, Trace: cfg.Trace,
	}
	if !cfg.NoCache {
		h.Machine = cfg.Machine
	}
	if _, err := rand.Read(h.Secret[:]); err != nil {
		return nil, secret, fmt.Errorf("cannot make the session's secret: %w", err)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return nil, secret, fmt.Errorf("cannot read the groups: %w", err)
	}
	for _, g := range groups {
		h.Groups = append(h.Groups, uint32(g))
	}
	if u, err := user.Current(); err == nil {
		h.User, h.Home = u.Username, u.HomeDir
	}
	if home := os.Getenv("HOME"); home != "" {
		h.Home = home
	}
	h.Hostname, _ = os.Hostname() // only shown
	now := time.Now()
	h.Now = fsyscall.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	msg, err = fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpHello}, h)
	return msg, h.Secret, err
}

// fail ends the session with err; the first one counts.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.closing {
		s.err = err
		close(s.dead)
	}
}

// Dead is closed when the session cannot go on; Err then says why.
func (s *Session) Dead() <-chan struct{} { return s.dead }

// Err returns why the session cannot go on, or nil.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Welcome returns what the server said of itself, or nil before it did.
func (s *Session) Welcome() *fsyscall.Welcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.welcome
}

// Stats returns the link's counters.
func (s *Session) Stats() relay.Stats { return s.link.Stats() }

// receive reads StreamControl until it ends.
func (s *Session) receive() {
	var buf []byte
	for {
		msg, err := s.ctl.ReadMessage(buf)
		if err != nil {
			s.fail(s.lost(err))
			return
		}
		if err := s.dispatch(msg); err != nil {
			s.fail(err)
			s.link.Abort(err)
			return
		}
		buf = msg
	}
}

func (s *Session) lost(err error) error {
	if le := s.link.Err(); le != nil {
		err = le
	} else if errors.Is(err, io.EOF) || errors.Is(err, relay.ErrClosed) {
		err = nil
	}
	return &LostError{Err: err, Began: s.Welcome() != nil}
}

func (s *Session) dispatch(msg []byte) error {
	h, body, err := fsyscall.ParseHeader(msg)
	if err != nil {
		return &ProtocolError{err}
	}
	if h.Kind == fsyscall.KindReply && h.Errno != 0 {
		return &ProtocolError{fmt.Errorf("%s was answered with error %d", h.Op, h.Errno)}
	}
	m := h.NewBody()
	if m == nil {
		return &ProtocolError{fmt.Errorf("%s has no body", h.Op)}
	}
	if err := fsyscall.Decode(body, m); err != nil {
		return &ProtocolError{fmt.Errorf("%s: %w", h.Op, err)}
	}
	switch m := m.(type) {
	case *fsyscall.Welcome:
		return s.welcomed(m)
	case *fsyscall.Fatal:
		if s.files == nil && m.Code == fatalSaid {
			return &SaidError{m.Detail}
		}
		return &FatalError{*m}
	case *fsyscall.ExecReply:
		return s.tell(h.Tag, func(c *execution) bool { return offer(c.reply, *m) })
	case *fsyscall.Stopped:
		return s.tell(m.Cmd, func(c *execution) bool { replace(c.stopped, *m); return true })
	case *fsyscall.Exit:
		m.Stats = append([]byte(nil), m.Stats...) // it aliases the buffer
		return s.exited(m)
	}
	return &ProtocolError{fmt.Errorf("%s is not for the client", h.Op)}
}

func (s *Session) welcomed(m *fsyscall.Welcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.welcome != nil {
		return &ProtocolError{errors.New("a second welcome")}
	}
	s.welcome = m
	close(s.greeted)
	return nil
}

// Greeted is closed when the server's end of the session has spoken.
func (s *Session) Greeted() <-chan struct{} { return s.greeted }

func (s *Session) tell(cmd uint32, f func(*execution) bool) error {
	s.mu.Lock()
	c := s.commands[cmd]
	s.mu.Unlock()
	if c == nil || !f(c) {
		return &ProtocolError{fmt.Errorf("a message about command %d, which does not wait for it", cmd)}
	}
	return nil
}

// offer puts v into a channel of capacity one unless it is full.
func offer[T any](ch chan T, v T) bool {
	select {
	case ch <- v:
		return true
	default:
		return false
	}
}

// replace puts v into a channel of capacity one, in place of what is there.
// Only one goroutine may do so.
func replace[T any](ch chan T, v T) {
	for !offer(ch, v) {
		select {
		case <-ch:
		default:
		}
	}
}

// serveFiles joins fslave to the link until either ends.
func (s *Session) serveFiles(prefetch [][]byte) {
	err := s.files.serve(s.link, prefetch, s.answered)
	if s.link.Err() == nil && err != nil {
		s.fail(&FilesError{Err: err, Ran: true})
	}
}

// Close ends the session and returns when everything of it has ended. Changes
// were answered before a command's Exit came, so once the commands have ended
// there is nothing that would have to be waited for, and Close does not wait
// for the other end.
func (s *Session) Close() {
	s.mu.Lock()
	s.closing = true
	cause := s.err
	s.mu.Unlock()
	if cause == nil {
		cause = errSessionOver
	}
	s.link.Abort(cause)
	s.out.close()
	if s.files != nil {
		s.files.stop()
	}
	_ = s.link.Wait() // the cause is known
	s.wg.Wait()
}

// errSessionOver is what the server is told at the end of a session.
var errSessionOver = errors.New("session over")
