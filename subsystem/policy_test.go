package subsystem

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

func TestReadPolicy(t *testing.T) {
	p, err := ReadPolicy(strings.NewReader(`{"forced_command":"a b","allowed":{"cc":"/usr/bin/gcc"},"environment":{"A":"1"},"no_pty":true}` + "\n"))
	if err != nil || p.ForcedCommand != "a b" || p.Allowed["cc"] != "/usr/bin/gcc" || p.Environment["A"] != "1" || !p.NoPTY {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := ReadPolicy(strings.NewReader(`{"allowed":{}}`)); err != nil || p.Allowed == nil || !p.restricts() {
		t.Errorf("an empty list of commands: %+v, %v", p, err)
	}
	for _, bad := range []string{
		"", "null x", "[]", `{"force_command":"x"}`, `{} {}`, `{"allowed":{"a/b":"/x"}}`, `{"allowed":{"a":"x"}}`,
		`{"allowed":{"":"/x"}}`, `{"environment":{"A=B":"x"}}`, `{"environment":{"A":"x\u0000"}}`, `{"no_pty":"yes"}`,
		`{"forced_command":"` + strings.Repeat("x", maxPolicy) + `"}`,
	} {
		if p, err := ReadPolicy(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q was accepted: %+v", bad, p)
		}
	}
}

func TestForcedCommand(t *testing.T) {
	c := open(t, Options{Environ: []string{"PATH=/usr/bin:/bin", "HOME=/usr/lib"}, Policy: &Policy{ForcedCommand: "echo forced: $SSH_ORIGINAL_COMMAND; echo $HOME ~ $EVIL $LANG $MINE", Environment: map[string]string{"MINE": "set"}}})
	x := request(0, "rm", "-rf", "it's")
	x.Env = append(x.Env, "EVIL=1", "BASH_ENV=/home/u/evil", "LD_PRELOAD=/home/u/x.so", "LANG=C.UTF-8")
	out, _, _ := c.run(x)
	if want := "forced: rm -rf 'it'\\''s'\n/usr/lib /usr/lib C.UTF-8 set\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	// The login shell is no way around it.
	x = request(1)
	if out, _, _ := c.run(x); !strings.HasPrefix(out, "forced:\n") {
		t.Errorf("login shell: %q", out)
	}
}

func TestAllowedCommands(t *testing.T) {
	c := open(t, Options{Policy: &Policy{Allowed: map[string]string{"say": "/bin/echo"}, NoPTY: true}})
	if out, _, _ := c.run(request(0, "say", "hi")); out != "hi\n" {
		t.Errorf("%q", out)
	}
	tty := request(3, "say")
	tty.HasTerminal = true
	for _, x := range []*fsyscall.Exec{request(1, "echo", "hi"), request(2, "/bin/echo", "hi"), tty, request(4)} {
		if r := c.exec(x); r.Stage != fsyscall.ExecDenied || r.Errno != 1 {
			t.Errorf("%q: %+v", x.Argv, r)
		}
	}
}

// TestForcedCommandSeesServer: what a forced command names is the server's,
// also where the client's files would lie, and so is its directory.
func TestForcedCommandSeesServer(t *testing.T) {
	dir := t.TempDir() // below /tmp, which otherwise is the client's
	tool := filepath.Join(dir, "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho the server\\'s\npwd\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := open(t, Options{Environ: []string{"PATH=/usr/bin:/bin", "HOME=" + dir}, Policy: &Policy{ForcedCommand: tool + "; ./tool; cat ~/other"}})
	theirs := filepath.Join(c.dir, dir)
	if err := os.MkdirAll(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tool", "other"} {
		if err := os.WriteFile(filepath.Join(theirs, name), []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	x := request(0, "x")
	x.Cwd = dir
	if out, _, _ := c.run(x); out != strings.Repeat("the server's\n"+dir+"\n", 2) {
		t.Errorf("%q", out)
	}
	// Without a home it is the root.
	c = open(t, Options{Environ: []string{"HOME=/no/such/home"}, Policy: &Policy{ForcedCommand: "pwd"}})
	if out, _, _ := c.run(request(0, "x")); out != "/\n" {
		t.Errorf("%q", out)
	}
}

// TestAllowedIsServers refuses a program that the view has from the client.
func TestAllowedIsServers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/bin/echo", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	c := open(t, Options{Policy: &Policy{Allowed: map[string]string{"a": dir + "/link", "b": "/bin/echo", "c": "/no/such/program"}}})
	if out, _, _ := c.run(request(0, "b", "hi")); out != "hi\n" {
		t.Errorf("%q", out)
	}
	for i, name := range []string{"a", "c"} {
		if r := c.exec(request(uint32(i+1), name)); r.Stage != fsyscall.ExecDenied || r.Errno != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestOnServer(t *testing.T) {
	dir := t.TempDir()
	for name, to := range map[string]string{
		"echo": "/bin/echo", "relative": "../../../../../../bin/echo", "twice": dir + "/echo", "loop": dir + "/loop", "dangling": "/no/such", "d": "/usr",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	top := dir[:strings.IndexByte(dir[1:], '/')+1]
	for _, c := range []struct {
		program, remote string // the trees that are the server's
		want            bool
	}{
		{"/bin/echo", "/bin /usr", true}, {"/bin/echo", "/bin/echo /usr/bin/echo", false}, {"/usr/bin/../bin/echo", "/usr", true},
		{dir + "/echo", "/bin /usr", false}, {dir + "/echo", "/bin /usr " + top, true}, {dir + "/echo", top, false},
		{dir + "/twice", "/bin /usr " + top, true}, {dir + "/twice", "/bin /usr " + dir, false}, {dir + "/relative", "/bin /usr " + top, true},
		{dir + "/loop", top, false}, {dir + "/dangling", top + " /no", false}, {dir + "/d/bin/echo", top + " /usr", true}, {dir + "/d/bin/echo", top, false},
		{"/", "/", false}, {"/vmlinuz", "/vmlinuz", false},
	} {
		trees := strings.Fields(c.remote)
		remote := func(p string) bool {
			return slices.ContainsFunc(trees, func(tree string) bool { return p == tree || strings.HasPrefix(p, tree+"/") })
		}
		if got := onServer(c.program, remote); got != c.want {
			t.Errorf("%s with %s: %v", c.program, c.remote, got)
		}
	}
}

// A restricted session cannot bring its own programs.
func TestRestrictedView(t *testing.T) {
	for _, change := range []func(*fsyscall.Hello){
		func(h *fsyscall.Hello) { h.View = append(slices.Clone(h.View), fsyscall.ViewRule{Path: "/usr/bin"}) },
		func(h *fsyscall.Hello) { h.View = h.View[:1] },
		func(h *fsyscall.Hello) {
			h.View = slices.Clone(h.View)
			h.View[1] = fsyscall.ViewRule{Path: "/bin"}
		},
	} {
		c := connect(t, Options{Policy: &Policy{ForcedCommand: "true"}})
		h := hello()
		change(h)
		c.notice(fsyscall.OpHello, h)
		if f := next[*fsyscall.Fatal](c); f.Code != fsyscall.FatalDenied {
			t.Errorf("%+v", f)
		}
	}
}

func TestHostileHello(t *testing.T) {
	for name, change := range map[string]func(*fsyscall.Hello){
		"no rules":     func(h *fsyscall.Hello) { h.View = nil },
		"remote root":  func(h *fsyscall.Hello) { h.View = []fsyscall.ViewRule{{Path: "/", Remote: true}} },
		"unclean path": func(h *fsyscall.Hello) { h.View = append(slices.Clone(h.View), fsyscall.ViewRule{Path: "/a/../b"}) },
	} {
		c := connect(t, Options{})
		h := hello()
		change(h)
		c.notice(fsyscall.OpHello, h)
		if f := next[*fsyscall.Fatal](c); f.Code != fsyscall.FatalProtocol {
			t.Errorf("%s: %+v", name, f)
		}
	}
	c := connect(t, Options{})
	c.notice(fsyscall.OpBye, &fsyscall.Empty{})
	if f := next[*fsyscall.Fatal](c); f.Code != fsyscall.FatalProtocol {
		t.Errorf("no hello: %+v", f)
	}
	c = open(t, Options{})
	c.run(request(5, "true"))
	c.write(fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec, Tag: 5}, request(5, "true"))
	if f := next[*fsyscall.Fatal](c); f.Code != fsyscall.FatalProtocol {
		t.Errorf("a command's number twice: %+v", f)
	}
}

func TestEnvironment(t *testing.T) {
	plan, err := namespace.NewPlan(defaultView)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{
		policy: &Policy{Environment: map[string]string{"EXTRA": "1"}}, plan: plan, hello: hello(),
		login: login{name: "bob", shell: "/bin/sh", path: "/server/bin"},
	}
	for _, c := range []struct{ name, in, want string }{
		{"client's values", "HOME=/home/a USER=alice LOGNAME=alice SHELL=/bin/sh X=1", "HOME=/home/a SHELL=/bin/sh X=1 EXTRA=1 LOGNAME=bob PATH=/server/bin USER=bob"},
		{"client's PATH", "PATH=/c HOME=/h SHELL=/bin/sh", "PATH=/c HOME=/h SHELL=/bin/sh EXTRA=1 LOGNAME=bob USER=bob"},
		{"nothing", "", "EXTRA=1 HOME=/home/u LOGNAME=bob PATH=/server/bin SHELL=/bin/sh USER=bob"},
		{"a shell that the server lacks", "HOME=/h SHELL=/usr/bin/no-such-shell", "HOME=/h EXTRA=1 LOGNAME=bob PATH=/server/bin SHELL=/bin/sh USER=bob"},
		{"a shell in the client's home", "HOME=/h SHELL=/home/a/sh", "HOME=/h SHELL=/home/a/sh EXTRA=1 LOGNAME=bob PATH=/server/bin USER=bob"},
	} {
		got := s.environment(&fsyscall.Exec{Env: strings.Fields(c.in)}, nil)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, strings.Join(got, " "), c.want)
		}
	}
}

func TestHarmless(t *testing.T) {
	in := []string{"TERM=xterm-256color", "TERM=/home/u/x", "TZ=Europe/Berlin", "TZ=/home/u/tz", "TZ=../x", "TZ=:x/y", "LANG=C", "LC_ALL=de_DE.UTF-8",
		"LANGUAGE=/x", "PATH=/x", "LD_PRELOAD=x", "BASH_ENV=x", "LC_X=%n", "bad", "NO_COLOR=1", "TERMINFO=/home/u"}
	want := "TERM=xterm-256color TZ=Europe/Berlin LANG=C LC_ALL=de_DE.UTF-8 NO_COLOR=1"
	if got := strings.Join(harmless(in), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
