package subsystem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

func TestMain(m *testing.M) {
	namespace.Main()
	if os.Args[0] == serverName {
		serverMain()
	}
	os.Exit(m.Run())
}

// localFiles is a Files that serves a directory of this machine.
type localFiles struct {
	dir  string
	cfg  FilesConfig
	lost []fsyscall.LostWrite
	// stall, if not nil, holds up every open until it is closed, whatever
	// becomes of the session.
	stall chan struct{}
	// settled, if not nil, holds up what Settle has returned for the wait; after is
	// the tag that it returns.
	settled chan struct{}

	mu     sync.Mutex
	after  uint32
	synced int
	waited int  // calls of Wait
	early  bool // one of them came before the end of the link
}

func (f *localFiles) Serve(dev *os.File) error {
	for p, text := range f.cfg.Links {
		os.MkdirAll(filepath.Dir(f.dir+p), 0o755)
		os.Symlink(text, f.dir+p)
	}
	for p, isDir := range f.cfg.Mountpoints {
		if isDir {
			os.MkdirAll(f.dir+p, 0o755)
		} else {
			os.MkdirAll(filepath.Dir(f.dir+p), 0o755)
			os.WriteFile(f.dir+p, nil, 0o644)
		}
	}
	root, err := fs.NewLoopbackRoot(f.dir)
	if err != nil {
		return err
	}
	hour := time.Hour
	raw := fs.NewNodeFS(root, &fs.Options{EntryTimeout: &hour, AttrTimeout: &hour})
	if f.stall != nil {
		raw = &stalling{raw, f.stall}
	}
	// go-fuse closes the descriptor that it is given.
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	srv, err := fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{AllowOther: true, Logger: log.New(io.Discard, "", 0)})
	if err != nil {
		return err
	}
	srv.Serve()
	dev.Close()
	return nil
}

type stalling struct {
	fuse.RawFileSystem
	until chan struct{}
}

func (s *stalling) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	<-s.until
	return s.RawFileSystem.Open(cancel, in, out)
}

func (f *localFiles) Account(whole bool) func() []byte {
	return func() []byte { return fmt.Appendf(nil, "whole session: %v\n", whole) }
}

func (f *localFiles) StdioPath(cmd uint32, slot int) string {
	return fmt.Sprintf("stdio/%d.%d", cmd, slot)
}
func (f *localFiles) Prepare(string, bool)      {}
func (f *localFiles) Expect([]fsyscall.PathUse) {}
func (f *localFiles) Used() []fsyscall.PathUse  { return nil }
func (f *localFiles) Close() error              { return nil }
func (f *localFiles) Wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waited++
	f.early = f.early || f.cfg.Link.Err() == nil
}
func (f *localFiles) Settle() (uint32, func(context.Context) ([]fsyscall.LostWrite, int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.after, func(context.Context) ([]fsyscall.LostWrite, int, error) {
		if f.settled != nil {
			<-f.settled
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.synced++
		return f.lost, len(f.lost), nil
	}
}

func (f *localFiles) syncs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced
}

// client is the other end of a session, byte for byte what nexec sends.
type client struct {
	t     *testing.T
	dir   string // the client's root
	files *localFiles
	link  *relay.Link
	ctl   *relay.Stream
	ended chan error // what Serve returned
}

var defaultView = func() []fsyscall.ViewRule {
	v := []fsyscall.ViewRule{{Path: "/"}}
	for _, p := range []string{"/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/proc", "/run", "/sbin", "/sys", "/usr", "/var"} {
		v = append(v, fsyscall.ViewRule{Path: p, Remote: true})
	}
	return v
}()

func hello() *fsyscall.Hello {
	return &fsyscall.Hello{
		Version: fsyscall.Version, UID: 1000, GID: 1000, User: "u", Home: "/home/u", Hostname: "client",
		Now: fsyscall.Time{Sec: time.Now().Unix()}, View: defaultView,
	}
}

// streamPair is two connected byte streams whose Close unblocks.
func streamPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// connect starts a session without saying anything.
func connect(t *testing.T, opts Options, adjust ...func(*localFiles)) *client {
	t.Helper()
	ours, theirs := streamPair(t)
	c := &client{t: t, dir: t.TempDir(), ended: make(chan error, 1)}
	for _, d := range []string{"/tmp", "/home/u", "/stdio"} {
		if err := os.MkdirAll(c.dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.files = &localFiles{dir: c.dir}
	for _, f := range adjust {
		f(c.files)
	}
	if opts.NewFiles == nil {
		opts.NewFiles = func(cfg FilesConfig) Files { c.files.cfg = cfg; return c.files }
	}
	if opts.Environ == nil {
		opts.Environ = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	}
	go func() { c.ended <- Serve(theirs, opts) }()
	c.link = relay.New(ours, relay.Config{})
	c.ctl = c.link.Stream(fsyscall.StreamControl)
	t.Cleanup(c.hangUp)
	return c
}

// open starts a session and says hello.
func open(t *testing.T, opts Options, adjust ...func(*localFiles)) *client {
	t.Helper()
	c := connect(t, opts, adjust...)
	c.notice(fsyscall.OpHello, hello())
	return c
}

// hangUp ends the session from the client's side and waits for the server's.
func (c *client) hangUp() {
	c.link.Abort(errors.New("session over"))
	c.link.Wait()
	select {
	case err := <-c.ended:
		c.ended <- err
		if c.files.early || c.files.waited > 1 {
			c.t.Errorf("the files were waited for %d times, before the link's end: %v", c.files.waited, c.files.early)
		}
	case <-time.After(5 * time.Second):
		c.t.Error("the server's side is still there 5 s after the link's end")
	}
}

func (c *client) notice(op fsyscall.Op, m fsyscall.Message) {
	c.t.Helper()
	c.write(fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, m)
}

func (c *client) write(h fsyscall.Header, m fsyscall.Message) {
	c.t.Helper()
	b, err := fsyscall.AppendMessage(nil, h, m)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.ctl.WriteMessage(b); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next message of type T; a Welcome is skipped.
func next[T fsyscall.Message](c *client) T {
	c.t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { c.link.Abort(errors.New("test: no message for 20 s")) })
	defer timer.Stop()
	for {
		b, err := c.ctl.ReadMessage(nil)
		if err != nil {
			c.t.Fatalf("read a message: %v", err)
		}
		h, body, err := fsyscall.ParseHeader(b)
		if err != nil {
			c.t.Fatal(err)
		}
		m := h.NewBody()
		if err := fsyscall.Decode(body, m); err != nil {
			c.t.Fatal(err)
		}
		if w, ok := m.(T); ok {
			return w
		}
		if _, ok := m.(*fsyscall.Welcome); !ok {
			c.t.Fatalf("got %T %+v", m, m)
		}
	}
}

func request(cmd uint32, argv ...string) *fsyscall.Exec {
	streamed := fsyscall.Stdio{Kind: fsyscall.StdioStreamed, DupOf: -1}
	return &fsyscall.Exec{
		Cmd: cmd, Argv: argv, Env: []string{"HOME=/home/u"}, Cwd: "/home/u", Umask: 0o22,
		Stdio: [3]fsyscall.Stdio{{Kind: fsyscall.StdioNull, DupOf: -1}, streamed, streamed},
	}
}

func (c *client) exec(x *fsyscall.Exec) *fsyscall.ExecReply {
	c.t.Helper()
	c.write(fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec, Tag: x.Cmd}, x)
	return next[*fsyscall.ExecReply](c)
}

func (c *client) stream(cmd uint32, slot int) *relay.Stream {
	return c.link.Stream(fsyscall.StdioStream(cmd, slot))
}

// run runs a command to its end and returns what it wrote.
func (c *client) run(x *fsyscall.Exec) (stdout, stderr string, exit *fsyscall.Exit) {
	c.t.Helper()
	if r := c.exec(x); r.Stage != fsyscall.ExecStarted {
		c.t.Fatalf("%q: stage %d, errno %d", x.Argv, r.Stage, r.Errno)
	}
	var e []byte
	done := make(chan struct{})
	go func() {
		e, _ = io.ReadAll(c.stream(x.Cmd, 2))
		close(done)
	}()
	o, err := io.ReadAll(c.stream(x.Cmd, 1))
	if err != nil {
		c.t.Fatal(err)
	}
	<-done
	return string(o), string(e), next[*fsyscall.Exit](c)
}

func TestCommand(t *testing.T) {
	c := open(t, Options{})
	if err := os.WriteFile(c.dir+"/home/u/f", []byte("client's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, errOut, exit := c.run(request(0, "sh", "-c", "cat f; pwd; echo $HOME; echo oops >&2; echo new >g; exit 7"))
	if out != "client's\n/home/u\n/home/u\n" || errOut != "oops\n" || exit.Code != 7 || exit.Signal != 0 {
		t.Errorf("%q, %q, %+v", out, errOut, exit)
	}
	if b, err := os.ReadFile(c.dir + "/home/u/g"); string(b) != "new\n" {
		t.Errorf("file written: %q, %v", b, err)
	}
	if n := c.files.syncs(); n != 1 {
		t.Errorf("synced %d times", n)
	}
	// A second command of the same session.
	out, _, exit = c.run(request(1, "sh", "-c", "kill -TERM $$"))
	if exit.Signal != uint8(unix.SIGTERM) || exit.Code != 0 || out != "" {
		t.Errorf("%q, %+v", out, exit)
	}
	if c.hangUp(); c.files.waited != 1 {
		t.Errorf("the files were waited for %d times", c.files.waited)
	}
}

// TestUnsureExit: while changes are on their way the client is told what to look
// for, and then how it went. Where the server knows of a loss, it is told that only.
func TestUnsureExit(t *testing.T) {
	settled := make(chan struct{})
	c := open(t, Options{}, func(f *localFiles) {
		f.after, f.settled, f.lost = 77, settled, []fsyscall.LostWrite{{Path: "/x", Errno: 28}}
	})
	_, _, exit := c.run(request(0, "sh", "-c", "exit 3"))
	if exit.Sure || exit.After != 77 || exit.Code != 3 || exit.LostCount != 0 {
		t.Errorf("%+v", exit)
	}
	close(settled)
	if exit = next[*fsyscall.Exit](c); !exit.Sure || exit.After != 77 || exit.Code != 3 || exit.LostCount != 1 {
		t.Errorf("%+v", exit)
	}
	c.files.mu.Lock()
	c.files.after = 0
	c.files.mu.Unlock()
	if _, _, exit := c.run(request(1, "true")); !exit.Sure || exit.After != 0 || exit.LostCount != 1 {
		t.Errorf("%+v", exit)
	}
}

func TestStandardInput(t *testing.T) {
	c := open(t, Options{})
	x := request(0, "sh", "-c", "cat; echo done")
	x.Stdio[0].Kind = fsyscall.StdioStreamed
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	go func() {
		s := c.stream(0, 0)
		s.Write(data)
		s.CloseWrite()
	}()
	out, _, exit := c.run(x)
	if exit.Code != 0 || out != string(data)+"done\n" {
		t.Errorf("%d bytes back, want %d; %+v", len(out), len(data)+5, exit)
	}
	// Nobody reads: the writer is told.
	x = request(1, "sh", "-c", "exec <&-; sleep 0.2")
	x.Stdio[0].Kind = fsyscall.StdioStreamed
	got := make(chan error, 1)
	go func() {
		_, err := c.stream(1, 0).Write(bytes.Repeat([]byte("x"), 8<<20))
		got <- err
	}()
	c.run(x)
	if err := <-got; !errors.Is(err, relay.ErrClosedByPeer) {
		t.Errorf("write to a command that does not read: %v", err)
	}
}

func TestFailuresToStart(t *testing.T) {
	c := open(t, Options{})
	os.WriteFile(c.dir+"/home/u/data", []byte("x"), 0o644)
	os.WriteFile(c.dir+"/home/u/noformat", []byte("echo by sh $0 $1\n"), 0o755)
	os.WriteFile(c.dir+"/home/u/foreign", []byte("\x7fELF\x02\x01\x01\x00"), 0o755)
	os.WriteFile(c.dir+"/home/u/nointerp", []byte("#!/no/such\n"), 0o755)
	for i, tc := range []struct {
		argv  []string
		cwd   string
		stage fsyscall.ExecStage
		errno unix.Errno
	}{
		{[]string{"no-such-program"}, "/", fsyscall.ExecProgram, unix.ENOENT},
		{[]string{"/no/such"}, "/", fsyscall.ExecProgram, unix.ENOENT},
		{[]string{""}, "/", fsyscall.ExecProgram, unix.ENOENT},
		{[]string{"./data"}, "/home/u", fsyscall.ExecProgram, unix.EACCES},
		{[]string{"/home/u"}, "/", fsyscall.ExecProgram, unix.EACCES},
		{[]string{"./foreign"}, "/home/u", fsyscall.ExecProgram, unix.ENOEXEC},
		{[]string{"./nointerp"}, "/home/u", fsyscall.ExecProgram, unix.ELIBACC},
		{[]string{"true"}, "/no/such", fsyscall.ExecCwd, unix.ENOENT},
		{[]string{"true"}, "/home/u/data", fsyscall.ExecCwd, unix.ENOTDIR},
		{[]string{"/home/u/data/x"}, "/", fsyscall.ExecProgram, unix.ENOTDIR},
		{[]string{"true", strings.Repeat("x", 200<<10)}, "/", fsyscall.ExecProgram, unix.E2BIG},
	} {
		x := request(uint32(i), tc.argv...)
		x.Cwd = tc.cwd
		r := c.exec(x)
		if r.Stage != tc.stage || unix.Errno(r.Errno) != tc.errno {
			t.Errorf("%.40q in %s: stage %d, %v; want %d, %v", tc.argv, tc.cwd, r.Stage, unix.Errno(r.Errno), tc.stage, tc.errno)
		}
	}
	x := request(50, "./noformat", "arg")
	if out, _, _ := c.run(x); out != "by sh ./noformat arg\n" {
		t.Errorf("program without a format: %q", out)
	}
}

func TestVersion(t *testing.T) {
	c := connect(t, Options{})
	h := hello()
	h.Version = fsyscall.Version + 1
	c.notice(fsyscall.OpHello, h)
	if f := next[*fsyscall.Fatal](c); f.Code != fsyscall.FatalVersion || f.Detail != "1" {
		t.Errorf("%+v", f)
	}
}

// TestStats: the first command has the whole session's figures, each further
// one its own.
func TestStats(t *testing.T) {
	c := connect(t, Options{})
	h := hello()
	h.Trace = true
	c.notice(fsyscall.OpHello, h)
	sent := func(stats []byte) (n int) {
		t.Helper()
		_, rest, ok := strings.Cut(string(stats), "sent to the client: ")
		if _, err := fmt.Sscanf(rest, "%d bytes, ", &n); !ok || err != nil {
			t.Fatalf("%q", stats)
		}
		return n
	}
	_, _, exit := c.run(request(0, "head", "-c", "16000000", "/dev/zero"))
	if n := sent(exit.Stats); n < 8_000_000 || // the last of it may be under way
		!strings.HasPrefix(string(exit.Stats), "whole session: true\n") {
		t.Errorf("%q", exit.Stats)
	}
	_, _, exit = c.run(request(1, "true"))
	if n := sent(exit.Stats); n > 100_000 || !strings.HasPrefix(string(exit.Stats), "whole session: false\n") {
		t.Errorf("%q", exit.Stats)
	}
}
