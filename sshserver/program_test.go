package sshserver

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func script(text string) map[string]Handler {
	return map[string]Handler{"nexec": &Program{Path: "/bin/sh", Args: []string{"-c", text, "sh"}}}
}

// ran is what a session brought.
type ran struct {
	out, err string
	exit     string // "status N" or "signal X"
}

// run opens a channel and runs the subsystem on it.
func run(t *testing.T, c *ssh.Client, input string) ran {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	r := ran{}
	exits := make(chan string, 1)
	go func() {
		exit := "none"
		for req := range reqs {
			switch req.Type {
			case "exit-status":
				var m struct{ Status uint32 }
				_ = ssh.Unmarshal(req.Payload, &m)
				exit = fmt.Sprint("status ", m.Status)
			case "exit-signal":
				var m struct {
					Signal     string
					Core       bool
					Text, Lang string
				}
				_ = ssh.Unmarshal(req.Payload, &m)
				exit = "signal " + m.Signal
			}
		}
		exits <- exit
	}()
	if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"})); !ok || err != nil {
		t.Fatalf("subsystem: %v %v", ok, err)
	}
	errs := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(ch.Stderr())
		errs <- string(b)
	}()
	if _, err := io.WriteString(ch, input); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	_ = ch.CloseWrite()
	out, err := io.ReadAll(ch)
	if err != nil {
		t.Fatal(err)
	}
	r.out, r.err, r.exit = string(out), <-errs, <-exits
	return r
}

func TestProgramEnds(t *testing.T) {
	for text, want := range map[string]ran{
		"cat; echo oops >&2; exit 3":            {"input", "oops\n", "status 3"},
		"kill -TERM $$":                         {"", "", "signal TERM"},
		"kill -KILL $$":                         {"", "", "signal KILL"},
		"exit 0":                                {"", "", "status 0"},
		"sleep 1000 & echo left":                {"left\n", "", "status 0"},
		"setsid sleep 40 & echo away":           {"away\n", "", "status 0"},
		"exec <&- >&-; sleep 0.1; exit 7":       {"", "", "status 7"},
		"head -c 70000 /dev/zero >&2; echo fin": {"fin\n", strings.Repeat("\x00", maxStderr), "status 0"},
	} {
		s := start(t, "", script(text), nil)
		began := time.Now()
		got := run(t, s.mustDial(), "input")
		if got != want {
			t.Errorf("%s: %.100q, want %.100q\n%s", text, fmt.Sprint(got), fmt.Sprint(want), s.log)
		}
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("%s: took %v", text, d)
		}
	}
}

// TestProgramMissing is told in one line.
func TestProgramMissing(t *testing.T) {
	s := start(t, "", map[string]Handler{"nexec": &Program{Path: "/nonexistent/nexec-server"}}, nil)
	got := run(t, s.mustDial(), "")
	if got.exit != "status 255" || !strings.Contains(got.err, "nexecd: cannot start the session: ") || strings.Count(got.err, "\n") != 1 {
		t.Errorf("%q", got)
	}
}

// TestClientGone has programs that do not want to end when the client goes.
func TestClientGone(t *testing.T) {
	for name, text := range map[string]string{
		"sees the end":    "echo $$; cat >/dev/null",
		"ignores the end": "echo $$; sleep 1000",
		"ignores signals": "trap '' TERM HUP INT; echo $$; while :; do sleep 1; done",
		"never reads":     "trap '' TERM; echo $$; while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
	} {
		for _, how := range []string{"channel", "connection"} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				clientGone(t, text, how)
			})
		}
	}
}

func clientGone(t *testing.T, text, how string) {
	s := start(t, "", script(text), nil)
	c := s.mustDial()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if _, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"})); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32)
	n, err := ch.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(buf[:n]), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if how == "channel" {
		ch.Close()
	} else {
		c.Close()
	}
	began := time.Now()
	waitFor(t, func() bool { return syscall.Kill(-pid, 0) == syscall.ESRCH })
	waitFor(t, func() bool { return s.Stats().OpenSessions.Load() == 0 })
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("%v until it was gone", d)
	}
}

// accountsIn makes a user database.
func accountsIn(t *testing.T, passwd, group, shadow string) *Accounts {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group, "shadow": shadow, "shells": "# shells\n/bin/sh\n/bin/bash # yes\n"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Accounts{Root: root}
}

// TestBecomesTheUser looks at what a session is, from inside. Only root can
// become somebody else; any other user stays what they are.
func TestBecomesTheUser(t *testing.T) {
	uid, gid := 54321, 54322
	groups := "54322 54323 54324"
	if os.Geteuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
		all, err := os.Getgroups()
		if err != nil {
			t.Fatal(err)
		}
		groups = fmt.Sprint(gid)
		for _, g := range all {
			if g != gid {
				groups += fmt.Sprint(" ", g)
			}
		}
	}
	accounts := accountsIn(t, fmt.Sprintf("root:x:0:0::/root:/bin/sh\nalice:x:%d:%d::/home/alice:/bin/bash\n", uid, gid),
		"alice:x:54322:\nlab:x:54323:bob,alice\nother:x:54325:bob\nvideo:x:54324:alice\n", "alice:*:::::::\n")
	s := start(t, "AcceptEnv LANG\nSetEnv FROM=config\nPermitUserEnvironment FROM_*", script(
		`echo "uid $(id -u) gid $(id -g) groups $(id -G)"; pwd; env | grep -v -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort; ls -l /proc/self/fd | grep -c -e socket: -e pipe: -e memfd; ps -o sid= -p $$ | tr -d ' '; echo $$`), accounts)
	// The file is read with alice's rights.
	for _, dir := range []string{filepath.Dir(s.dir), s.dir} {
		chmod(t, dir, 0o755)
	}
	s.authorize(`environment="FROM_KEY=key",environment="EVIL=1" ` + line(s.key.PublicKey()))
	if os.Geteuid() == 0 {
		if c, err := dialAs(s.addr, "alice", s.key); err == nil {
			c.Close()
			t.Error("a file that alice cannot read lets her in")
		}
	}
	chmod(t, filepath.Join(s.dir, "keys"), 0o644)
	c, err := dialAs(s.addr, "alice", s.key)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	defer c.Close()
	lines := strings.Split(run(t, c, "").out, "\n")
	host, port, _ := strings.Cut(c.LocalAddr().String(), ":")
	lhost, lport, _ := strings.Cut(s.addr, ":")
	want := []string{
		fmt.Sprintf("uid %d gid %d groups %s", uid, gid, groups), "/",
		"FROM=config", "FROM_KEY=key", "HOME=/home/alice", "LOGNAME=alice", "PATH=" + defaultPath, "PWD=/", "SHELL=/bin/bash",
		fmt.Sprintf("SSH_CLIENT=%s %s %s", host, port, lport), fmt.Sprintf("SSH_CONNECTION=%s %s %s %s", host, port, lhost, lport), "USER=alice",
	}
	for i, w := range want {
		if i >= len(lines) || lines[i] != w {
			t.Errorf("line %d: %q, want %q", i, lines[min(i, len(lines)-1)], w)
		}
	}
	if n := len(lines); n < 4 || lines[n-3] != lines[n-2] {
		t.Errorf("not the leader of a session of its own: %q", lines)
	}
}

// TestUsable goes through accounts that must not log in.
func TestUsable(t *testing.T) {
	accounts := accountsIn(t, strings.Join([]string{
		"good:x:1001:1001::/:/bin/sh", "empty:x:1001:1001::/:", "locked:x:1001:1001::/:/bin/sh", "star:x:1001:1001::/:/bin/sh",
		"expired:x:1001:1001::/:/bin/sh", "later:x:1001:1001::/:/bin/sh", "nologin:x:1001:1001::/:/usr/sbin/nologin", "false:x:1001:1001::/:/bin/false",
		"noshell:x:1001:1001::/:/bin/nosuchshell", "dir:x:1001:1001::/:/bin/", "file:x:1001:1001::/:/etc/passwd", "cat:x:1001:1001::/:/bin/cat",
		"+nis::::::", "bad:x:x:1001::/:/bin/sh", "short:x:1001",
	}, "\n")+"\n", "", "good:$y$x:::::::\nlocked:!$y$x:::::::\nstar:*:::::::\nexpired:*::::::1:\nlater:*::::::99999:\n")
	for name, want := range map[string]string{
		"good": "", "empty": "", "star": "", "later": "", "locked": "account is locked", "expired": "account has expired",
		"nologin": "does not permit commands", "false": "does not permit commands", "noshell": "does not exist", "dir": "does not exist",
		"file": "is not executable", "cat": "is not in /etc/shells", "+nis": "no such account", "nis": "no such account", "short": "no such account",
		"bad": "invalid syntax", "": "no such account", "GOOD": "no such account",
	} {
		acct, err := accounts.Lookup(name)
		if err == nil {
			err = accounts.Usable(acct, time.Now())
		}
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
