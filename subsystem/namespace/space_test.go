package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestMain(m *testing.M) {
	Main()
	if os.Args[0] == hostName {
		hostMain()
	}
	os.Exit(m.Run())
}

// session is a Space whose files are a directory of this machine.
type session struct {
	t      testing.TB
	space  *Space
	client string // the directory that is the view's root
	server *fuse.Server
	served chan struct{}
	notes  []string
}

var remoteTrees = []string{"/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin", "/sys", "/usr", "/var"}

func rules(local ...string) []fsyscall.ViewRule {
	r := []fsyscall.ViewRule{{Path: "/"}}
	for _, p := range remoteTrees {
		r = append(r, fsyscall.ViewRule{Path: p, Remote: true})
	}
	for _, p := range local {
		r = append(r, fsyscall.ViewRule{Path: p})
	}
	return r
}

// makeClient makes a client's tree with the mount points of the plan, which
// fmaster would synthesize.
func makeClient(t testing.TB, plan *Plan) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []string{"/tmp", "/home/u"} {
		if err := os.MkdirAll(dir+p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for p, text := range plan.Links() {
		if err := os.MkdirAll(filepath.Dir(dir+p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(text, dir+p); err != nil {
			t.Fatal(err)
		}
	}
	for p, isDir := range plan.Mountpoints() {
		if err := os.MkdirAll(filepath.Dir(dir+p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if isDir {
			err = os.MkdirAll(dir+p, 0o755)
		} else {
			err = os.WriteFile(dir+p, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func identity() Identity {
	return Identity{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Home: "/home/u"}
}

func start(t *testing.T, rules []fsyscall.ViewRule) *session {
	t.Helper()
	plan, err := NewPlan(rules)
	if err != nil {
		t.Fatal(err)
	}
	return startIn(t, plan, makeClient(t, plan))
}

func startIn(t testing.TB, plan *Plan, client string) *session {
	t.Helper()
	s, err := tryStart(t, plan, client)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// startFailing starts a session whose view cannot be made.
func startFailing(t *testing.T, plan *Plan, client string) *Failure {
	t.Helper()
	_, err := tryStart(t, plan, client)
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("%v", err)
	}
	return f
}

func tryStart(t testing.TB, plan *Plan, client string) (*session, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	space, err := Start(Config{Identity: identity(), Plan: plan})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, space: space, client: client, served: make(chan struct{})}
	dev, err := space.Device(ctx)
	if err != nil {
		t.Fatal(err)
	}
	root, err := fs.NewLoopbackRoot(client)
	if err != nil {
		t.Fatal(err)
	}
	hour := time.Hour
	raw := fs.NewNodeFS(root, &fs.Options{EntryTimeout: &hour, AttrTimeout: &hour})
	// go-fuse closes the descriptor that it is given.
	fd, err := unix.FcntlInt(dev.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	s.server, err = fuse.NewServer(raw, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{AllowOther: true, MaxWrite: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		s.server.Serve()
		dev.Close()
		close(s.served)
	}()
	if _, ok := t.(*testing.T); ok {
		t.Cleanup(s.close)
	}
	s.notes, err = space.Ready(ctx)
	return s, err
}

func (s *session) close() {
	go func() {
		for range s.space.Events() {
		}
	}()
	if !s.space.Close(0, func() { s.t.Error("init did not end by itself") }) {
		s.t.Error("init did not end at all")
	}
	select {
	case <-s.served:
	case <-time.After(3 * time.Second):
		s.t.Error("FUSE is still served after the session's end")
	}
}

// request is a command with output to a pipe.
func request(argv ...string) *fsyscall.Exec {
	return &fsyscall.Exec{
		Argv: argv, Env: []string{"PATH=/usr/bin:/bin"}, Cwd: "/", Umask: 0o22,
		Stdio: [3]fsyscall.Stdio{
			{Kind: fsyscall.StdioNull, DupOf: -1},
			{Kind: fsyscall.StdioStreamed, DupOf: -1},
			{Kind: fsyscall.StdioStreamed, DupOf: 1},
		},
	}
}

func (s *session) event(kind EventKind) Event {
	s.t.Helper()
	select {
	case ev, ok := <-s.space.Events():
		if !ok {
			s.t.Fatalf("no more events: %v", s.space.Failure())
		}
		if ev.Kind != kind {
			s.t.Fatalf("event %+v, want kind %d", ev, kind)
		}
		return ev
	case <-time.After(10 * time.Second):
		s.t.Fatalf("no event of kind %d", kind)
	}
	return Event{}
}

// begin starts a command and returns its Started event and its output's end.
func (s *session) begin(x *fsyscall.Exec) (Event, *os.File) {
	s.t.Helper()
	c := Command{Exec: x, Path: "/usr/bin:/bin", Shell: "/bin/sh"}
	var out *os.File
	if x.Stdio[1].Kind == fsyscall.StdioStreamed {
		r, w, err := os.Pipe()
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { r.Close() })
		out, c.Files[1] = r, w
	}
	if err := s.space.Run(c); err != nil {
		s.t.Fatal(err)
	}
	return s.event(Started), out
}

// output runs a command to its end.
func (s *session) output(x *fsyscall.Exec) (string, Event) {
	s.t.Helper()
	started, out := s.begin(x)
	if started.Stage != fsyscall.ExecStarted {
		s.t.Fatalf("%q: stage %d, errno %d", x.Argv, started.Stage, started.Errno)
	}
	b, err := io.ReadAll(out)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b), s.event(Ended)
}

func (s *session) sh(script string) string {
	s.t.Helper()
	out, end := s.output(request("/bin/sh", "-c", script))
	if end.Code != 0 || end.Signal != 0 {
		s.t.Errorf("%s: %+v, %q", script, end, out)
	}
	return strings.TrimSuffix(out, "\n")
}

func TestCommandInView(t *testing.T) {
	s := start(t, rules())
	if got := s.sh("echo hi"); got != "hi" {
		t.Errorf("echo: %q", got)
	}
	if err := os.WriteFile(s.client+"/home/u/f", []byte("client's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := s.sh("cat /home/u/f; echo new >/home/u/g"); got != "client's" {
		t.Errorf("cat: %q", got)
	}
	if b, err := os.ReadFile(s.client + "/home/u/g"); string(b) != "new\n" {
		t.Errorf("written file: %q, %v", b, err)
	}
	_, end := s.output(request("/bin/sh", "-c", "exit 3"))
	if end.Code != 3 {
		t.Errorf("exit 3: %+v", end)
	}
	_, end = s.output(request("/bin/sh", "-c", "kill -USR1 $$"))
	if end.Signal != 10 {
		t.Errorf("kill -USR1: %+v", end)
	}
}
