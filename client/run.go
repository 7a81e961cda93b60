package client

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Config describes a session of one command.
type Config struct {
	Session  SessionConfig
	Argv     []string // empty: the login shell
	Env      EnvRules
	Terminal TerminalUse
	// NoInput: the command's standard input is /dev/null, as ssh -n.
	NoInput bool
	// Guard are the arguments, the program's name first, with which this
	// program calls RunGuard. Nil: nobody looks after the terminal when this
	// process is killed.
	Guard []string
	// Refine may change the fields above once the byte stream is open, by
	// what the way there said. May be nil.
	Refine func(*Config)
}

// Result is how a command, or the attempt at one, ended.
type Result struct {
	// Err is set when nexec could not do its job: Code and Signal are then
	// meaningless, except that Signal says which signal ended nexec itself.
	Err error
	// Signal ended the command; zero: it exited with Code.
	Signal unix.Signal
	Code   int
	Core   bool
	// Lost are changes that did not reach this machine's disk.
	Lost      []fsyscall.LostWrite
	LostCount uint32
	// OutputErr: output of the command was lost on this side.
	OutputErr error
	Stats     Stats
}

// Stats are the numbers of --stats.
type Stats struct {
	Server              string // the server's text; not made printable
	BytesIn, BytesOut   uint64
	PlainIn, PlainOut   uint64 // without compression
	FramesIn, FramesOut uint64
	RTT                 time.Duration
	Connected, Total    time.Duration // until the link was open, and in all
	// Joined: the session is that of a master. The server's numbers are those
	// of the time that the command took, other commands of that time with it;
	// the client's are those of the link to the master.
	Joined bool
}

// run is what Run knows.
type run struct {
	cfg     Config
	self    self
	cwd     string
	fds     [3]int
	closed  [3]bool // when nexec was started
	stdio   *stdioSet
	tty     *terminal
	signals chan os.Signal
	began   time.Time

	session *Session
	command *Command
	stats   Stats

	caughtEarly unix.Signal
	exit        *fsyscall.Exit

	worksets *worksets // nil: nothing is kept
	keys     []string
	foresaw  chan struct{} // closed when expected is there
	expected []fsyscall.Use
	deaf     deafness
}

const (
	// hangupGrace is how long a command may outlive the terminal that it was
	// typed at.
	hangupGrace = 3 * time.Second
	// openGrace is how long an Opener may take to give up when told to.
	openGrace = 2 * time.Second
)

// Run runs one command in a session of its own and returns when everything of
// it on this machine has ended. It must not run twice at once: it owns the
// process's signals and standard streams.
func Run(ctx context.Context, cfg Config) Result {
	r := &run{
		cfg: cfg, fds: [3]int{0, 1, 2}, closed: closedStreams(), began: time.Now(),
		tty:     newTerminal(-1, false),
		signals: make(chan os.Signal, 64), // bursts; the loop never waits long
	}
	return r.finish(r.start(ctx))
}

// start connects, sends the command off and waits for its end.
func (r *run) start(ctx context.Context) error {
	var err error
	if r.self, err = inspectSelf(); err != nil {
		return err
	}
	if r.cwd, err = os.Getwd(); err != nil { // $PWD if it is the same directory
		return &CwdError{err}
	}
	r.foresee()
	// Only to know the files: the rest may yet be refined.
	r.stdio = classify(r.fds, r.closed, TerminalAuto)
	if err := r.connect(ctx); err != nil {
		return err
	}
	exec, err := r.prepare()
	if err != nil {
		return err
	}
	r.self.catch(r.signals, forwarded())
	if r.command, err = r.session.Exec(exec, r.stdio, r.fds, r.tty); err != nil {
		return err
	}
	return r.loop()
}

// prepare settles what the command gets, once the way there is known.
func (r *run) prepare() (*fsyscall.Exec, error) {
	if r.cfg.Refine != nil {
		r.cfg.Refine(&r.cfg)
	}
	if r.cfg.NoInput {
		if err := nullInput(r.fds[0]); err != nil {
			return nil, err
		}
		r.closed[0] = false
	}
	r.stdio = classify(r.fds, r.closed, r.cfg.Terminal)
	if r.stdio.hasTerminal() {
		r.tty = newTerminal(r.stdio.tty, r.wantsRaw())
		r.tty.watch = func(fd int) *guard { return startGuard(r.cfg.Guard, fd) }
	}
	return r.makeExec(), nil
}

// wantsRaw tells whether keys are to go to the server unprocessed; see
// terminal.
func (r *run) wantsRaw() bool {
	if !r.stdio.terminal(0) || !isTerminal(r.fds[0]) {
		return false
	}
	return r.stdio.terminal(1) || r.cfg.Terminal == TerminalWanted || r.cfg.Terminal == TerminalForced
}

func nullInput(fd int) error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open /dev/null: %w", err)
	}
	defer unix.Close(null)
	if null == fd {
		return nil
	}
	return unix.Dup3(null, fd, 0)
}

func (r *run) makeExec() *fsyscall.Exec {
	e := &fsyscall.Exec{
		Argv: r.cfg.Argv, Env: r.cfg.Env.Environment(os.Environ()), Cwd: r.cwd,
		Umask: r.self.umask, Limits: limits(), Ignored: r.self.ignored, Stdio: r.stdio.wire,
	}
	if r.stdio.hasTerminal() {
		e.HasTerminal = true
		e.Terminal = r.tty.describe()
	}
	<-r.foresaw
	e.Expected = r.expected
	return e
}

// connect starts the session. A signal while it does ends nexec by it.
func (r *run) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.self.catch(r.signals, early)
	type started struct {
		s   *Session
		err error
	}
	done := make(chan started, 1)
	go func() {
		s, err := startOrJoin(ctx, r.cfg.Session, r.stdio.fileDescriptors(r.fds))
		done <- started{s, err}
	}()
	var giveUp <-chan time.Time
	for {
		select {
		case st := <-done:
			r.session = st.s
			r.stats.Connected = time.Since(r.began)
			if r.caughtEarly != 0 {
				return &InterruptedError{r.caughtEarly}
			}
			return st.err
		case sig := <-r.signals:
			if r.caughtEarly == 0 {
				r.caughtEarly = sig.(unix.Signal)
				cancel()
				giveUp = time.After(openGrace)
			}
		case <-giveUp:
			// The opener hangs in something that cannot be cancelled; the
			// process is about to end, and it with it.
			return &InterruptedError{r.caughtEarly}
		}
	}
}

// loop decides what happens until the command has ended and all it wrote was
// delivered.
func (r *run) loop() error {
	c := r.command
	hangup, dead := c.hangup, r.session.Dead()
	var flushed <-chan struct{}
	var hangupOver <-chan time.Time
	for {
		select {
		case reply := <-c.reply:
			if err := r.started(reply); err != nil {
				return err
			}
		case st := <-c.stopped:
			r.stop(unix.Signal(st.Sig))
		case e := <-c.exit:
			// The terminal stays as it is until all output has come.
			r.exit = &e
			flushed = c.flushed
		case <-flushed:
			return nil
		case sig := <-r.signals:
			if err := r.onSignal(sig.(unix.Signal)); err != nil {
				return err
			}
		case <-c.keys: // as a signal it went to the command with its key
			if r.exit != nil {
				return &InterruptedError{unix.SIGINT}
			}
			r.deaf.interrupted(r.session)
		case <-r.deaf.expired():
			if r.deaf.stillDeaf(r.session) {
				return &UnansweredError{}
			}
		case <-hangup:
			hangup = nil
			if !r.self.ignores(unix.SIGHUP) {
				c.Signal(unix.SIGHUP)
				hangupOver = time.After(hangupGrace)
			}
		case <-hangupOver:
			return &InterruptedError{unix.SIGHUP}
		case <-dead:
			dead = nil
			if err := r.died(); err != nil {
				return err
			}
			flushed = c.flushed
		}
	}
}

func (r *run) started(reply fsyscall.ExecReply) error {
	if reply.Stage == fsyscall.ExecStarted {
		return nil
	}
	return &ExecError{reply.Stage, unix.Errno(reply.Errno), argv0(r.cfg.Argv), r.cwd}
}

// died tells why the session ended early. It is no loss when the command's
// exit came with it: then only output is left to deliver.
func (r *run) died() error {
	select {
	case reply := <-r.command.reply:
		if err := r.started(reply); err != nil {
			return err
		}
	default:
	}
	select {
	case e := <-r.command.exit:
		r.exit = &e
	default:
	}
	if r.exit != nil {
		return nil
	}
	return r.session.Err()
}

func (r *run) onSignal(sig unix.Signal) error {
	switch sig {
	case unix.SIGWINCH:
		r.command.Resize(r.tty.size())
		return nil
	case unix.SIGCONT:
		// Stopped by something that cannot be caught, and back.
		r.resumed()
		return nil
	}
	ends := slices.Contains(early, sig)
	if ends && (r.exit != nil || r.session.Welcome() == nil) {
		// There is no command yet that could be asked, or none any more: it
		// is for nexec itself.
		return &InterruptedError{sig}
	}
	if r.exit == nil {
		r.command.Signal(sig)
		if ends {
			r.deaf.interrupted(r.session)
		}
	}
	return nil
}

// stop follows the command's stopping: nexec stops as the command would have.
func (r *run) stop(sig unix.Signal) {
	raw := r.tty.isActive()
	r.tty.leave(true)
	stopSelf(sig, raw && sig == unix.SIGTSTP)
	r.resumed()
}

func (r *run) resumed() {
	r.tty.resume()
	r.command.Resize(r.tty.size())
	r.command.Signal(unix.SIGCONT)
}

// finish ends everything, in the order that the package comment gives, and
// says how it went.
func (r *run) finish(err error) Result {
	r.tty.leave(true)
	if r.command != nil {
		r.command.stop()
	}
	if r.session != nil {
		s := r.session.Stats()
		r.stats.BytesIn, r.stats.BytesOut = s.BytesIn, s.BytesOut
		r.stats.PlainIn, r.stats.PlainOut = s.PlainIn(), s.PlainOut()
		r.stats.FramesIn, r.stats.FramesOut, r.stats.RTT = s.FramesIn, s.FramesOut, s.RTT
		r.stats.Joined = r.session.files == nil
		r.session.Close()
	}
	if r.command != nil {
		r.command.join()
	}
	r.tty.close()
	r.remember()
	signal.Stop(r.signals)
	r.stats.Total = time.Since(r.began)
	return r.result(err)
}

func (r *run) result(err error) Result {
	res := Result{Err: err, Stats: r.stats}
	var sigErr *InterruptedError
	if asError(err, &sigErr) {
		res.Signal = sigErr.Signal
	}
	if r.exit == nil {
		return res
	}
	e := r.exit
	res.Stats.Server = string(e.Stats)
	res.Lost, res.LostCount = e.Lost, e.LostCount
	res.OutputErr = r.command.outputError()
	if err != nil {
		return res
	}
	res.Signal, res.Code, res.Core = unix.Signal(e.Signal), int(e.Code), e.Core
	if offErr := r.stdio.applyOffsets(r.fds, e.Off); offErr != nil && res.OutputErr == nil {
		res.OutputErr = offErr
	}
	return res
}
