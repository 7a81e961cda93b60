package dial

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshd is a real sshd for one test: each connection to its listener gets one,
// in inetd mode, so that the kernel picks the port.
type sshd struct {
	t        testing.TB
	dir      string
	listener net.Listener
	port     int
	user     string
	mu       sync.Mutex
	log      bytes.Buffer
	running  sync.WaitGroup
	conns    int
	cmds     map[*exec.Cmd]bool
}

// Write takes sshd's log.
func (s *sshd) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *sshd) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// keygen makes a key file and returns its path.
func keygen(t testing.TB, path string, args ...string) string {
	t.Helper()
	args = append([]string{"-q", "-f", path}, args...)
	if !strings.Contains(strings.Join(args, " "), "-N ") {
		args = append(args, "-N", "")
	}
	run(t, "ssh-keygen", args...)
	return path
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tempDir is a directory that sshd accepts the owner of.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startSSHD starts one with an ed25519 host key, or those given, and a user
// key "id" that it accepts. The subsystem "nexec" is cat.
func startSSHD(t testing.TB, config ...string) *sshd {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := &sshd{t: t, dir: tempDir(t), user: u.Username, cmds: map[*exec.Cmd]bool{}}
	keygen(t, s.path("host_ed25519"), "-t", "ed25519")
	keygen(t, s.path("id"), "-t", "ed25519")
	write(t, s.path("authorized_keys"), read(t, s.path("id.pub")))
	conf := []string{
		"StrictModes no", "UsePAM no", "PidFile none", "LogLevel VERBOSE", "AuthorizedKeysFile " + s.path("authorized_keys"),
		"Subsystem nexec /bin/cat", "Subsystem fail /bin/false", "PermitRootLogin yes",
	}
	if !strings.Contains(strings.Join(config, "\n"), "HostKey ") {
		conf = append(conf, "HostKey "+s.path("host_ed25519"))
	}
	conf = append(config, conf...) // the first wins
	write(t, s.path("sshd_config"), strings.ReplaceAll(strings.Join(conf, "\n"), "@DIR@", s.dir)+"\n")
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's privilege separation wants it
			t.Fatal(err)
		}
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.port = s.listener.Addr().(*net.TCPAddr).Port
	s.running.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

func (s *sshd) path(name string) string { return filepath.Join(s.dir, name) }

func (s *sshd) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		s.running.Go(func() { s.serve(conn) })
	}
}

func (s *sshd) serve(conn net.Conn) {
	f, err := conn.(*net.TCPConn).File()
	conn.Close()
	if err != nil {
		return
	}
	cmd := exec.Command("/usr/sbin/sshd", "-i", "-e", "-f", s.path("sshd_config"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, s
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // for signal
	err = cmd.Start()
	f.Close()
	if err != nil {
		fmt.Fprintln(s, err)
		return
	}
	s.mu.Lock()
	s.cmds[cmd] = true
	s.mu.Unlock()
	_ = cmd.Wait()
	s.mu.Lock()
	delete(s.cmds, cmd)
	s.mu.Unlock()
}

// connections is how many have been made.
func (s *sshd) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// cut kills the sshds of all connections.
func (s *sshd) cut() { s.signal(syscall.SIGKILL) }

// signal sends a signal to the sshds of all connections and their children,
// one of which has the connection.
func (s *sshd) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.cmds {
		_ = syscall.Kill(-cmd.Process.Pid, sig)
	}
}

func (s *sshd) stop() {
	s.listener.Close()
	s.cut()
	s.running.Wait()
	if s.t.Failed() {
		lines := strings.Split(s.logged(), "\n")
		s.t.Logf("sshd:\n%s", strings.Join(lines[max(0, len(lines)-12):], "\n"))
	}
}

// knownHosts writes the host key into a file as a client would know it.
func (s *sshd) knownHosts(lines ...string) string {
	if lines == nil {
		lines = []string{fmt.Sprintf("[127.0.0.1]:%d %s", s.port, keyOf(s.t, s.path("host_ed25519.pub")))}
	}
	return write(s.t, s.path("known_hosts"), strings.Join(lines, "\n")+"\n")
}

// keyOf is type and base64 of a public key file.
func keyOf(t testing.TB, pub string) string {
	f := strings.Fields(read(t, pub))
	return f[0] + " " + f[1]
}

// options are those of a client that knows the host and has the key. No file
// of the machine's own is read.
func (s *sshd) options(settings ...string) Options {
	base := []string{
		"IdentityAgent=none", "IdentitiesOnly=yes", "IdentityFile=" + s.path("id"), "StrictHostKeyChecking=yes",
		"UserKnownHostsFile=" + s.path("known_hosts"), "GlobalKnownHostsFile=none", "UpdateHostKeys=no",
	}
	return Options{
		Destination: s.user + "@127.0.0.1:" + strconv.Itoa(s.port), ConfigFile: "none", Settings: append(settings, base...),
		Prompt: &answers{t: s.t}, Stderr: &lockedBuffer{}, Home: s.dir,
	}
}

// answers is a Prompter with answers given beforehand.
type answers struct {
	t    testing.TB
	mu   sync.Mutex
	give []string
	got  []Question
}

func (a *answers) Ask(_ context.Context, q Question) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, q)
	if len(a.give) == 0 {
		return "", ErrCannotAsk
	}
	answer := a.give[0]
	a.give = a.give[1:]
	return answer, nil
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// mustDial connects; the connection is closed at the end of the test.
func mustDial(t testing.TB, o Options) *Conn {
	t.Helper()
	c, err := Dial(testContext(t), o)
	if err != nil {
		t.Fatalf("Dial: %v\n%v", err, o.Stderr)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// mustEcho sends bytes through the subsystem "nexec", which is cat.
func mustEcho(t testing.TB, c *Conn) {
	t.Helper()
	ch, err := c.OpenSubsystem(testContext(t), "nexec")
	if err != nil {
		t.Fatal(err)
	}
	const text = "hello over there\n"
	if _, err := ch.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := ch.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(ch); err != nil || got.String() != text {
		t.Fatalf("read %q, %v; stderr %s", got.String(), err, ch.Stderr())
	}
	if st, ok := ch.Status(testContext(t)); !ok || st != (ExitStatus{}) {
		t.Errorf("status %+v, %v", st, ok)
	}
	ch.Close()
}

// waitFor waits for what another goroutine or process is about to do.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for range 500 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("did not happen within 5 s")
}

func parseKey(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}
