package namespace

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// receive reads init's packets until init is gone.
func (s *Space) receive() {
	buf := make([]byte, maxPacket)
	for {
		b, files, err := readPacket(s.socket, buf)
		if err != nil {
			closeAll(files)
			return
		}
		if !s.handle(b[0], &decoder{b: b[1:]}, files) {
			return
		}
	}
}

// handle takes one packet and owns its descriptors. It returns false after the
// last one.
func (s *Space) handle(kind uint8, d *decoder, files []int) bool {
	var file *os.File
	if len(files) > 0 {
		file = os.NewFile(uintptr(files[0]), "init's")
		closeAll(files[1:])
	}
	var ev Event
	switch kind {
	case pktDevice:
		if file != nil && len(s.device) == 0 {
			s.device <- file
			return true
		}
	case pktReady:
		s.notes = d.strings()
		if !isClosed(s.ready) {
			close(s.ready)
		}
		return true
	case pktFailed:
		s.failure = decodeFailure(d)
	case pktStarted:
		ev = Event{Kind: Started, Cmd: d.u32(), Stage: fsyscall.ExecStage(d.u8()), Errno: fsyscall.Errno(d.u32()), PID: d.u32(), Master: file}
		file = nil
	case pktStopped:
		ev = Event{Kind: Stopped, Cmd: d.u32(), Signal: d.u8()}
	case pktEnded:
		ev = ended(d)
	}
	if file != nil {
		file.Close()
	}
	if d.err != nil || ev.Kind == 0 {
		return false
	}
	s.events <- ev
	return true
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func ended(d *decoder) Event {
	ev := Event{Kind: Ended, Cmd: d.u32()}
	ws := unix.WaitStatus(d.u32())
	for i := range ev.Off {
		ev.Off[i] = d.u64()
	}
	if ws.Signaled() {
		ev.Signal, ev.Core = uint8(ws.Signal()), ws.CoreDump()
	} else {
		ev.Code = uint8(ws.ExitStatus())
	}
	return ev
}

// UserNamespace tells whether the session has one, in which only its own uid
// and gid are valid.
func (s *Space) UserNamespace() bool { return s.userns }

// Device waits for the mounted /dev/fuse descriptor, which is then the
// caller's. The kernel aborts the mount when it is closed.
func (s *Space) Device(ctx context.Context) (*os.File, error) {
	select {
	case f := <-s.device:
		return f, nil
	case <-s.gone:
		return nil, s.lost()
	case <-ctx.Done():
		return nil, failure(fsyscall.FatalInternal, "wait for the FUSE descriptor", "", unix.ETIMEDOUT)
	}
}

// Ready waits until the view is there and commands can run. The notes say what
// is not as it should be, a line each.
func (s *Space) Ready(ctx context.Context) (notes []string, err error) {
	select {
	case <-s.ready:
		return s.notes, nil
	case <-s.gone:
		return nil, s.lost()
	case <-ctx.Done():
		return nil, failure(fsyscall.FatalView, "wait for the view", "", unix.ETIMEDOUT)
	}
}

// lost says why init is gone.
func (s *Space) lost() *Failure {
	if s.failure != nil {
		return s.failure
	}
	f := &Failure{Code: fsyscall.FatalInit, Step: "the session's first process ended"}
	if said := s.stderr.firstLine(); said != "" {
		f.Note = said
	}
	return f
}

// Events returns the news of all commands; it must be received until it is
// closed, which happens when init is gone.
func (s *Space) Events() <-chan Event { return s.events }

// Failure says why the events ended. It may be called after they did.
func (s *Space) Failure() *Failure {
	<-s.gone
	return s.lost()
}

// Command is a command to run.
type Command struct {
	// Exec is the client's request as far as the server carries it out.
	Exec *fsyscall.Exec
	// Path is where programs are looked for; Shell is run when there is no
	// argv.
	Path, Shell string
	// Hidden has, for each stream of kind StdioFile, its path below the root
	// of FUSE.
	Hidden [3]string
	// Files has the command's end of each stream of kind StdioStreamed that is
	// not a duplicate. Run closes them.
	Files [3]*os.File
}

// Run starts a command; a Started event tells how that went. An error means
// that nothing was started and no event comes: E2BIG where the request is too
// large, anything else where init is gone.
func (s *Space) Run(c Command) error {
	defer func() {
		for _, f := range c.Files {
			if f != nil {
				f.Close()
			}
		}
	}()
	sp := spec{exec: *c.Exec, path: c.Path, shell: c.Shell, hidden: c.Hidden, keep: !s.userns}
	b, err := sp.encode()
	if err != nil {
		return unix.E2BIG
	}
	f, err := memoryFile("command", b)
	if err != nil {
		return err
	}
	defer f.Close()
	files := []int{int(f.Fd())}
	for i, st := range c.Exec.Stdio {
		if st.Kind == fsyscall.StdioStreamed && st.DupOf < 0 {
			if c.Files[i] == nil {
				return unix.EBADF
			}
			files = append(files, int(c.Files[i].Fd()))
		}
	}
	return s.order([]byte{pktRun}, files...)
}

// order sends one packet to init.
func (s *Space) order(b []byte, files ...int) error {
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	_, _, err := s.socket.WriteMsgUnix(b, rights, nil)
	return err
}

// Signal sends sig to the foreground process group of a command's terminal, or
// to the command's own process group. A command that is not there is no error:
// it may just have ended.
func (s *Space) Signal(cmd uint32, sig uint8) error {
	e := encoder{b: []byte{pktSignal}}
	e.u32(cmd)
	e.u8(sig)
	return s.order(e.b)
}

// Winsize sets the size of a command's terminal.
func (s *Space) Winsize(cmd uint32, size fsyscall.Size) error {
	e := encoder{b: []byte{pktWinsize}}
	e.u32(cmd)
	for _, v := range []uint16{size.Rows, size.Cols, size.XPixel, size.YPixel} {
		e.u32(uint32(v))
	}
	return s.order(e.b)
}

// Close ends the session: every process gets SIGHUP and, after grace, SIGKILL.
// It returns when init is reaped, and with it every process of the session.
// Where init does not go within killAfter more, abort is called; it must make
// the service of FUSE answer what it was asked, which is all that a killed
// process can still wait for. False means that even that did not help: the
// caller must exit, and its end closes the FUSE descriptor. Events must be
// received meanwhile.
func (s *Space) Close(grace time.Duration, abort func()) bool {
	s.closing.Do(func() {
		e := encoder{b: []byte{pktClose}}
		e.u32(uint32(grace.Milliseconds()))
		s.order(e.b)
		if s.goneWithin(grace + killAfter) {
			return
		}
		// The end of its socket makes init exit, and receive kill it.
		s.socket.Close()
		abort()
		s.goneWithin(killAfter)
	})
	if !isClosed(s.gone) {
		return false
	}
	s.socket.Close()
	select {
	case f := <-s.device:
		f.Close() // nobody had asked for it
	default:
	}
	return true
}

func (s *Space) goneWithin(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.gone:
		return true
	case <-t.C:
		return false
	}
}

// killAfter is what init may take to exit, with every process of the session,
// before the files are taken away under them.
const killAfter = time.Second

// tail keeps the first bytes that init writes to its standard error, which is
// only ever the Go runtime reporting a bug.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const maxTail = 4 << 10

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[:min(len(p), maxTail-len(t.buf))]...)
	return len(p), nil
}

func (t *tail) firstLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	line, _, _ := strings.Cut(string(t.buf), "\n")
	return line
}

// Gone is closed when init, and with it every process of the session, is gone,
// and every event was put into Events.
func (s *Space) Gone() <-chan struct{} { return s.gone }
