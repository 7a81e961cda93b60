package sshserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/crypto/ssh"
)

// lockedBuffer is a log that tests read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// testServer is a server on loopback with everything below a directory.
type testServer struct {
	*Server
	t    testing.TB
	dir  string // root-owned or ours, closed to others
	addr string
	log  *lockedBuffer
	key  ssh.Signer // in authorized_keys unless a test changes the file
	host ssh.Signer
	cfg  *sshdconfig.Config
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func line(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }

func me(t testing.TB) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// echo answers with what it reads.
func echo() map[string]Handler {
	return map[string]Handler{"nexec": HandlerFunc(func(s *Session) Exit {
		_, _ = io.Copy(s, s)
		return Exit{}
	})}
}

// start serves with further lines of configuration. authorized_keys is
// dir/keys, without StrictModes unless the lines say so.
func start(t *testing.T, lines string, handlers map[string]Handler, accounts *Accounts) *testServer {
	t.Helper()
	return startWith(t, t.TempDir(), lines, handlers, accounts)
}

func startWith(t testing.TB, dir, lines string, handlers map[string]Handler, accounts *Accounts) *testServer {
	t.Helper()
	s := &testServer{t: t, dir: dir, log: &lockedBuffer{}, key: newKey(t), host: newKey(t)}
	s.authorize(line(s.key.PublicKey()))
	text := lines + "\nStrictModes no\nAuthorizedKeysFile " + s.dir + "/keys\n"
	cfg, err := sshdconfig.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s.cfg = cfg
	if accounts == nil {
		accounts = &Accounts{}
	}
	log := NewLog(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}), cfg.Global.LogLevel)
	s.Server = New(&Config{
		HostKeys: []ssh.Signer{s.host},
		Auth:     &Authorizer{Config: cfg, Accounts: accounts, Log: log},
		Handlers: handlers, Log: log,
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

func (s *testServer) authorize(text string) {
	s.t.Helper()
	// A new file each time: a server may be reading the old one.
	tmp := filepath.Join(s.dir, "keys.new")
	if err := os.WriteFile(tmp, []byte(text+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, "keys")); err != nil {
		s.t.Fatal(err)
	}
}

func dialAs(addr, name string, keys ...ssh.Signer) (*ssh.Client, error) {
	return ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User:            name,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // a throw-away server
		Timeout:         10 * time.Second,
	})
}

func (s *testServer) dial(keys ...ssh.Signer) (*ssh.Client, error) {
	s.t.Helper()
	return dialAs(s.addr, me(s.t), keys...)
}

// mustDial logs in with the server's own test key.
func (s *testServer) mustDial() *ssh.Client {
	s.t.Helper()
	c, err := s.dial(s.key)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.log)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// tool runs a program of OpenSSH's and returns its output.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// realSSHD starts Debian's sshd with a configuration and waits until it listens.
func realSSHD(t *testing.T, dir, lines string) (addr string, log func() string) {
	t.Helper()
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	hostKey := filepath.Join(dir, "sshd_host_key")
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = probe.Addr().String()
	probe.Close()
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nPidFile none\nUsePAM no\nLogLevel DEBUG\nMaxStartups 1000\n%s\n", port, hostKey, lines)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := &lockedBuffer{}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "/usr/sbin/sshd", "-D", "-e", "-f", config)
	cmd.Stderr = out
	cmd.WaitDelay = time.Second // its children have standard error too
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	for range 200 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, out.String
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("sshd does not listen: %s", out)
	return "", nil
}
