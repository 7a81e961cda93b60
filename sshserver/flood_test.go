package sshserver

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestEnvironmentFlood sets variables without end before it asks for a session.
func TestEnvironmentFlood(t *testing.T) {
	s := start(t, "AcceptEnv *", script("env | grep -c ^FLOOD; env | wc -c"), nil)
	c := s.mustDial()
	before := heap()
	for round := range 2 {
		ch, reqs, err := c.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		for i := range 5000 {
			value := strings.Repeat("x", []int{10, 30000}[round])
			if _, err := ch.SendRequest("env", false, ssh.Marshal(struct{ Name, Value string }{fmt.Sprint("FLOOD", i), value})); err != nil {
				t.Fatal(err)
			}
		}
		if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"})); !ok || err != nil {
			t.Fatal(ok, err)
		}
		_ = ch.CloseWrite()
		out, err := io.ReadAll(ch)
		if err != nil {
			t.Fatal(err)
		}
		variables, bytes := 0, 0
		if _, err := fmt.Sscan(string(out), &variables, &bytes); err != nil || variables > maxEnv || bytes > maxEnvBytes+8192 || variables == 0 {
			t.Errorf("round %d: %d variables, %d bytes (%q)", round, variables, bytes, out)
		}
	}
	if after := heap(); after > before+32<<20 {
		t.Errorf("memory grew by %d MiB", (after-before)>>20)
	}
}

// TestDeafClients log in, start programs that print without end, and do not
// read: each costs its window, and others are served.
func TestDeafClients(t *testing.T) {
	s := start(t, "MaxSessions 5", script("cat /dev/zero & cat >/dev/null; kill $!"), nil)
	before := heap()
	const clients = 8
	for range clients {
		c := s.mustDial()
		for range 5 {
			ch, reqs, err := c.OpenChannel("session", nil)
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(reqs)
			if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"})); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	}
	waitFor(t, func() bool { return s.Stats().OpenSessions.Load() == clients*5 })
	time.Sleep(500 * time.Millisecond) // for what might grow
	// Both ends are in this process: 2 MiB of window and some buffers each.
	if after := heap(); after > before+clients*5*8<<20 {
		t.Errorf("memory grew by %d MiB", (after-before)>>20)
	}
	other := s.mustDial()
	if ok, _, err := other.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

// TestManyLogins has 100 clients come at once, which MaxStartups allows.
func TestManyLogins(t *testing.T) {
	s := start(t, "MaxStartups 200", echo(), nil)
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			c, err := s.dial(s.key)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			ch, reqs, err := c.OpenChannel("session", nil)
			if err != nil {
				t.Error(err)
				return
			}
			go ssh.DiscardRequests(reqs)
			_, _ = ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"}))
			_, _ = io.WriteString(ch, "hello")
			_ = ch.CloseWrite()
			if got, err := io.ReadAll(ch); err != nil || string(got) != "hello" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	wg.Wait()
}

// TestSlowAuthentication exchanges keys and then takes its time.
func TestSlowAuthentication(t *testing.T) {
	s := start(t, "LoginGraceTime 2", echo(), nil)
	release := make(chan struct{})
	defer close(release)
	for range 20 {
		go func() {
			_, _ = ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
				User: me(t), HostKeyCallback: ssh.FixedHostKey(s.host.PublicKey()),
				AuthCallback: func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
					<-release
					return nil, net.ErrClosed
				},
			})
		}()
	}
	waitFor(t, func() bool { return strings.Count(s.log.String(), "Timeout before authentication") == 20 })
	getsIn(t, s)
}

// TestSecondRequests asks for more than one thing on a channel.
func TestSecondRequests(t *testing.T) {
	s := start(t, "", echo(), nil)
	c := s.mustDial()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, kind := range []string{"subsystem", "exec", "shell", "env", "pty-req", "auth-agent-req@openssh.com"} {
		if ok, err := ch.SendRequest(kind, true, ssh.Marshal(struct{ S string }{"nexec"})); ok || err != nil {
			t.Errorf("%s on a channel in use: %v %v", kind, ok, err)
		}
	}
	if _, err := io.WriteString(ch, "still"); err != nil {
		t.Fatal(err)
	}
	_ = ch.CloseWrite()
	if got, err := io.ReadAll(ch); err != nil || string(got) != "still" {
		t.Errorf("%q %v", got, err)
	}
	if n := s.Stats().Sessions.Load(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// TestIPv6 serves on ::1 and counts its sources by their networks.
func TestIPv6(t *testing.T) {
	s := start(t, "PerSourceMaxStartups 2\nPerSourceNetBlockSize 32:64", echo(), nil)
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	s.authorize(`from="::1" ` + line(s.key.PublicKey()))
	if logsIn(s.addr, me(t), s.key) {
		t.Error("from= does not see the difference")
	}
	c, err := dialAs(l.Addr().String(), me(t), s.key)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.log)
	}
	if got := roundTrip(t, c, "six"); got != "six" {
		t.Error(got)
	}
	if !strings.Contains(s.log.String(), "from ::1 port") {
		t.Errorf("log: %s", s.log)
	}
	c.Close()
	for range 2 {
		nc, err := net.Dial("tcp6", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := nc.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if logsIn(l.Addr().String(), me(t), s.key) {
		t.Error("PerSourceMaxStartups does not count IPv6")
	}
	l.Close()
	<-served
}

// TestUnusedConnection closes a connection that has no session for too long.
func TestUnusedConnection(t *testing.T) {
	s := start(t, "UnusedConnectionTimeout 1", echo(), nil)
	c := s.mustDial()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	time.Sleep(1500 * time.Millisecond) // in use
	if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Fatalf("a connection in use is closed: %v", err)
	}
	ch.Close()
	waitFor(t, func() bool { return s.Stats().OpenConns.Load() == 0 })
	if !strings.Contains(s.log.String(), "Closing unused connection") {
		t.Error("the log does not say so")
	}
}
