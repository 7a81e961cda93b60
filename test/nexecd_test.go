package test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// logs waits until nexecd's log has a line that matches.
func (s *site) logs(t testing.TB, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for line := range strings.SplitSeq(s.nexecd.Log.String(), "\n") {
			if re.MatchString(line) {
				return
			}
		}
	}
	t.Errorf("nexecd's log has no line %s:\n%s", pattern, s.nexecd.Log)
}

// authorize puts options before the site's key.
func (s *site) authorize(t testing.TB, options string) {
	t.Helper()
	public, err := os.ReadFile(s.Key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Server, "authorized_keys")
	if err := os.WriteFile(path+".new", []byte(strings.TrimSpace(options+" "+string(public))+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestServerLog holds nexecd's log to one line an event: login, command, how
// it ended, bytes.
func TestServerLog(t *testing.T) {
	s := newSite(t)
	s.run(t, "", "box", "sh", "-c", "head -c 100000 /dev/zero; exit 7")
	s.run(t, "", "box", "sh", "-c", "kill -9 $$")
	s.run(t, "", "box", "echo", "two\nlines \x1b[31m\u202e\xff")
	s.run(t, "", "box", "no-such-program", "secret")
	s.logs(t, `Accepted publickey for \S+ from 127\.0\.0\.1 port \d+ ssh2: ED25519 SHA256:`)
	s.logs(t, `Starting command for \S+ from 127\.0\.0\.1 port \d+: sh -c 'head -c 100000 /dev/zero; exit 7'"`)
	s.logs(t, `Command ended for .* status=7 signal="" session_received=\d+ session_sent=\d+`)
	s.logs(t, `Command ended for .* status=0 signal=KILL`)
	s.logs(t, `Starting command for .*: echo 'two\\+nlines \\+x1b\[31m\\+u202e\\+ufffd'`)
	s.logs(t, `Refused command for .*: no-such-program secret" .*reason="no such file or directory"`)
	s.logs(t, `Session ended.* received=\d{3,} sent=\d{3,}`)
	s.logs(t, `Connection closed.* received=\d{3,} sent=\d{4,}`)
	if log := s.nexecd.Log.String(); strings.Contains(log, "\x1b") || strings.Contains(log, "\xff") || strings.Contains(log, "\u202e") {
		t.Errorf("what a user wrote is in the log as it came:\n%s", log)
	}
}

// TestForcedCommand tries ways around command= of authorized_keys.
func TestForcedCommand(t *testing.T) {
	s := newSite(t)
	s.authorize(t, `restrict,command="echo forced; echo \"$SSH_ORIGINAL_COMMAND\"; id -u >&2"`)
	s.write(t, "evil", "#!/bin/sh\necho evil\n")
	if err := os.Chmod(s.Work+"/evil", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{".bashrc", ".profile", ".zshenv", ".bash_profile", ".kshrc"} {
		if err := os.WriteFile(filepath.Join(s.Home, f), []byte("echo evil\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"box", "./evil"}, {"box", "sh", "-c", "echo evil"}, {"box"}, {"box", s.Work + "/evil"}, {"box", "true; ./evil"},
	} {
		want := "forced\n" + quotedWords(args[1:]) + "\n"
		if r := s.run(t, "echo evil\n", args...); r.out != want || r.code != 0 {
			t.Errorf("%q: %s, want %q", args, r, want)
		}
	}
	c := s.Nexec(t.Context(), "box", "x")
	c.Env = append(c.Env, "BASH_ENV="+s.Work+"/evil", "ENV="+s.Work+"/evil", "LD_PRELOAD="+s.Work+"/evil", "PATH="+s.Work, "SHELL="+s.Work+"/evil", "IFS=x",
		"PS4=$(./evil)", "SHELLOPTS=xtrace", "BASH_FUNC_echo%%=() { /bin/echo evil; }", "SSH_ORIGINAL_COMMAND=evil")
	if r := collect(t, t.Context(), c); r.out != "forced\nx\n" {
		t.Errorf("environment: %s", r)
	}
	// Programs of the client's instead of the server's.
	for _, args := range [][]string{{"--apps", "local", "box", "x"}, {"--local", "/bin", "box", "x"}, {"--local", "/usr/bin/env", "box", "x"}} {
		if r := s.run(t, "", args...); r.code != 255 || strings.Contains(r.out, "forced") || !strings.Contains(r.err, "fixed") {
			t.Errorf("%q: %s", args, r)
		}
	}
	// No terminal.
	term := s.terminal(t, "box", "x")
	if err := term.Wait(20 * time.Second); err == nil || strings.Contains(term.Output(), "forced") {
		t.Errorf("restrict gives a terminal: %v %q", err, term.Output())
	}
	s.logs(t, `Starting command for .*echo forced.* requested=\./evil`)
}

// TestAsRootForcedCommandIsServers names a program that only the client has.
func TestAsRootForcedCommandIsServers(t *testing.T) {
	s := newSite(t)
	tool := s.write(t, "tool", "#!/bin/sh\necho evil\n")
	if err := os.Chmod(tool, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(t, "in", "redirected\n")
	for options, want := range map[string]string{
		tool: "", "./tool": "", "sh tool": "", "sh " + tool: "", "ls -d " + s.Client + "/*": "", "cat /opt/side; pwd; cat": "server\n/root\nredirected\n",
	} {
		s.authorize(t, `command="`+options+`"`)
		r := collect(t, t.Context(), s.Command(t.Context(), "sh", "-c", filepath.Join(s.Bin, "nexec")+" -F "+s.Config+" box x <in"))
		if r.out != want || want == "" && r.code == 0 {
			t.Errorf("%s: %s, want %q", options, r, want)
		}
	}
}

// quotedWords is how SSH_ORIGINAL_COMMAND shows the words of these tests.
func quotedWords(words []string) string {
	var out []string
	for _, w := range words {
		if strings.ContainsAny(w, " ;") {
			w = "'" + w + "'"
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// TestCommandMap allows two commands by name, and another one by Match.
func TestCommandMap(t *testing.T) {
	s := newSite(t, "CommandMap say /bin/echo", "CommandMap whoami /usr/bin/id",
		"Match LocalPort 1", "CommandMap sh /bin/sh", "Match all", "PermitTTY no")
	if out := s.ok(t, "say", "hi"); out != "hi\n" {
		t.Errorf("%q", out)
	}
	for _, args := range [][]string{{"echo", "hi"}, {"/bin/echo", "hi"}, {"sh"}, {"./say"}, {"say/../sh"}, {""}, {}} {
		if r := s.run(t, "echo evil\n", append([]string{"box"}, args...)...); r.code != 126 && r.code != 255 || r.out != "" || r.err == "" {
			t.Errorf("%q: %s", args, r)
		}
	}
	s.logs(t, `Refused command for .*: /bin/echo hi" .*reason="operation not permitted"`)
}

// agent starts an ssh-agent on the client that has the site's key.
func (s *site) agent(t testing.TB) (socket string) {
	t.Helper()
	needProgram(t, "ssh-add")
	socket = s.Client + "/agent"
	ctx, cancel := context.WithCancel(context.Background())
	c := s.Command(ctx, "ssh-agent", "-D", "-a", socket)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		c.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("ssh-agent does not listen")
		}
	}
	s.local(t, "SSH_AUTH_SOCK="+socket+" ssh-add -q "+s.Key)
	return socket
}

// TestForwardAgent uses the client's agent on the server, by both front doors,
// where key, configuration and client allow it.
func TestForwardAgent(t *testing.T) {
	s := newSite(t, "Match LocalPort 1", "AllowAgentForwarding no")
	socket := s.agent(t)
	script := `echo "$SSH_AUTH_SOCK"; ssh-add -L | cut -d" " -f2; ssh-add -L | wc -l`
	public := strings.Fields(s.local(t, "cat "+s.Key+".pub"))[1]
	want := "/dev/shm/nexec-agent\n" + public + "\n1\n"
	forward := []string{"-o", "ForwardAgent=" + socket}
	run := func(host string, options ...string) string {
		t.Helper()
		r := s.run(t, "", append(append([]string{}, options...), host, "sh", "-c", script)...)
		if r.code != 0 {
			t.Errorf("%q: %s", options, r)
		}
		return r.out
	}
	if got := run("box", forward...); got != want {
		t.Errorf("forwarded: %q, want %q", got, want)
	}
	if got := run("box", "-o", "ForwardAgent=yes", "-o", "IdentityAgent="+socket); got != want {
		t.Errorf("ForwardAgent yes: %q, want %q", got, want)
	}
	none := "\n\n0\n"
	if got := run("box", "-o", "IdentityAgent="+socket); !strings.HasPrefix(got, "\n") || strings.Contains(got, public) {
		t.Errorf("not asked for: %q, want %q", got, none)
	}
	for _, options := range []string{"no-agent-forwarding", "restrict"} {
		s.authorize(t, options)
		if got := run("box", forward...); !strings.HasPrefix(got, "\n") || strings.Contains(got, public) {
			t.Errorf("%s: %q", options, got)
		}
	}
	s.authorize(t, "restrict,agent-forwarding")
	if got := run("box", forward...); got != want {
		t.Errorf("agent-forwarding: %q, want %q", got, want)
	}
	if _, err := s.StartSSHD(harness.ServerOptions{Alias: "sshd"}); err != nil {
		t.Fatal(err)
	}
	if got := run("sshd", forward...); got != want {
		t.Errorf("by sshd: %q, want %q", got, want)
	}
	if got := run("box", "-o", "ForwardAgent="+socket+".no"); !strings.HasPrefix(got, "\n") {
		t.Errorf("no such agent: %q", got)
	}
}
