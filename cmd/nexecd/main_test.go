package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asNexecd makes the test program be nexecd.
const asNexecd = "NEXECD_TEST_AS_NEXECD"

func TestMain(m *testing.M) {
	if os.Getenv(asNexecd) != "" {
		main()
	}
	os.Exit(m.Run())
}

// nexecd is a running one, with everything below dir.
type nexecd struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	port   string
	stderr *buffer
	done   chan error
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asNexecd+"=1", "STATE_DIRECTORY="+filepath.Join(dir, "state"))
	return cmd
}

// prepare makes keys and a configuration with further lines.
func prepare(t *testing.T, lines string) string {
	t.Helper()
	dir := t.TempDir()
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/id")
	text := lines + "\nListenAddress 127.0.0.1\nPort 0\nStrictModes no\nAuthorizedKeysFile " + dir + "/id.pub\nSubsystem nexec /bin/cat\n"
	write(t, dir+"/config", text)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start runs nexecd on dir/config and waits until it listens.
func start(t *testing.T, dir string, args ...string) *nexecd {
	t.Helper()
	n := &nexecd{t: t, dir: dir, stderr: &buffer{}, done: make(chan error, 1)}
	n.cmd = command(dir, append([]string{"-D", "-e", "-f", dir + "/config"}, args...)...)
	n.run()
	n.port = n.listening(0)
	return n
}

func (n *nexecd) run() {
	n.cmd.Stderr = n.stderr
	n.cmd.WaitDelay = time.Second
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func() { n.done <- n.cmd.Wait() }()
	n.t.Cleanup(func() {
		_ = n.cmd.Process.Kill()
		for _, m := range regexp.MustCompile(`pid=(\d+)`).FindAllStringSubmatch(n.stderr.String(), -1) {
			if pid := atoi(m[1]); pid != n.cmd.Process.Pid {
				_ = syscall.Kill(pid, syscall.SIGKILL) // a successor
			}
		}
	})
}

func atoi(s string) int {
	n := 0
	_, _ = fmt.Sscan(s, &n)
	return n
}

// listening waits for the listener number i and returns its port.
func (n *nexecd) listening(i int) string {
	n.t.Helper()
	pattern := regexp.MustCompile(`Server listening" pid=\d+ address=[^ ]*:(\d+)`)
	var port string
	n.waitFor("it listens", func() bool {
		m := pattern.FindAllStringSubmatch(n.stderr.String(), -1)
		if len(m) > i {
			port = m[i][1]
		}
		return len(m) > i
	})
	return port
}

func (n *nexecd) waitFor(what string, done func() bool) {
	n.t.Helper()
	for range 1500 {
		if done() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Fatalf("not within 30 s: %s\n%s", what, n.stderr)
}

func (n *nexecd) log(text string) {
	n.t.Helper()
	n.waitFor("the log has "+text, func() bool { return strings.Contains(n.stderr.String(), text) })
}

// ssh makes a command of Debian's client.
func (n *nexecd) ssh(args ...string) *exec.Cmd {
	n.t.Helper()
	u, err := user.Current()
	if err != nil {
		n.t.Fatal(err)
	}
	all := append([]string{"-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + n.dir + "/known",
		"-o", "GlobalKnownHostsFile=none", "-o", "IdentitiesOnly=yes", "-i", n.dir + "/id", "-p", n.port}, args...)
	all = append(all, "-o", "LogLevel=ERROR") // the first one counts
	return exec.Command("ssh", append(all, "-s", u.Username+"@127.0.0.1", "nexec")...)
}

// session is an ssh to /bin/cat.
type session struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
}

func (n *nexecd) session() *session {
	n.t.Helper()
	s := &session{t: n.t, cmd: n.ssh()}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		n.t.Fatal(err)
	}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		n.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	})
	s.echo("first")
	return s
}

func (s *session) echo(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, text); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(s.out, buf); err != nil || string(buf) != text {
		s.t.Fatalf("echo: %q %v", buf, err)
	}
}

func (n *nexecd) ended(within time.Duration) error {
	n.t.Helper()
	select {
	case err := <-n.done:
		return err
	case <-time.After(within):
		n.t.Fatalf("nexecd does not end within %v\n%s", within, n.stderr)
		return nil
	}
}

func TestFirstStart(t *testing.T) {
	dir := prepare(t, "")
	n := start(t, dir)
	n.session()
	key := filepath.Join(dir, "state", hostKeyFile)
	info, err := os.Stat(key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	fingerprint := strings.Fields(tool(t, "ssh-keygen", "-l", "-f", key))[1]
	if !strings.Contains(n.stderr.String(), "made host key "+key+": ED25519 "+fingerprint) {
		t.Errorf("no fingerprint %s:\n%s", fingerprint, n.stderr)
	}
	again := start(t, dir)
	again.session() // the same known_hosts
	if strings.Contains(again.stderr.String(), "made host key") {
		t.Error("a second start makes a second key")
	}
}

// TestStartsTogether has several that all find no key.
func TestStartsTogether(t *testing.T) {
	dir := prepare(t, "")
	var all []*nexecd
	for range 4 {
		n := &nexecd{t: t, dir: dir, stderr: &buffer{}, done: make(chan error, 1)}
		n.cmd = command(dir, "-D", "-e", "-f", dir+"/config")
		n.run()
		all = append(all, n)
	}
	made := 0
	for _, n := range all {
		n.port = n.listening(0)
		n.session()
		made += strings.Count(n.stderr.String(), "made host key")
	}
	if made != 1 {
		t.Errorf("%d keys were made", made)
	}
}

func TestHostKeyMustLoad(t *testing.T) {
	dir := prepare(t, "")
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", dir+"/locked")
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/open")
	if err := os.Chmod(dir+"/open", 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/garbage", "garbage")
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"missing": "no such file", "garbage": "not a private key", "open": "Permissions 0644 for '" + dir + "/open' are too open",
		"locked": "passphrase", "fifo": "not a regular file", ".": "not a regular file",
	} {
		for _, flag := range []string{"-D", "-t"} {
			out, err := command(dir, flag, "-e", "-f", dir+"/config", "-h", filepath.Join(dir, name)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("%s %s: %v %q, want %q", flag, name, err, out, want)
			}
			if bytes.Contains(out, []byte("made host key")) {
				t.Errorf("%s: another key is made instead", name)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	dir := prepare(t, "LogLevel INFO")
	if out, err := command(dir, "-t", "-f", dir+"/config").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("-t: %v %s", err, out)
	}
	if exists(dir + "/state") {
		t.Error("-t makes a host key")
	}
	write(t, dir+"/config", "Port 22\n\n  PermitRootLogin maybe\n")
	out, err := command(dir, "-t", "-f", dir+"/config").CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "nexecd: "+dir+"/config:3:19: PermitRootLogin: ") {
		t.Errorf("-t: %v %s", err, out)
	}
	out, err = command(dir, "-T", "-f", "none", "-o", "MaxAuthTries=3", "-p", "2222").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "maxauthtries 3\n") || !strings.Contains(string(out), "port 2222\n") {
		t.Errorf("-T: %v %s", err, out)
	}
	for _, bad := range [][]string{{"-x"}, {"-p"}, {"file"}, {"-o", "Nonsense 1", "-t"}, {"-p", "99999", "-t"}} {
		if out, err := command(dir, bad...).CombinedOutput(); err == nil || len(out) == 0 {
			t.Errorf("%v: %v %q", bad, err, out)
		}
	}
}

// TestStockConfig starts with what Debian installs for sshd and only says
// where to listen and which keys to take.
func TestStockConfig(t *testing.T) {
	dir := prepare(t, "")
	stock := strings.Replace(readFile(t, "/usr/share/openssh/sshd_config"), "/etc/ssh/sshd_config.d/", dir+"/d/", 1)
	lines := readFile(t, dir+"/config")
	write(t, dir+"/config", lines+stock)
	n := start(t, dir)
	n.session()
	if got := strings.Count(n.stderr.String(), "level=WARN"); got != 1 || !strings.Contains(n.stderr.String(), "UsePAM: PAM is not used") {
		t.Errorf("%d warnings:\n%s", got, n.stderr)
	}
}

// TestAudit has ssh-audit look at the algorithms. Debian 12's does not know
// the post-quantum key exchange and the marker of strict key exchange, and
// warns about its own ignorance; any other warning is ours.
func TestAudit(t *testing.T) {
	n := start(t, prepare(t, ""))
	out, err := exec.Command("ssh-audit", "-n", "-p", n.port, "127.0.0.1").CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text := string(out)
	if !strings.Contains(text, "(kex) curve25519-sha256") || !strings.Contains(text, "(enc) aes128-gcm@openssh.com") {
		t.Fatalf("ssh-audit: %v\n%s", err, text)
	}
	unknown := regexp.MustCompile(`^\(kex\) (mlkem768x25519-sha256|kex-strict-s-v00@openssh.com) +-- \[warn\] unknown algorithm$`)
	for line := range strings.SplitSeq(text, "\n") {
		bad := strings.Contains(line, "[warn]") || strings.Contains(line, "[fail]") || strings.HasPrefix(line, "(rec) -") || strings.HasPrefix(line, "(rec) !")
		if bad && !unknown.MatchString(strings.TrimSpace(line)) {
			t.Errorf("ssh-audit says: %s", line)
		}
	}
}

// TestUpdateHostKeys lets ssh learn a second key from us.
func TestUpdateHostKeys(t *testing.T) {
	dir := prepare(t, "")
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		tool(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", dir+"/host_"+kind)
	}
	n := start(t, dir, "-h", dir+"/host_ed25519", "-h", dir+"/host_ecdsa", "-h", dir+"/host_rsa")
	n.session() // of a host seen for the first time ssh learns one key only
	cmd := n.ssh("-o", "LogLevel=DEBUG", "-o", "UpdateHostKeys=yes")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &buffer{}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.waitFor("known_hosts has all keys", func() bool {
		text, _ := os.ReadFile(dir + "/known")
		if strings.Contains(out.String(), "rror") {
			t.Fatal(out)
		}
		return strings.Count(string(text), "\n") >= 3
	})
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMetrics(t *testing.T) {
	dir := prepare(t, "MetricsSocket "+filepath.Join(t.TempDir(), "metrics"))
	socket := strings.TrimPrefix(strings.SplitN(readFile(t, dir+"/config"), "\n", 2)[0], "MetricsSocket ")
	n := start(t, dir)
	n.session()
	if out, err := n.ssh("-o", "IdentityFile=none", "-o", "PubkeyAuthentication=no").CombinedOutput(); err == nil {
		t.Fatalf("it gets in without a key: %s", out)
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# TYPE nexecd_logins_total counter\nnexecd_logins_total 1\n", "nexecd_sessions 1\n", "nexecd_connections_total 2\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
