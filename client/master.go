package client

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// MasterConfig describes a session that stays.
type MasterConfig struct {
	Session SessionConfig
	// Listener is where commands come from; Sockets and Name are its place.
	Listener *net.UnixListener
	Sockets  *Sockets
	Name     string
	Host     string // as typed, for Status
	// Idle is how long the session stays without a command; zero: until it is
	// told to end.
	Idle time.Duration
	// Opened is called once the way to the server is open: nobody has to be
	// asked anything any more. May be nil.
	Opened func()
	// Unsure: that the way is open does not mean that the server was reached.
	// No command is taken before the server has spoken, and who waits for the
	// session is told to do without it if it does not come about.
	Unsure bool
	// Say turns an error of the session into words for the user.
	Say func(error) string
}

// master is one session that stays.
//
//	RunMaster ─ watch      idle time, ends; the only one that decides
//	 ├─ accept             one goroutine per connection to the socket: serve
//	 ├─ member             one per command: its control messages, and a
//	 │                     goroutine for each direction of each stream
//	 └─ Session            link, file service; see the package comment
type master struct {
	cfg   MasterConfig
	began time.Time
	inode uint64 // of the socket's name
	wg    sync.WaitGroup

	opened  chan struct{} // closed when it is known whether there is a session
	session *Session      // nil: there is none, openErr says why; valid once opened is closed
	openErr error

	quit    chan struct{} // closed by watch: members give up
	exit    chan struct{} // capacity one: somebody wants the session to end
	changed chan struct{} // capacity one: the number of members has changed

	mu      sync.Mutex
	ending  bool
	why     error // of the end, for members; set before quit is closed
	members int
	ran     int
	running int
	conns   map[*net.UnixConn]struct{}
}

var (
	errMasterExit   = &SaidError{"the session was ended"}
	errMasterSignal = &SaidError{"the session's process was told to end"}
)

const (
	// firstMember is how long a new master waits for whoever started it.
	firstMember = 10 * time.Second
	// tidyAfter is how long an idle master waits before it gives back the
	// memory that its last commands needed.
	tidyAfter = 3 * time.Second
)

// RunMaster runs a session that stays, and returns when it has ended and
// nothing of it is left on this machine: because nobody needed it for a while,
// because it was told to, because ctx is done, or with why it was lost.
func RunMaster(ctx context.Context, cfg MasterConfig) error {
	m := &master{
		cfg: cfg, began: time.Now(), inode: cfg.Sockets.inode(cfg.Name),
		opened: make(chan struct{}), quit: make(chan struct{}), exit: make(chan struct{}, 1),
		changed: make(chan struct{}, 1), conns: map[*net.UnixConn]struct{}{},
	}
	m.wg.Go(m.accept)
	err := m.open(ctx)
	if err == nil {
		err = m.watch(ctx)
	}
	return errors.Join(err, m.end(err))
}

// open starts the session, for as long as somebody waits for it.
func (m *master) open(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.wg.Go(func() {
		defer close(m.opened)
		m.session, m.openErr = Start(ctx, m.cfg.Session, nil)
		if m.openErr != nil {
			return
		}
		if m.cfg.Opened != nil {
			m.cfg.Opened()
		}
		if m.cfg.Unsure {
			select {
			case <-m.session.Greeted():
			case <-m.session.Dead():
			case <-ctx.Done():
			}
		}
	})
	lonely := time.NewTimer(firstMember)
	defer lonely.Stop()
	for {
		select {
		case <-m.opened:
			if m.openErr == nil && ctx.Err() != nil {
				return errMasterExit
			}
			return m.openErr
		case <-m.changed:
			lonely.Stop()
			if n, _ := m.count(); n == 0 {
				cancel()
			}
		case <-lonely.C:
			cancel()
		case <-m.exit:
			cancel()
		}
	}
}

// watch lets the session live until it ends.
func (m *master) watch(ctx context.Context) error {
	idle, tidy := newStoppedTimer(), newStoppedTimer()
	defer idle.Stop()
	defer tidy.Stop()
	for {
		idle.Stop()
		tidy.Stop()
		if n, _ := m.count(); n == 0 {
			tidy.Reset(tidyAfter)
			if m.cfg.Idle > 0 {
				idle.Reset(m.cfg.Idle)
			}
		}
		select {
		case <-m.changed:
		case <-tidy.C:
			runtime.GC() // pools let go in the second collection, which is the next line's
			debug.FreeOSMemory()
			if err := m.await(ctx, idle); err != errGoOn {
				return err
			}
		case <-idle.C:
			if m.retire() {
				return nil
			}
		case <-m.exit:
			return errMasterExit
		case <-ctx.Done():
			return errMasterSignal
		case <-m.session.Dead():
			return m.session.Err()
		}
	}
}

var errGoOn = errors.New("go on")

// await is watch while nothing runs and nothing is to be tidied any more.
func (m *master) await(ctx context.Context, idle *time.Timer) error {
	for {
		select {
		case <-m.changed:
			return errGoOn
		case <-idle.C:
			if m.retire() {
				return nil
			}
			return errGoOn
		case <-m.exit:
			return errMasterExit
		case <-ctx.Done():
			return errMasterSignal
		case <-m.session.Dead():
			return m.session.Err()
		}
	}
}

func newStoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// retire ends an idle session unless somebody has just come.
func (m *master) retire() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.members > 0 {
		return false
	}
	m.ending = true
	return true
}

// end takes everything down, in order: nobody new gets in, who is in is told
// why, then the session goes.
func (m *master) end(why error) error {
	m.mu.Lock()
	m.ending, m.why = true, why
	m.mu.Unlock()
	err := m.cfg.Sockets.retire(m.cfg.Name, m.inode, m.cfg.Listener)
	close(m.quit)
	m.mu.Lock()
	for c := range m.conns {
		// Whoever has not said yet what he wants will not be heard.
		_ = c.SetReadDeadline(time.Now())
	}
	m.mu.Unlock()
	<-m.opened
	if m.session != nil {
		m.session.Close()
	}
	m.wg.Wait()
	return err
}

// count returns how many members there are, and commands that run.
func (m *master) count() (members, running int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.members, m.running
}

// accept serves each connection to the socket until the listener is closed.
func (m *master) accept() {
	for {
		conn, err := m.cfg.Listener.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(100 * time.Millisecond) // out of descriptors, as a rule
			continue
		}
		m.wg.Go(func() { m.serve(conn) })
	}
}

// serve answers the one request of a connection.
func (m *master) serve(conn *net.UnixConn) {
	m.mu.Lock()
	m.conns[conn] = struct{}{}
	m.mu.Unlock()
	forget := func() {
		m.mu.Lock()
		delete(m.conns, conn)
		m.mu.Unlock()
	}
	var req request
	var files []*os.File
	err := samePeer(conn)
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(askTimeout))
	}
	if err == nil {
		files, err = recvShort(conn, &req)
	}
	forget()
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	defer closeAll(files)
	defer conn.Close()
	switch {
	case err != nil:
		// Nobody who could be told.
	case req.Op == opRun && len(files) == len(req.Slots):
		m.run(conn, req, files)
	case req.Op == opStatus || req.Op == opExit:
		// That it may have gone again meanwhile is for it to know.
		_ = sendShort(conn, &answer{OK: true, Status: m.status()})
		if req.Op == opExit {
			offer(m.exit, struct{}{})
			<-m.quit // the end of the connection says that the socket is gone
		}
	}
}

func (m *master) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Status{Host: m.cfg.Host, PID: os.Getpid(), Age: time.Since(m.began), Commands: m.running, Ran: m.ran}
}

// enter counts somebody in who waits for the session or uses it.
func (m *master) enter() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ending {
		return false
	}
	m.members++
	offer(m.changed, struct{}{})
	return true
}

func (m *master) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.members--
	offer(m.changed, struct{}{})
}
