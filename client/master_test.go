package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client/clienttest"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// stay is a master in this process whose server is the stand-in.
type stay struct {
	t       *testing.T
	null    int // /dev/null
	sockets *Sockets
	shared  *Shared
	cfg     MasterConfig
	ctx     context.Context
	end     context.CancelFunc
	ended   chan error // one for each master that was started
	started int
	served  sync.WaitGroup
}

func newStay(t *testing.T, server clienttest.Server) *stay {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	sockets, err := OpenSockets()
	if err != nil {
		t.Fatal(err)
	}
	s := &stay{t: t, null: mustOpen(t, "/dev/null", unix.O_RDWR), sockets: sockets, ended: make(chan error, 10)}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.cfg = MasterConfig{
		Session: SessionConfig{Files: catFiles, Open: func(context.Context) (io.ReadWriteCloser, error) {
			here, there := net.Pipe()
			s.served.Go(func() {
				if err := server.Serve(there); err != nil {
					t.Errorf("the server ended with %v", err)
				}
			})
			return here, nil
		}},
		Sockets: sockets, Name: "one", Host: "box", Say: func(err error) string { return err.Error() },
	}
	s.shared = &Shared{Sockets: sockets, Name: "one", Launch: s.launch}
	t.Cleanup(func() {
		s.end()
		for range s.started {
			s.wait()
		}
		s.served.Wait()
		if names, err := sockets.names(""); err != nil || len(names) > 0 {
			t.Errorf("left behind: %q, %v", names, err)
		}
		sockets.Close()
	})
	return s
}

// launch runs a master on a listener of its own, as another process would.
func (s *stay) launch(l *net.UnixListener) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	own, err := net.FileListener(f)
	if err != nil {
		return err
	}
	cfg := s.cfg
	cfg.Listener = own.(*net.UnixListener)
	cfg.Listener.SetUnlinkOnClose(false)
	s.started++
	go func() { s.ended <- RunMaster(s.ctx, cfg) }()
	return nil
}

func (s *stay) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		s.started--
		return err
	case <-time.After(10 * time.Second):
		s.t.Fatal("the master does not end")
		return nil
	}
}

// run runs a command in the session that stays.
func (s *stay) run(stdin int, argv ...string) (*fsyscall.Exit, fsyscall.ExecReply, error) {
	s.t.Helper()
	sess, err := join(context.Background(), s.shared, nil)
	if err != nil {
		return nil, fsyscall.ExecReply{}, err
	}
	fds := [3]int{stdin, s.null, s.null}
	if stdin < 0 {
		fds[0] = s.null
	}
	c, err := sess.Exec(&fsyscall.Exec{Argv: argv, Cwd: "/"}, classify(fds, [3]bool{}, TerminalAuto), fds, newTerminal(-1, false))
	if err != nil {
		sess.Close()
		return nil, fsyscall.ExecReply{}, err
	}
	defer c.join()
	defer sess.Close()
	defer c.stop()
	var reply fsyscall.ExecReply
	for {
		select {
		case reply = <-c.reply:
			if reply.Stage != fsyscall.ExecStarted {
				return nil, reply, nil
			}
		case e := <-c.exit:
			return &e, reply, nil
		case <-sess.Dead():
			return nil, reply, sess.Err()
		case <-time.After(10 * time.Second):
			s.t.Fatal("no exit")
		}
	}
}

// Two thousand commands, most with streams, some that cannot start: nothing of
// them stays in the session.
func TestMasterManyCommands(t *testing.T) {
	s := newStay(t, clienttest.Server{Exec: func(e *fsyscall.Exec) (fsyscall.ExecReply, *fsyscall.Exit) {
		if e.Argv[0] == "missing" {
			return fsyscall.ExecReply{Stage: fsyscall.ExecProgram, Errno: 2}, nil
		}
		return fsyscall.ExecReply{PID: 1}, &fsyscall.Exit{Code: uint8(e.Cmd)}
	}})
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[1])
	defer unix.Close(pipe[0])
	if _, _, err := s.run(-1, "true"); err != nil {
		t.Fatal(err)
	}
	before := countFDs(t)
	for i := 1; i < 2000; i++ {
		stdin := -1
		if i%2 == 0 {
			stdin = pipe[0]
		}
		if i%5 == 0 {
			if _, reply, err := s.run(stdin, "missing"); err != nil || reply.Errno != 2 {
				t.Fatalf("command %d: %+v, %v", i, reply, err)
			}
			continue
		}
		if e, _, err := s.run(stdin, "true"); err != nil || e.Code != uint8(i) {
			t.Fatalf("command %d: %+v, %v", i, e, err)
		}
	}
	all, err := s.sockets.Sessions("on")
	if err != nil || len(all) != 1 || all[0].Ran != 2000 || all[0].Commands != 0 || all[0].Host != "box" || all[0].PID != os.Getpid() {
		t.Errorf("%+v, %v", all, err)
	}
	if s.started != 1 {
		t.Errorf("%d masters", s.started)
	}
	for end := time.Now().Add(5 * time.Second); countFDs(t) > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d descriptors, %d before", countFDs(t), before)
			break
		}
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// What the way to the server fails with is said to everybody who waits for it,
// and nobody tries again.
func TestMasterCannotOpen(t *testing.T) {
	s := newStay(t, clienttest.Server{})
	joined := make(chan struct{})
	s.cfg.Session.Open = func(context.Context) (io.ReadWriteCloser, error) {
		<-joined
		return nil, errors.New("no way there")
	}
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := join(context.Background(), s.shared, nil)
			errs <- err
		}()
		time.Sleep(50 * time.Millisecond) // the second finds the first's master
	}
	close(joined)
	for range 2 {
		err := <-errs
		var open *OpenError
		if !errors.As(err, &open) || !strings.Contains(err.Error(), "no way there") {
			t.Errorf("ended with %v", err)
		}
	}
	if err := s.wait(); err == nil || !strings.Contains(err.Error(), "no way there") {
		t.Errorf("the master ended with %v", err)
	}
}

// A way that cannot say whether it leads anywhere: who waits does without it.
func TestMasterUnsure(t *testing.T) {
	s := newStay(t, clienttest.Server{})
	s.cfg.Unsure = true
	s.cfg.Session.Open = func(context.Context) (io.ReadWriteCloser, error) {
		here, there := net.Pipe()
		there.Close()
		return here, nil
	}
	if _, err := join(context.Background(), s.shared, nil); !errors.Is(err, errNoMaster) {
		t.Errorf("ended with %v", err)
	}
	if err := s.wait(); err == nil {
		t.Error("the master ended without an error")
	}
}

// Nobody waits any more: the attempt is given up.
func TestMasterAbandoned(t *testing.T) {
	s := newStay(t, clienttest.Server{})
	s.cfg.Session.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := join(ctx, s.shared, nil); !errors.Is(err, errNoMaster) {
		t.Errorf("ended with %v", err)
	}
	if err := s.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("the master ended with %v", err)
	}
}

// What other processes of the user may send does a session no harm.
func TestMasterHostileClients(t *testing.T) {
	s := newStay(t, clienttest.Server{})
	if _, _, err := s.run(-1, "true"); err != nil {
		t.Fatal(err)
	}
	short := func(body string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	for name, bytes := range map[string][]byte{
		"nothing": nil, "noise": []byte("GET / HTTP/1.0\r\n\r\n"), "too long": {0xff, 0xff, 0xff, 0x7f},
		"truncated": short(`{"Op":"run"}`)[:9], "no JSON": short("run"), "no such thing": short(`{"Op":"dance"}`),
		"files that did not come": short(`{"Op":"run","Slots":[0,1,2]}`),
		"no link":                 append(short(`{"Op":"run"}`), "this is no link, but it is long enough to be looked at"...),
	} {
		conn, err := s.sockets.dial("one")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := conn.Write(bytes); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the connection stays: %v", name, err)
		}
		conn.Close()
	}
	exec := message(t, fsyscall.KindCall, fsyscall.OpExec, 0, &fsyscall.Exec{Argv: []string{"true"}, Cwd: "/"})
	for name, msgs := range map[string][][]byte{
		"no exec":         {message(t, fsyscall.KindNotice, fsyscall.OpSignal, 0, &fsyscall.Signal{Sig: 9})},
		"noise":           {[]byte("noise")},
		"a second exec":   {exec, exec},
		"hello":           {message(t, fsyscall.KindNotice, fsyscall.OpHello, 0, &fsyscall.Hello{Version: fsyscall.Version})},
		"a file call":     {exec, message(t, fsyscall.KindCall, fsyscall.OpLookup, 1, &fsyscall.Lookup{Dir: 1, Name: "x", ID: 2})},
		"another's end":   {exec, message(t, fsyscall.KindNotice, fsyscall.OpSignal, 0, &fsyscall.Signal{Cmd: 5, Sig: 9})},
		"a failed answer": {{byte(fsyscall.KindReply), byte(fsyscall.OpExec), 0, 5, 0, 0, 0, 0, 0}},
	} {
		conn, err := s.sockets.dial("one")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ans, err := ask(conn, opRun, nil); err != nil || !ans.OK {
			t.Fatalf("%s: %+v, %v", name, ans, err)
		}
		link := relay.New(conn, localLink())
		for _, m := range msgs {
			_ = link.Stream(fsyscall.StreamControl).WriteMessage(m) // it may be refused already
		}
		time.Sleep(20 * time.Millisecond)
		link.Abort(errSessionOver)
		_ = link.Wait()
	}
	if e, _, err := s.run(-1, "sh", "-c", "exit 4"); err != nil || e.Code != 4 {
		t.Errorf("afterwards: %+v, %v", e, err)
	}
	if s.started != 1 {
		t.Errorf("%d masters", s.started)
	}
}

// An idle master goes, and whoever comes at that moment gets a new one or
// none, but never an error.
func TestMasterIdle(t *testing.T) {
	s := newStay(t, clienttest.Server{})
	s.cfg.Idle = 5 * time.Millisecond
	for i := range 40 {
		e, _, err := s.run(-1, "sh", "-c", "exit 3")
		if err != nil && !errors.Is(err, errNoMaster) {
			t.Fatalf("round %d: %v", i, err)
		}
		if err == nil && e.Code != 3 {
			t.Fatalf("round %d: %+v", i, e)
		}
		for len(s.ended) > 0 {
			if err := s.wait(); err != nil {
				t.Errorf("a master ended with %v", err)
			}
		}
		time.Sleep(time.Duration(i%10) * time.Millisecond)
	}
}

func TestMasterIsToldToEnd(t *testing.T) {
	s := newStay(t, clienttest.Server{})
	done := make(chan error, 1)
	go func() {
		_, _, err := s.run(-1, "sleep", "100")
		done <- err
	}()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if all, err := s.sockets.Sessions(""); err == nil && len(all) == 1 && all[0].Commands == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no command runs")
		}
	}
	if all, err := s.sockets.EndSessions("one"); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	var said *SaidError
	if err := <-done; !errors.As(err, &said) {
		t.Errorf("the command ended with %v", err)
	}
	if err := s.wait(); err != errMasterExit && !errors.Is(err, errMasterExit) {
		t.Errorf("the master ended with %v", err)
	}
}

func TestSocketsDirectory(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	s, err := OpenSockets()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if fi, err := os.Stat(base + "/nexec"); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	if err := os.Chmod(base+"/nexec", 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSockets(); err == nil {
		t.Error("a directory that others can enter was taken")
	}
	if err := os.Rename(base+"/nexec", base+"/real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(base+"/real", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base+"/real", base+"/nexec"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSockets(); err == nil {
		t.Error("a link was followed")
	}
	if os.Geteuid() == 0 {
		if err := os.Remove(base + "/nexec"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(base+"/nexec", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(base+"/nexec", 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSockets(); err == nil {
			t.Error("somebody else's directory was taken")
		}
	}
}
