// Package test has the end-to-end tests: real programs, run through nexec, on
// real files. `make e2e` builds the commands and runs them.
//
// As root the tests run in a mount namespace of their own, in which two users
// exist that the machine does not have, and their servers in further ones, in
// which the client's files are hidden and other files lie in /opt and /srv:
// so it is plain which side a file comes from.
package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// Environment variables by which the test binary tells itself what it is.
const (
	// insideVar: run by nexec (or natively, to compare) to make checks in the
	// directory that it names.
	insideVar = "NEXEC_E2E_INSIDE"
	// namespaceVar: already in the mount namespace; names its directory.
	namespaceVar = "NEXEC_E2E_NAMESPACE"
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		os.Exit(m.Run())
	}
	if signal.Ignored(syscall.SIGHUP) {
		// Under nohup(1): what is started gets a signal that is caught here as
		// it is by default.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	if os.Getuid() == 0 && os.Getenv(namespaceVar) == "" {
		os.Exit(inNamespace())
	}
	if _, err := harness.Bin(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := harness.Adopt(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// namespaceScript makes the client's side: other users, and markers.
const namespaceScript = `
mount -t tmpfs none /opt && echo client >/opt/side
mount -t tmpfs none /srv && echo client >/srv/side
cp /etc/passwd "$D/passwd"; cp /etc/group "$D/group"
for u in ann:20001 bob:20002; do
	name=${u%:*} id=${u#*:}
	echo "$name:x:$id:$id::$D/home/$name:/bin/sh" >>"$D/passwd"
	echo "$name:x:$id:" >>"$D/group"
	mkdir -p "$D/home/$name" && chown "$id:$id" "$D/home/$name"
done
mount --bind "$D/passwd" /etc/passwd
mount --bind "$D/group" /etc/group
exec "$@"`

// inNamespace runs this binary again, in a mount namespace of its own, and
// returns its exit status.
func inNamespace() int {
	dir, err := os.MkdirTemp("", "nexec-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-ec", namespaceScript, "sh"}, os.Args...)...)
	c.Env = append(os.Environ(), namespaceVar+"="+dir, "D="+dir)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// serverScript makes the server's side of a site that is run as root.
func serverScript(hidden ...string) string {
	var b strings.Builder
	b.WriteString(`
mount -t tmpfs none /opt && echo server >/opt/side
mount -t tmpfs none /srv && echo server >/srv/side
mkdir /opt/bin && printf '#!/bin/sh\ncat /opt/side\n' >/opt/bin/which-side && chmod 755 /opt/bin/which-side
`)
	for _, h := range hidden {
		fmt.Fprintf(&b, "mount -t tmpfs -o mode=0755 none '%s'\n", h)
	}
	return b.String()
}

// need fails where CI demands everything, and skips elsewhere.
func need(t testing.TB, there bool, what string) {
	t.Helper()
	switch {
	case there:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is needed", what)
	default:
		t.Skipf("%s is needed", what)
	}
}

func needProgram(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		_, errServer := os.Stat("/usr/bin/" + name)
		need(t, err == nil && errServer == nil, name+" in /usr/bin")
	}
}

// site is a client with one nexecd, called box. It fails the test if anything
// is left when the test is over.
type site struct {
	*harness.Site
	nexecd *harness.Process
}

func newSite(t testing.TB, config ...string) *site {
	t.Helper()
	s, err := harness.NewSite()
	if err != nil {
		t.Fatal(err)
	}
	mounts := harness.Mounts()
	t.Cleanup(func() { checkClean(t, s, mounts) })
	o := harness.ServerOptions{Alias: "box", Config: config}
	if os.Getuid() == 0 {
		o.Script = serverScript(s.Client)
	}
	p, err := s.StartNexecd(o)
	if err != nil {
		t.Fatal(err)
	}
	return &site{s, p}
}

// checkClean fails the test if a process, a mount or a temporary file of a
// session is left 5 s after the test, then ends the site.
func checkClean(t testing.TB, s *harness.Site, mounts []string) {
	t.Helper()
	for _, p := range s.Leftovers(5 * time.Second) {
		t.Errorf("left behind: %s", p)
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
	if now := harness.Mounts(); len(now) > len(mounts) {
		t.Errorf("mounts left behind: before %q, now %q", mounts, now)
	}
	for _, dir := range []string{s.Server + "/tmp", s.Client + "/tmp"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: %s/%s", dir, e.Name())
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, p := range harness.Leftovers(5 * time.Second) {
		t.Errorf("left behind by the server: %s", p)
		syscall.Kill(p.PID, syscall.SIGKILL)
	}
	if t.Failed() {
		for _, log := range s.Logs() {
			t.Logf("a server said:\n%s", log)
		}
	}
}

// result is what a command did.
type result struct {
	out, err string
	code     int // 128+N after signal N
}

func (r result) String() string {
	return fmt.Sprintf("status %d, stdout %q, stderr %q", r.code, short(r.out), short(r.err))
}

func short(s string) string {
	if len(s) > 600 {
		return s[:300] + " … " + s[len(s)-300:]
	}
	return s
}

// patience is how long one command of a test may take: the longest builds Go's
// standard library, on a machine that has other things to do.
const patience = 4 * time.Minute

// run runs nexec with the arguments and the text as its standard input.
func (s *site) run(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Nexec(ctx, args...)
	c.Stdin = strings.NewReader(stdin)
	return collect(t, ctx, c)
}

// collect runs a command to its end.
func collect(t testing.TB, ctx context.Context, c *exec.Cmd) result {
	t.Helper()
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	err := c.Run()
	if ctx.Err() != nil {
		t.Fatalf("%q still runs after %s; stdout %q, stderr %q", c.Args, patience, short(out.String()), short(stderr.String()))
	}
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return result{out.String(), stderr.String(), exitCode(c.ProcessState)}
}

func exitCode(p *os.ProcessState) int {
	if w := p.Sys().(syscall.WaitStatus); w.Signaled() {
		return 128 + int(w.Signal())
	}
	return p.ExitCode()
}

// ok runs nexec box args, wants status 0 and nothing on standard error, and
// returns standard output.
func (s *site) ok(t testing.TB, args ...string) string {
	t.Helper()
	r := s.run(t, "", append([]string{"box"}, args...)...)
	if r.code != 0 || r.err != "" {
		t.Fatalf("nexec box %q: %s", args, r)
	}
	return r.out
}

// sh runs a shell script on the server and returns its output.
func (s *site) sh(t testing.TB, script string) string {
	t.Helper()
	return s.ok(t, "sh", "-ec", script)
}

// local runs a shell script on the client, in the working directory.
func (s *site) local(t testing.TB, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := collect(t, ctx, s.Command(ctx, "sh", "-ec", script))
	if r.code != 0 {
		t.Fatalf("sh -ec %q: %s", script, r)
	}
	return r.out
}

// write makes a file of the client.
func (s *site) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(s.Work, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// read returns the content of a file of the client.
func (s *site) read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Work, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
