package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// Files says how to start the file service.
type Files struct {
	// Path of the fslave program; empty: FindProgram("fslave").
	Path string
	// Args come before those that the session adds. They are visible to
	// every user of the machine, so nothing secret may be among them.
	Args []string
	// Lend: further commands will have standard streams that are files.
	Lend bool
	// Line gets each line that fslave writes to its standard error, without
	// its end and cut to maxFilesLine bytes. May be nil.
	Line func(string)
}

const (
	// maxFilesLine bounds a line of fslave's standard error.
	maxFilesLine = 1024
	// filesGrace is how long fslave may take to end after end of file: it
	// has answered everything by then.
	filesGrace = 2 * time.Second
	// filesBuffer is what the socket to fslave should hold: a few answers of
	// the largest read, so that fslave works on while one is passed on. The
	// kernel grants an ordinary user what net.core.wmem_max says.
	filesBuffer = 1 << 20
)

// filesEnv are the variables that fslave gets: what decides which of the
// user's files are kept from the server, and nothing that leads to keys.
var filesEnv = [...]string{"HOME", "USER", "LOGNAME", "PWD", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"}

// fileService is the process that serves the user's files.
type fileService struct {
	cmd  *exec.Cmd
	conn *relay.Pipes
	lent *lender // nil unless Files.Lend
	line func(string)

	wg     sync.WaitGroup
	ended  chan struct{} // closed when the process was reaped
	status error         // how it ended; valid once ended is closed
	stopMu sync.Mutex
	quit   bool // stop was called: its end is expected
}

// startFiles starts fslave over a socketpair on its descriptors 0 and 1. Files
// among the standard streams are inherited from descriptor 3 on.
func startFiles(cfg Files, stdio map[int]int) (*fileService, error) {
	path := cfg.Path
	if path == "" {
		var err error
		if path, err = FindProgram("fslave"); err != nil {
			return nil, err
		}
	}
	ours, theirs, err := filesSocket()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer errWrite.Close()

	f := &fileService{conn: ours, line: cfg.Line, ended: make(chan struct{})}
	f.cmd = exec.Command(path, cfg.Args...)
	f.cmd.Stdin, f.cmd.Stdout, f.cmd.Stderr = theirs, theirs, errWrite
	f.cmd.Env = filterEnv(os.Environ(), filesEnv[:])
	// Its own session: keys typed at the terminal signal the command, never
	// the service, and it cannot reach the terminal.
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	dups, err := f.inherit(stdio)
	if err == nil && cfg.Lend {
		dups, err = f.inheritLender(dups)
	}
	defer closeAll(dups)
	if err == nil {
		err = startUnhurried(f.cmd)
	}
	if err != nil {
		f.closeConns()
		errRead.Close()
		return nil, err
	}
	f.wg.Go(func() { f.relayLines(errRead) })
	f.wg.Go(func() {
		f.status = f.cmd.Wait()
		close(f.ended)
	})
	return f, nil
}

// monitorSlack is how late the timers of fslave may be, in nanoseconds. Whatever
// it does is a system call, during which Go's monitor thread would look at it
// every 20 us: that took as much processor time as the half of its work.
// Nothing in fslave waits for less than milliseconds.
const monitorSlack = 500_000

// startUnhurried starts a program whose timers may be late by monitorSlack,
// which is inherited from the thread that makes the process; see
// PR_SET_TIMERSLACK in prctl(2).
func startUnhurried(c *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil && unix.Prctl(unix.PR_SET_TIMERSLACK, monitorSlack, 0, 0, 0) == nil {
		defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
	}
	return c.Start()
}

// filesSocket returns both ends of a socketpair. A socket is faster than two
// pipes of the same size: 1 GiB took 6.1 s of processor time in all processes
// where pipes took 7.0.
func filesSocket() (ours *relay.Pipes, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socketpair: %w", err)
	}
	for _, fd := range pair {
		for _, opt := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, filesBuffer) // a wish
		}
	}
	file, theirs := os.NewFile(uintptr(pair[0]), "fslave"), os.NewFile(uintptr(pair[1]), "fslave")
	if ours, err = relay.NewPipes(file, file); err != nil {
		closeAll([]*os.File{file, theirs})
		return nil, nil, err
	}
	return ours, theirs, nil
}

// inherit adds the files among the standard streams, as --stdio SLOT=FD.
func (f *fileService) inherit(stdio map[int]int) ([]*os.File, error) {
	var dups []*os.File
	for slot := range 3 {
		fd, ok := stdio[slot]
		if !ok {
			continue
		}
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return dups, fmt.Errorf("cannot hand over standard stream %d: %w", slot, err)
		}
		file := os.NewFile(uintptr(dup), "stdio")
		dups = append(dups, file)
		f.cmd.Args = append(f.cmd.Args, "--stdio", fmt.Sprintf("%d=%d", slot, 3+len(f.cmd.ExtraFiles)))
		f.cmd.ExtraFiles = append(f.cmd.ExtraFiles, file)
	}
	return dups, nil
}

// inheritLender adds the socket on which further files will be lent, as
// --lent FD.
func (f *fileService) inheritLender(dups []*os.File) ([]*os.File, error) {
	lent, theirs, err := newLender()
	if err != nil {
		return dups, err
	}
	f.lent = lent
	f.cmd.Args = append(f.cmd.Args, "--lent", fmt.Sprint(3+len(f.cmd.ExtraFiles)))
	f.cmd.ExtraFiles = append(f.cmd.ExtraFiles, theirs)
	return append(dups, theirs), nil
}

func (f *fileService) closeConns() {
	f.conn.Close()
	if f.lent != nil {
		f.lent.close()
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func filterEnv(environ, names []string) []string {
	var env []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		for _, n := range names {
			if n == name {
				env = append(env, kv)
			}
		}
	}
	return env
}

// relayLines passes on what fslave writes to its standard error.
func (f *fileService) relayLines(r *os.File) {
	defer r.Close()
	br := bufio.NewReaderSize(r, maxFilesLine)
	skipping := false
	for {
		line, err := br.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); text != "" && !skipping && f.line != nil {
			f.line(text)
		}
		skipping = errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !skipping {
			return
		}
	}
}

// serve joins fslave to the link, having asked it what first has, and calls passed
// with the headers of its answers once these are on their way. It returns
// an error only when fslave ended of itself; the link's own end is told
// elsewhere.
func (f *fileService) serve(link *relay.Link, first [][]byte, passed func(fsyscall.Header)) error {
	conn := relay.NewMessageConn(f.conn)
	for _, m := range first {
		if conn.WriteMessage(m) != nil {
			break // it has ended, which Splice finds out
		}
	}
	spliceErr := relay.Splice(link, conn, passed)
	for _, e := range []error{relay.ErrLost, relay.ErrClosed, relay.ErrProtocol, relay.ErrAborted, relay.ErrNotNexec, relay.ErrVersion} {
		if errors.Is(spliceErr, e) || spliceErr == nil {
			return nil
		}
	}
	f.conn.Close() // if it still runs, it ends
	f.reap()
	f.stopMu.Lock()
	defer f.stopMu.Unlock()
	switch {
	case f.quit:
		return nil
	case f.status != nil:
		return f.status
	case !errors.Is(spliceErr, io.EOF):
		return spliceErr
	}
	return errors.New("it ended before the session did")
}

// reap waits until fslave has ended, and sees to it that it does.
func (f *fileService) reap() {
	select {
	case <-f.ended:
	case <-time.After(filesGrace):
		_ = f.cmd.Process.Kill() // it may have ended meanwhile
		<-f.ended
	}
}

// stop ends fslave and returns when it was reaped.
func (f *fileService) stop() {
	f.stopMu.Lock()
	f.quit = true
	f.stopMu.Unlock()
	f.closeConns()
	f.reap()
	f.wg.Wait()
}

// FindProgram finds one of the project's programs: beside this one, in
// ../libexec/nexec or ../lib/nexec as installed, or in PATH.
func FindProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		dir := filepath.Dir(self)
		for _, p := range []string{
			filepath.Join(dir, name),
			filepath.Join(dir, "../libexec/nexec", name),
			filepath.Join(dir, "../lib/nexec", name),
		} {
			if unix.Access(p, unix.X_OK) == nil {
				return p, nil
			}
		}
	}
	return exec.LookPath(name)
}
