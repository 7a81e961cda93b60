package fslave

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Conn carries whole messages both ways.
type Conn interface {
	// ReadMessage returns the next message, in buf where it fits. io.EOF says
	// that the peer has ended in order.
	ReadMessage(buf []byte) ([]byte, error)
	// WriteMessage sends one message made of parts.
	WriteMessage(parts ...[]byte) error
}

// Config says what a Server serves. The zero value of a bound is its default.
type Config struct {
	// Policy is required.
	Policy *Policy
	// Root is the directory that the server sees as the root, by default "/".
	Root string
	// Stdio returns the descriptor of standard stream slot (0, 1, 2) of
	// command cmd. It stays the caller's. Nil: there are none.
	Stdio func(cmd uint32, slot uint8) (*os.File, bool)
	// MaxNodes bounds the names that the server may give (default 2 Mi, some
	// 200 bytes each); MaxFiles the open files (default a half of
	// RLIMIT_NOFILE); MaxDirs the directory descriptors kept (default a
	// quarter of it, at most 4096).
	MaxNodes, MaxFiles, MaxDirs int
	// Workers bounds the calls executed at once, apart from those that wait
	// for a lock or a disk (default 16).
	Workers int
	// MaxWatches bounds the directories watched (default a quarter of the
	// user's inotify watches). NoWatch turns leases off.
	MaxWatches int
	NoWatch    bool
	// NoOpenat2 resolves as on a kernel before 5.6.
	NoOpenat2 bool
}

// Server serves one connection.
type Server struct {
	conn   Conn
	cfg    Config
	policy *Policy
	kernel kernel
	who    identity
	nodes  *nodeTable
	root   *dir
	dirs   *dirCache
	files  *fileTable
	links  *hardLinks
	watch  *watcher
	locks  *lockTable

	input sync.Mutex // held by the goroutine that reads
	buf   []byte     // the message being read; guarded by input
	ended error      // why nothing is read any more; guarded by input

	output sync.Mutex
	bufs   sync.Pool // of *[]byte
	data   dataPool

	slow   chan struct{}  // a token per call that may wait for a disk
	opens  sync.WaitGroup // opens under way; added to, and waited for, with input
	others sync.WaitGroup
	done   chan struct{} // closed when the connection has ended

	stats counters
}

// slowCalls bounds the Fsync calls under way; further ones hold up the input.
const slowCalls = 64

// New prepares to serve conn. It opens the root, so a Server that is not
// served must be closed by calling Serve on an ended conn.
func New(cfg Config, conn Conn) (*Server, error) {
	if cfg.Policy == nil {
		return nil, errors.New("fslave: no export policy")
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	setBounds(&cfg)
	k, err := newKernel()
	if err != nil {
		return nil, fmt.Errorf("fslave: /proc/self/fd: %w (is /proc mounted?)", err)
	}
	k.openat2 = k.openat2 && !cfg.NoOpenat2
	who, err := newIdentity()
	if err != nil {
		unix.Close(k.procFD)
		return nil, fmt.Errorf("fslave: group list: %w", err)
	}
	s := &Server{
		conn: conn, cfg: cfg, policy: cfg.Policy, kernel: k, who: who,
		nodes: newNodeTable(cfg.MaxNodes),
		dirs:  newDirCache(cfg.MaxDirs),
		files: newFileTable(cfg.MaxFiles),
		links: &hardLinks{policy: cfg.Policy, root: cfg.Root},
		slow:  make(chan struct{}, slowCalls),
		done:  make(chan struct{}),
	}
	s.bufs.New = func() any { b := make([]byte, 0, 4096); return &b }
	s.locks = newLockTable(s)
	if err := s.openRoot(); err != nil {
		unix.Close(k.procFD)
		return nil, err
	}
	s.watch = newWatcher(s)
	return s, nil
}

// setBounds raises the limit of open files as far as it goes and divides it.
func setBounds(cfg *Config) {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		lim.Cur, lim.Max = 1024, 1024
	}
	if lim.Cur < lim.Max && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: lim.Max, Max: lim.Max}) == nil {
		lim.Cur = lim.Max
	}
	n := int(min(lim.Cur, 1<<20))
	setDefault(&cfg.MaxFiles, n/2)
	setDefault(&cfg.MaxDirs, min(n/4, 4096))
	setDefault(&cfg.MaxNodes, 2<<20)
	setDefault(&cfg.Workers, 16)
}

func setDefault(p *int, v int) {
	if *p <= 0 {
		*p = v
	}
}

func (s *Server) openRoot() error {
	fd, err := unix.Open(s.cfg.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fslave: root %s: %w", s.cfg.Root, err)
	}
	var st unix.Statx_t
	if err := statFD(fd, &st); err != nil {
		unix.Close(fd)
		return fmt.Errorf("fslave: root %s: %w", s.cfg.Root, err)
	}
	s.root = &dir{
		fd: fd, n: s.nodes.root, pos: s.policy.top(), limit: ModeReadWrite,
		dev: statDev(&st), ino: st.Ino,
	}
	s.nodes.root.dev, s.nodes.root.ino = s.root.dev, s.root.ino
	return nil
}

// Serve answers calls until the connection ends. It returns nil after an
// orderly end, and otherwise why the connection cannot go on. Everything that
// was opened, locked or started is closed, unlocked and joined by then.
func (s *Server) Serve() error {
	var workers sync.WaitGroup
	for range s.cfg.Workers {
		workers.Go(func() {
			for s.next() {
			}
		})
	}
	s.watch.start()
	workers.Wait() // each ends when nothing is left to read
	err := s.ended
	close(s.done)
	s.locks.interruptAll()
	s.others.Wait()
	s.watch.stop()
	s.files.closeAll()
	s.locks.closeAll()
	s.nodes.closeStdio()
	s.dirs.close()
	unix.Close(s.root.fd)
	unix.Close(s.kernel.procFD)
	if err == io.EOF {
		return nil
	}
	return err
}

// next reads messages and executes them, up to the first that need not end
// before another is read. It returns false at the end.
func (s *Server) next() bool {
	s.input.Lock()
	c, err := s.read()
	for err == nil && c.inline() {
		if c.changes() {
			s.opens.Wait() // of names that it may take away, or of modes
		}
		c.run()
		c, err = s.read()
	}
	if err != nil {
		s.ended = err
		s.input.Unlock()
		return false
	}
	c.prepare()
	opens := c.h.Op == fsyscall.OpOpen
	if opens {
		s.opens.Add(1)
	}
	switch {
	case c.h.Op == fsyscall.OpFsync:
		s.slow <- struct{}{}
		s.others.Go(func() {
			c.run()
			<-s.slow
		})
		s.input.Unlock()
	case c.waits():
		s.locks.begin(c)
		s.input.Unlock()
	default:
		s.input.Unlock()
		c.run()
	}
	if opens {
		s.opens.Done()
	}
	return true
}

// read returns the next call. The caller holds input.
func (s *Server) read() (*call, error) {
	if s.ended != nil {
		return nil, s.ended
	}
	msg, err := s.conn.ReadMessage(s.buf[:0])
	if err != nil {
		return nil, err
	}
	s.buf = msg
	h, body, err := fsyscall.ParseHeader(msg)
	if err != nil {
		return nil, err
	}
	c := &call{s: s, h: h, info: h.Op.Info(), handle: handlers[h.Op]}
	if c.handle == nil || (h.Kind != fsyscall.KindCall && h.Kind != fsyscall.KindNotice) {
		return nil, fmt.Errorf("%w: %s: kind %d is nothing to ask a file server", fsyscall.ErrMalformed, h.Op, h.Kind)
	}
	c.body = h.NewBody()
	if err := fsyscall.Decode(body, c.body); err != nil {
		return nil, fmt.Errorf("%s: %w", h.Op, err)
	}
	s.stats.calls[h.Op].Add(1)
	return c, nil
}

// send writes a message of several parts.
func (s *Server) send(parts ...[]byte) {
	s.output.Lock()
	defer s.output.Unlock()
	// A failure ends the reading side as well, which reports it.
	_ = s.conn.WriteMessage(parts...)
}

// sendInline is send for the answer to a call that is executed before the next
// one is read, by the goroutine that reads.
func (s *Server) sendInline(parts ...[]byte) {
	q, ok := s.conn.(queuer)
	if !ok {
		s.send(parts...)
		return
	}
	s.output.Lock()
	defer s.output.Unlock()
	_ = q.QueueMessage(parts...)
}

// queuer is a Conn that sends the answers to calls that have come together
// together. See relay.MessageConn.
type queuer interface {
	QueueMessage(parts ...[]byte) error
}

// counters are what Stats is made of.
type counters struct {
	calls                  [256]atomic.Uint64
	revoked, watchesFailed atomic.Uint64
	overflows, dropped     atomic.Uint64
}

// Stats is what a Server has done so far.
type Stats struct {
	Calls map[string]uint64 // by operation
	// Revoked counts revocations sent; WatchesFailed directories that could
	// not be watched; WatchesDropped those given up for others; Overflows
	// the times that changes came faster than they could be told apart.
	Revoked, WatchesFailed, WatchesDropped, Overflows uint64
	// LinkScanCut: protected directories had too many files for all their
	// hard links to be known.
	LinkScanCut bool
}

// Stats may be called at any time.
func (s *Server) Stats() Stats {
	st := Stats{
		Calls:          map[string]uint64{},
		Revoked:        s.stats.revoked.Load(),
		WatchesFailed:  s.stats.watchesFailed.Load(),
		WatchesDropped: s.stats.dropped.Load(),
		Overflows:      s.stats.overflows.Load(),
		LinkScanCut:    s.links.cut.Load(),
	}
	for op := range s.stats.calls {
		if n := s.stats.calls[op].Load(); n > 0 {
			st.Calls[fsyscall.Op(op).String()] = n
		}
	}
	return st
}
