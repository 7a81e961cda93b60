package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be a ProxyCommand: what netcat does.
func TestMain(m *testing.M) {
	addr := os.Getenv("DIAL_TEST_CONNECT")
	if addr == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(os.Stdout, conn)
}

func TestProxyCommand(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts(fmt.Sprintf("[far.example]:%d %s", s.port, keyOf(t, s.path("host_ed25519.pub"))))
	pidFile := s.path("pid")
	t.Setenv("DIAL_TEST_CONNECT", fmt.Sprintf("127.0.0.1:%d", s.port))
	command := fmt.Sprintf("sh -c 'echo $$ %%h %%p %%n %%r >%s; exec %s'", pidFile, os.Args[0])
	o := s.options("ProxyCommand="+command, "Hostname=%h.example")
	o.Destination = fmt.Sprintf("%s@far:%d", s.user, s.port)
	c, err := Dial(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	mustEcho(t, c)
	fields := strings.Fields(read(t, pidFile))
	if got, want := strings.Join(fields[1:], " "), fmt.Sprintf("far.example %d far %s", s.port, s.user); got != want {
		t.Errorf("the command got %q, want %q", got, want)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	pid, _ := strconv.Atoi(fields[0])
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the command, pid %d, is still there: %v", pid, err)
	}
}

func TestProxyCommandFails(t *testing.T) {
	o := Options{Destination: "h", ConfigFile: "none", Settings: []string{"ProxyCommand=exit 3"}, Home: t.TempDir(), Stderr: &lockedBuffer{}}
	begin := time.Now()
	_, err := Dial(testContext(t), o)
	if err == nil || strings.Contains(err.Error(), "\n") || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	o.Settings = []string{"ProxyCommand=sleep 100 & wait", "ConnectTimeout=1"}
	begin = time.Now()
	_, err = Dial(testContext(t), o)
	var connect *ConnectError
	if !errors.As(err, &connect) || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	o.Settings, o.User = []string{"ProxyCommand=nc %h %p"}, "a;reboot"
	if _, err := Dial(testContext(t), o); err == nil || !strings.Contains(err.Error(), "invalid characters") {
		t.Errorf("a user name with shell syntax: %v", err)
	}
}

// TestProxyJump goes through two hops to a third host, each with a key, a
// known_hosts file and a configuration of its own.
func TestProxyJump(t *testing.T) {
	hops := []*sshd{startSSHD(t), startSSHD(t), startSSHD(t)}
	var config strings.Builder
	for i, s := range hops {
		s.knownHosts()
		fmt.Fprintf(&config, "Host hop%d\n Hostname 127.0.0.1\n Port %d\n User %s\n IdentityFile %s\n UserKnownHostsFile %s\n", i, s.port, s.user, s.path("id"), s.path("known_hosts"))
	}
	config.WriteString("Host via1\n ProxyJump hop0,hop1\nHost via1\n Hostname 127.0.0.1\nHost hop2\n ProxyJump hop1\nHost hop1\n ProxyJump hop0\n" +
		"Host loop1\n ProxyJump loop2\nHost loop2\n ProxyJump loop1\nHost *\n IdentityAgent none\n IdentitiesOnly yes\n GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n")
	dir := tempDir(t)
	o := Options{Destination: "hop2", ConfigFile: write(t, filepath.Join(dir, "config"), config.String()), Home: dir, Stderr: &lockedBuffer{}}
	c := mustDial(t, o)
	mustEcho(t, c)
	for i, s := range hops {
		if s.connections() != 1 {
			t.Errorf("hop %d has seen %d connections", i, s.connections())
		}
	}
	o.Jump = "hop0"
	mustEcho(t, mustDial(t, o))
	if hops[1].connections() != 1 || hops[0].connections() != 2 {
		t.Errorf("-J did not win: %d and %d connections", hops[0].connections(), hops[1].connections())
	}
	o.Jump = ""
	o.Destination = "loop1"
	if _, err := Dial(testContext(t), o); err == nil || !strings.Contains(err.Error(), "circle") {
		t.Errorf("a circle of jumps: %v", err)
	}
	// A hop whose key is not known stops everything.
	hops[0].knownHosts("# nothing")
	o.Destination = "hop2"
	var bad *HostKeyError
	if _, err := Dial(testContext(t), o); !errors.As(err, &bad) || !strings.Contains(err.Error(), "hop0") {
		t.Errorf("an unknown jump host: %v", err)
	}
	hops[0].knownHosts()
	hops[1].listener.Close()
	if _, err := Dial(testContext(t), o); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "cannot connect on") {
		t.Errorf("a hop that is down: %v", err)
	}
}

// startMaster runs ssh as a control master.
func startMaster(t *testing.T, s *sshd) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "cm")
	args := []string{"-F", "none", "-p", strconv.Itoa(s.port), "-M", "-N", "-o", "ControlPath=" + path}
	for _, set := range s.options().Settings {
		args = append(args, "-o", set)
	}
	cmd := exec.Command("ssh", append(args, s.user+"@127.0.0.1")...)
	cmd.Stderr = s
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	waitFor(t, func() bool { _, err := os.Stat(path); return err == nil })
	return path
}

func TestControlMaster(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	path := startMaster(t, s)
	// No key: only the master's connection can serve.
	o := s.options("ControlPath="+path, "PubkeyAuthentication=no", "ServerAliveInterval=1", "UpdateHostKeys=yes")
	c := mustDial(t, o)
	if !c.Shared() {
		t.Error("not over the master")
	}
	mustEcho(t, c)
	time.Sleep(1500 * time.Millisecond) // a keepalive would end the mux client now
	mustEcho(t, c)
	ch, err := c.OpenSubsystem(testContext(t), "nothing")
	if err != nil {
		t.Fatal(err)
	}
	var sub *SubsystemError
	if _, err := ch.Read(make([]byte, 1)); !errors.As(err, &sub) {
		t.Errorf("no such subsystem: %v", err)
	}
	mustEcho(t, c)
	if s.connections() != 1 {
		t.Errorf("%d connections", s.connections())
	}
	// Nor does a time of RekeyLimit matter: the master's connection has its own.
	if c = mustDial(t, s.options("ControlPath="+path, "RekeyLimit=1G 1h")); !c.Shared() {
		t.Error("RekeyLimit with a time: not over the master")
	}
	// Those that would be masters themselves do not ask one, and a socket
	// nobody listens on is passed by.
	c = mustDial(t, s.options("ControlPath="+path, "ControlMaster=yes"))
	if c.Shared() {
		t.Error("ControlMaster=yes went over the master")
	}
	c = mustDial(t, s.options("ControlPath="+s.path("no-socket")))
	if c.Shared() {
		t.Error("shared without a socket")
	}
}

func TestConnectErrors(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := closed.Addr().(*net.TCPAddr).Port
	closed.Close()
	greeter := func(text string) int {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, text)
				time.AfterFunc(2*time.Second, func() { conn.Close() }) // the client is gone by then
			}
		}()
		return l.Addr().(*net.TCPAddr).Port
	}
	for _, c := range []struct {
		name, dest string
		want       string
	}{
		{"refused", fmt.Sprintf("127.0.0.1:%d", port), "connection refused: check the port"},
		{"silent", fmt.Sprintf("127.0.0.1:%d", greeter("")), "timeout"},
		{"http", fmt.Sprintf("127.0.0.1:%d", greeter("HTTP/1.1 400 Bad Request\r\n\r\n")), "check that an SSH server runs on this port"},
		{"ssh 1", fmt.Sprintf("127.0.0.1:%d", greeter("SSH-1.5-old\r\n")), "check that an SSH server runs on this port"},
		{"no such host", "no-such-host.invalid", "could not resolve hostname"},
		{"empty", "", "no host name"},
		{"option", "-oProxyCommand=x", "invalid characters"},
		{"bad port", "h:70000", "bad port"},
	} {
		o := Options{Destination: c.dest, ConfigFile: "none", Settings: []string{"ConnectTimeout=1"}, Home: t.TempDir(), Stderr: io.Discard}
		begin := time.Now()
		_, err := Dial(testContext(t), o)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", c.name, err)
		}
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("%s took %v", c.name, took)
		}
	}
}

func TestCancel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = Dial(ctx, Options{Destination: "ssh://" + l.Addr().String(), ConfigFile: "none", Home: t.TempDir(), Stderr: io.Discard})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestConnectionLost(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	c := mustDial(t, s.options())
	ch, err := c.OpenSubsystem(testContext(t), "nexec")
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Accepted(testContext(t)); err != nil {
		t.Fatal(err)
	}
	s.cut()
	var lost *LostError
	if _, err := io.Copy(io.Discard, ch); !errors.As(err, &lost) {
		// sshd's session process may have closed the channel in time.
		t.Logf("Read: %v", err)
	}
	if err := c.Wait(); !errors.As(err, &lost) || strings.Contains(err.Error(), "\n") {
		t.Errorf("Wait: %v", err)
	}
}

// TestServerAlive stops a server: it is found out within the time set.
func TestServerAlive(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	c := mustDial(t, s.options("ServerAliveInterval=1", "ServerAliveCountMax=1"))
	time.Sleep(2500 * time.Millisecond)
	mustEcho(t, c) // answered keepalives keep it
	s.signal(syscall.SIGSTOP)
	begin := time.Now()
	err := c.Wait()
	var lost *LostError
	if took := time.Since(begin); !errors.As(err, &lost) || !strings.Contains(err.Error(), "not responding") || took > 6*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
}

func TestIPv6(t *testing.T) {
	s := startSSHD(t)
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Logf("no IPv6 here (%v): an address is only resolved", err)
		c, err := Resolve(context.Background(), Options{Destination: "a@[::1]:99", ConfigFile: "none", Home: "/"})
		if err != nil || c.HostName != "::1" || c.Port != 99 || c.User != "a" {
			t.Errorf("config %+v, %v", c, err)
		}
		return
	}
	port := l.Addr().(*net.TCPAddr).Port
	v6 := &sshd{t: t, dir: s.dir, listener: l, port: port, user: s.user, cmds: map[*exec.Cmd]bool{}}
	v6.running.Go(v6.accept)
	t.Cleanup(v6.stop)
	s.knownHosts(fmt.Sprintf("[::1]:%d %s", port, keyOf(t, s.path("host_ed25519.pub"))))
	o := s.options("AddressFamily=inet6")
	for _, dest := range []string{fmt.Sprintf("%s@[::1]:%d", s.user, port), fmt.Sprintf("ssh://%s@[::1]:%d", s.user, port)} {
		o.Destination = dest
		mustEcho(t, mustDial(t, o))
	}
	o.Settings = append([]string{"AddressFamily=inet"}, o.Settings...)
	if _, err := Dial(testContext(t), o); err == nil {
		t.Error("AddressFamily inet went to ::1")
	}
}
