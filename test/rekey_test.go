package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// newClockSite is a site with an sshd called clock, for which the client's
// configuration has keys renewed by the clock, and lines that would spoil an
// ssh's byte stream if ssh heeded them.
func newClockSite(t *testing.T) *site {
	t.Helper()
	needProgram(t, "ssh")
	_, err := os.Stat("/usr/sbin/sshd")
	need(t, err == nil, "/usr/sbin/sshd")
	s := newSite(t)
	o := harness.ServerOptions{Alias: "clock", Host: []string{
		"RekeyLimit 1G 1h", "RequestTTY force", "StdinNull yes", "RemoteCommand echo spoiled", "SessionType none",
		"ForkAfterAuthentication yes", "PermitLocalCommand yes", "LocalCommand echo spoiled >&2",
		"ControlMaster auto", "ControlPath " + filepath.Join(s.Client, "control"), "SetEnv CLOCK=set",
	}}
	if os.Getuid() == 0 {
		o.Script = serverScript(s.Client)
	}
	if _, err := s.StartSSHD(o); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRekeyTime has hosts whose RekeyLimit has a time: OpenSSH's client
// carries the session.
func TestRekeyTime(t *testing.T) {
	s := newClockSite(t)
	const said = "nexec: RekeyLimit has a time: "
	t.Run("configuration file", func(t *testing.T) {
		r := s.run(t, "text", "-T", "clock", "sh", "-c", `echo "$CLOCK"; ls "$1"; cat; exit 7`, "sh", filepath.Join(s.Client, "control"))
		if r.code != 7 || r.out != "set\n" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "ls: ") {
			t.Error(r) // StdinNull: the command has nothing to read
		}
	})
	t.Run("command line", func(t *testing.T) {
		r := s.run(t, "text", "-v", "-o", "RekeyLimit=1G 1h", "box", "sh", "-c", "cat; exit 6")
		if r.code != 6 || r.out != "text" || strings.Count(r.err, said) != 1 || !strings.Contains(r.err, "/ssh carries the session\n") || !strings.Contains(r.err, "OpenSSH_") {
			t.Error(r)
		}
	})
	t.Run("no time", func(t *testing.T) {
		r := s.run(t, "text", "-v", "-o", "RekeyLimit=1G none", "box", "cat")
		if r.code != 0 || r.out != "text" || strings.Contains(r.err, said) || strings.Contains(r.err, "OpenSSH_") {
			t.Error(r)
		}
	})
	t.Run("no ssh", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c := s.Nexec(ctx, "clock", "true")
		c.Env = append(c.Env, "PATH="+s.Bin)
		r := collect(t, ctx, c)
		if r.code != 255 || r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "nexec: RekeyLimit with a time needs an OpenSSH client: install one") {
			t.Error(r)
		}
	})
}

// TestRekeysByTheClock waits for the second key exchange of a session in which
// nothing happens.
func TestRekeysByTheClock(t *testing.T) {
	s := newClockSite(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := s.Nexec(ctx, "-v", "-T", "-o", "RekeyLimit=1G 1", "clock", "sh", "-c", "until test -e done; do sleep 0.1; done; exit 3")
	var stderr harness.Buffer
	c.Stderr = &stderr
	must(t, c.Start())
	waitFor(t, "a second key exchange", func() bool { return strings.Count(stderr.String(), "SSH2_MSG_NEWKEYS received") > 1 })
	s.write(t, "done", "")
	if c.Wait(); exitCode(c.ProcessState) != 3 {
		t.Errorf("status %d, want 3; stderr %q", exitCode(c.ProcessState), stderr.String())
	}
}

// TestRekeyTimePersist has a session stay that OpenSSH's client carries.
func TestRekeyTimePersist(t *testing.T) {
	needProgram(t, "ssh")
	s := newStaying(t, "-o", "RekeyLimit=1G 1h")
	s.good(t, "true")
	s.good(t, "true")
	if n := s.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if ssh := harness.Named("ssh"); len(ssh) != 1 {
		t.Errorf("want one process of ssh, not %v", ssh)
	}
}
