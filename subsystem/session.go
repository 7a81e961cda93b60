// Package subsystem is a nexec session on the server: it reads the client's
// hello, makes namespaces and the view, serves the client's files in it, runs
// commands and reports how they end.
//
// # Life of a session
//
//	link up ─ hello ─► welcome ─► init, FUSE, view ─► commands … ─► ending
//	                        any failure ─ fatal ─────────────────►
//
// Everything that can end a session calls session.end; [Serve] waits for that
// and then takes things down in one order: the socket for further byte
// streams, the processes, the files, the link, the goroutines.
//
// # Locks
//
// session.mu guards the table of commands and their state. Nothing blocks
// under it but sending a packet to init, which reads packets all the time.
package subsystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem/filecache"
	"github.com/SumiTomohiko/nexec/subsystem/handover"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// Files is the server's end of file access, which fmaster implements.
type Files interface {
	// Serve answers the mounted FUSE descriptor until the mount is gone. An
	// error means that service never began.
	Serve(dev *os.File) error
	// StdioPath is the path, below the root of the mount, of a command's
	// standard stream that is a file.
	StdioPath(cmd uint32, slot int) string
	// Prepare says that a directory of the view will soon be used, and with
	// below that those in it may be as well.
	Prepare(path string, below bool)
	// Expect asks for what a command is likely to use, and Used returns, once,
	// what the session has used so far.
	Expect([]fsyscall.PathUse)
	Used() []fsyscall.PathUse
	// Settle returns what waits until every change was answered and tells the ones
	// lost, and, if not zero, the tag of the call that is waited for: see
	// fsyscall.Exit.
	Settle() (after uint32, wait func(context.Context) (lost []fsyscall.LostWrite, n int, err error))
	// Account returns a function that gives text for --stats, about what
	// happened after Account was called, or in the whole session.
	Account(whole bool) func() []byte
	// Close fails what waits for the client.
	Close() error
	// Wait, after Close and the end of the link, waits for what used the link.
	Wait()
}

// FilesConfig is what Files needs to know.
type FilesConfig struct {
	Link        *relay.Link
	Hello       *fsyscall.Hello
	UID, GID    uint32
	MappedIDs   bool            // every uid and gid is valid in the mount's user namespace
	Mountpoints map[string]bool // absolute paths of the view → is a directory
	// Hidden are trees that the view takes from the server and that the server
	// lacks: ENOENT, whatever the client has there.
	Hidden []string
	// Links are symbolic links that the view takes from the server, with their
	// texts, whatever the client has there.
	Links map[string]string
	// Cache has what earlier sessions have read; nil: nothing is kept.
	Cache *filecache.Cache
}

// Options are a session's settings.
type Options struct {
	// NewFiles makes the file service.
	NewFiles func(FilesConfig) Files
	// Policy is what the front door allows; nil allows everything.
	Policy *Policy
	// Reporter is told of commands; nil: nobody is.
	Reporter *Reporter
	// Environ is the environment that the front door gave; see [Serve].
	Environ []string
	// Cache says where the content of files is kept for later sessions.
	Cache CacheOptions
	// Relay are the link's settings.
	Relay relay.Config
	// Context ends the session when it is done; nil: never.
	Context context.Context
}

const (
	// OpeningTimeout is how long a client that has authenticated itself may
	// take to say something.
	OpeningTimeout = 60 * time.Second
	helloTimeout   = OpeningTimeout
	// setupTimeout bounds the making of the view, which may wait for the
	// client: several round trips of a very slow link.
	setupTimeout = 60 * time.Second
	// hangupGrace is what commands get between SIGHUP and SIGKILL when the
	// session ends under them.
	hangupGrace = 500 * time.Millisecond
	// unmountTimeout is how long the kernel may take to let go of the mount
	// after the last process is gone.
	unmountTimeout = 2 * time.Second
)

// session is one session. Fields above mu are set before any other goroutine
// sees them.
type session struct {
	opts   Options
	policy *Policy
	link   *relay.Link
	ctl    *relay.Stream
	hello  *fsyscall.Hello
	plan   *namespace.Plan
	login  login
	cache  *filecache.Cache // nil: none
	files  Files
	space  *namespace.Space
	joins  *handover.Listener // nil: no further connections can come
	wg     sync.WaitGroup
	served chan struct{} // closed when the file service has ended; nil before it began

	ctx    context.Context // done when the session ends: see end
	cancel context.CancelFunc
	ready  chan struct{} // closed when commands can run

	mu       sync.Mutex
	err      error
	ended    bool
	notes    []string
	commands map[uint32]*command
	lastCmd  int64
	tidy     *time.Timer // runs tidyAfter after the last command
}

// tidyAfter is how long a session that stays waits for a further command before
// it gives back the memory that the last ones needed.
const tidyAfter = 3 * time.Second

// tidyUp gives free memory back to the system.
func tidyUp() {
	runtime.GC() // pools let go in the second collection, which is the next line's
	debug.FreeOSMemory()
}

// Serve runs a session over rw, and returns when it has ended and nothing of
// it is left. From opts.Environ it takes PATH, USER, LOGNAME and SHELL. The
// error is nil when the client ended the session, and otherwise one line for a
// log or a user.
func Serve(rw io.ReadWriteCloser, opts Options) error {
	s := &session{
		opts: opts, policy: opts.Policy, link: relay.New(rw, opts.Relay),
		ready: make(chan struct{}), commands: make(map[uint32]*command), lastCmd: -1,
		tidy: time.AfterFunc(time.Hour, tidyUp),
	}
	s.tidy.Stop()
	defer s.tidy.Stop()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.policy == nil {
		s.policy = &Policy{}
	}
	s.ctl = s.link.Stream(fsyscall.StreamControl)
	stop := s.watchContext()
	err := s.begin()
	if err == nil {
		<-s.ctx.Done()
		err = s.failure()
	}
	clean := s.takeDown(err)
	stop()
	if !clean {
		return errors.Join(quiet(err), errStuck)
	}
	return quiet(err)
}

// errStuck is returned when processes of the session cannot be killed while
// this one lives. Its end closes the FUSE descriptor, and so frees them.
var errStuck = errors.New("processes of the session hang in the client's files")

// watchContext ends the session when the caller's context is done.
func (s *session) watchContext() (stop func()) {
	ctx := s.opts.Context
	if ctx == nil {
		return func() {}
	}
	undo := context.AfterFunc(ctx, func() {
		err := errors.New("told to end by a signal")
		s.end(err)
		s.link.Abort(err)
	})
	return func() { undo() }
}

// end ends the session; the first reason counts. A nil reason is the client's
// wish.
func (s *session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended, s.err = true, err
		s.cancel()
	}
}

func (s *session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// begin reads the hello and starts everything. An error ends the session.
func (s *session) begin() error {
	if err := s.readHello(); err != nil {
		return err
	}
	view := s.hello.View
	if s.policy.ForcedCommand != "" {
		var err error
		if view, err = forcedView(); err != nil {
			return asFatal(err)
		}
	}
	plan, err := namespace.NewPlan(view)
	if err != nil {
		return &fatalError{fsyscall.Fatal{Code: fsyscall.FatalProtocol, Detail: err.Error()}, err}
	}
	s.plan = plan
	if reason := s.policy.checkView(s.hello.View); reason != "" {
		return &fatalError{fsyscall.Fatal{Code: fsyscall.FatalDenied, Detail: reason}, errors.New(reason)}
	}
	s.login = s.findLogin()
	s.welcome()
	id := namespace.Identity{Name: s.login.name, UID: s.login.uid, GID: s.login.gid, Home: s.hello.Home, Shell: s.login.shell}
	if s.policy.ForcedCommand != "" {
		id.Home = s.login.home
	}
	if s.space, err = namespace.Start(namespace.Config{Identity: id, Plan: plan, Agent: lookup(s.opts.Environ, agentVariable)}); err != nil {
		return asFatal(err)
	}
	s.openCache()
	s.files = s.opts.NewFiles(FilesConfig{
		Link: s.link, Hello: s.hello, UID: s.login.uid, GID: s.login.gid,
		MappedIDs: !s.space.UserNamespace(), Mountpoints: plan.Mountpoints(), Hidden: plan.Hidden(),
		Links: plan.Links(),
		Cache: s.cache,
	})
	s.wg.Go(s.events)
	s.wg.Go(s.control)
	s.wg.Go(s.setUp)
	s.listen()
	return nil
}

// listen has the link take further byte streams of the client. A session that
// cannot have them goes on with one.
func (s *session) listen() {
	if s.hello.Secret == (handover.Secret{}) {
		return // it has none in mind
	}
	joins, err := handover.Listen(s.opts.Environ, s.hello.Secret, func(rw io.ReadWriteCloser) {
		_ = s.link.Attach(rw) // or it is closed: the client sees that
	})
	if err != nil {
		s.note(err.Error())
		return
	}
	s.joins = joins
}

// setUp serves the files and waits for the view.
func (s *session) setUp() {
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	dev, err := s.space.Device(ctx)
	if err != nil {
		s.end(asFatal(err))
		return
	}
	s.served = make(chan struct{})
	go s.serveFiles(dev)
	notes, err := s.space.Ready(ctx)
	if err != nil {
		s.end(asFatal(err))
		return
	}
	s.note(notes...)
	close(s.ready)
}

// serveFiles serves the mount until it is gone.
func (s *session) serveFiles(dev *os.File) {
	defer close(s.served)
	if err := s.files.Serve(dev); err != nil {
		s.end(&fatalError{fsyscall.Fatal{Code: fsyscall.FatalFUSE, Detail: clip(err.Error())}, fmt.Errorf("serve FUSE: %w", err)})
		return
	}
	// The mount goes with the last process; then init's end is the reason.
	select {
	case <-s.space.Gone():
	case <-s.ctx.Done():
	case <-time.After(unmountTimeout):
		s.end(&fatalError{fsyscall.Fatal{Code: fsyscall.FatalFUSE, Detail: "the mount is gone"}, errors.New("somebody has unmounted the client's files")})
	}
}

// takeDown ends everything, in order; see the package comment. False means
// that only the end of this process will end the rest.
func (s *session) takeDown(err error) bool {
	s.end(err)
	var fatal *fatalError
	if s.joins != nil {
		_ = s.joins.Close() // a socket that cannot be removed hurts nobody
	}
	told := errors.As(err, &fatal) && s.send(fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpFatal}, &fatal.msg) == nil
	if s.space != nil {
		if !s.space.Close(s.grace(), func() { s.files.Close() }) {
			s.link.Abort(errStuck)
			return false
		}
		s.files.Close()
	}
	if err == nil || told {
		s.link.Close()
	} else {
		s.link.Abort(err)
		s.link.Wait()
	}
	s.wg.Wait()
	if s.served != nil {
		awaitUnmount(s.served)
	}
	if s.files != nil {
		s.files.Wait()
	}
	s.closeCache() // last: nobody waits for it any more
	return true
}

// awaitUnmount waits for the end of the file service. It is the kernel's to
// tell, and somebody who has entered the session's mount namespace delays it.
func awaitUnmount(served <-chan struct{}) {
	t := time.NewTimer(unmountTimeout)
	defer t.Stop()
	select {
	case <-served:
	case <-t.C:
	}
}

// note adds lines to --stats.
func (s *session) note(lines ...string) {
	s.mu.Lock()
	s.notes = append(s.notes, lines...)
	s.mu.Unlock()
}

// grace is what running commands get between SIGHUP and SIGKILL.
func (s *session) grace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.commands) == 0 {
		return 0
	}
	return hangupGrace
}

// fatalError is an error that the client is told of with a Fatal.
type fatalError struct {
	msg fsyscall.Fatal
	err error
}

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

func asFatal(err error) error {
	var f *namespace.Failure
	if errors.As(err, &f) {
		return &fatalError{*f.Fatal(), err}
	}
	return &fatalError{fsyscall.Fatal{Code: fsyscall.FatalInternal, Detail: err.Error()}, err}
}

// quiet drops errors that are an ordinary way for a client to go.
func quiet(err error) error {
	if errors.Is(err, relay.ErrClosed) || errors.Is(err, relay.ErrAborted) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
