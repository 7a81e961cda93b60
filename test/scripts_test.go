package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// TestSessions runs the scripts of testdata, each with a site of its own.
func TestSessions(t *testing.T) { runScripts(t, "testdata") }

// TestAsRootSessions runs those that need a server of root's.
func TestAsRootSessions(t *testing.T) { runScripts(t, "testdata/root") }

// oneByOne is a testscript.T whose scripts run one after the other: what is
// left behind is found among all descendants of this process.
type oneByOne struct{ *testing.T }

func (o oneByOne) Run(name string, f func(testscript.T)) {
	o.T.Run(name, func(t *testing.T) { f(oneByOne{t}) })
}
func (o oneByOne) Parallel() {}
func (o oneByOne) Verbose() bool {
	return testing.Verbose()
}

// runScripts runs the scripts of a directory. Beside testscript's own commands
// they have `status N CMD...` and `failure CMD...`, and in the environment:
//
//	PATH     with a nexec and an ssh that use the site's configuration
//	CONFIG   that configuration; KEY, KNOWN_HOSTS the files that it names
//	PORT     nexecd's; NEXECD_PID its process; SERVER its directory
//	BIN      the directory with the commands
//
// The server is called box.
func runScripts(t *testing.T, dir string) {
	work, err := os.MkdirTemp("", "nexec-scripts-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("chmod", "-R", "u+rwX", work).Run()
		if err := os.RemoveAll(work); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(work, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.RunT(oneByOne{t}, testscript.Params{
		Dir:         dir,
		WorkdirRoot: work,
		Setup:       func(env *testscript.Env) error { return setUpScript(env, work) },
		Cmds:        map[string]func(*testscript.TestScript, bool, []string){"status": cmdStatus, "failure": cmdFailure},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Getuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		ContinueOnError:     true,
		RequireExplicitExec: true,
	})
}

func setUpScript(env *testscript.Env, work string) error {
	t := env.T().(oneByOne).T
	s, err := harness.NewSite()
	if err != nil {
		return err
	}
	mounts := harness.Mounts()
	env.Defer(func() { checkClean(t, s, mounts) })
	s.Work = env.WorkDir
	o := harness.ServerOptions{Alias: "box"}
	if os.Getuid() == 0 {
		o.Script = serverScript(s.Client, work)
	}
	p, err := s.StartNexecd(o)
	if err != nil {
		return err
	}
	tools := filepath.Join(s.Client, "bin")
	if err := os.Mkdir(tools, 0o755); err != nil {
		return err
	}
	for name, path := range map[string]string{"nexec": filepath.Join(s.Bin, "nexec"), "ssh": "/usr/bin/ssh"} {
		text := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", path, s.Config)
		if err := os.WriteFile(filepath.Join(tools, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	env.Vars = append(s.Env(),
		"WORK="+env.WorkDir, "PATH="+tools+":"+os.Getenv("PATH"), "CONFIG="+s.Config, "KEY="+s.Key,
		"KNOWN_HOSTS="+s.KnownHosts(), "PORT="+strconv.Itoa(p.Port), "NEXECD_PID="+strconv.Itoa(p.PID),
		"SERVER="+s.Server, "CLIENT="+s.Client, "BIN="+s.Bin, "SELF="+os.Args[0], "$=$", "/=/", ":=:", "devnull=/dev/null", "exe=")
	return nil
}

// cmdStatus is `status N CMD...`: CMD must end with exit status N, or by the
// signal of the number N-128 if N is above 128.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N CMD...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%s: %v", strings.Join(args[1:], " "), err)
		}
		got = exitCode(exit.ProcessState)
		if w := exit.Sys().(syscall.WaitStatus); w.Signaled() {
			ts.Logf("[signal %d]", w.Signal())
		}
	}
	if got != want {
		ts.Fatalf("%s: status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// cmdFailure is `failure CMD...`: a failure of nexec's own. CMD must end with
// 255, nothing on standard output and one line on standard error.
func cmdFailure(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: failure CMD...")
	}
	cmdStatus(ts, false, append([]string{"255"}, args...))
	out, said := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if out != "" || !strings.HasPrefix(said, "nexec: ") || strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") {
		ts.Fatalf("%s: stdout %q, stderr %q; want nothing and one line", strings.Join(args, " "), out, said)
	}
}
