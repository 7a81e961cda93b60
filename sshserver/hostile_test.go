package sshserver

import (
	"bytes"
	"encoding/binary"

	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// getsIn fails the test unless the real owner of the key logs in and gets an
// answer within 2 s. On a machine that others use as well it may take a few
// attempts to see that.
func getsIn(t *testing.T, s *testServer) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		began := time.Now()
		c, err := s.dial(s.key)
		if err != nil {
			t.Fatalf("a legitimate client does not get in: %v", err)
		}
		got := roundTrip(t, c, "hello")
		c.Close()
		if got != "hello" {
			t.Errorf("echo answers %q", got)
		}
		took = append(took, time.Since(began))
		if took[len(took)-1] <= 2*time.Second {
			return
		}
	}
	t.Errorf("it took %v", took)
}

func roundTrip(t *testing.T, c *ssh.Client, text string) string {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	defer ch.Close()
	ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"nexec"}))
	if err != nil || !ok {
		t.Fatalf("subsystem: %v %v", ok, err)
	}
	if _, err := io.WriteString(ch, text); err != nil {
		t.Fatal(err)
	}
	if err := ch.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(ch)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// TestHalfOpen makes 10,000 connections that say nothing, as many at a time as
// descriptors allow.
func TestHalfOpen(t *testing.T) {
	s := start(t, "", echo(), nil)
	before := heap()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	const atOnce = 1000 // both ends have a descriptor
	for i := range 10000 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		if len(conns) < atOnce {
			conns = append(conns, c)
		} else {
			conns[i%atOnce].Close()
			conns[i%atOnce] = c
		}
		if i == 5000 {
			getsIn(t, s)
		}
	}
	getsIn(t, s)
	if n := s.startups.len(); n > 256 {
		t.Errorf("%d connections wait; MaxStartups is 256", n)
	}
	if after := heap(); after > before+64<<20 {
		t.Errorf("memory grew by %d MiB", (after-before)>>20)
	}
}

// TestSlowLoris has clients that send a byte now and then.
func TestSlowLoris(t *testing.T) {
	s := start(t, "LoginGraceTime 2", echo(), nil)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 300 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			for _, b := range []byte(strings.Repeat("SSH-2.0-slow", 100)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	getsIn(t, s)
	deadline := time.Now().Add(20 * time.Second)
	for s.startups.len() > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if n := s.startups.len(); n > 0 {
		t.Errorf("%d connections are still there after LoginGraceTime", n)
	}
	close(stop)
	wg.Wait()
	if !strings.Contains(s.log.String(), "Timeout before authentication") {
		t.Error("the log does not say so")
	}
}

// packet is an SSH packet before encryption.
func packet(payload []byte) []byte {
	pad := 8 - (5+len(payload))%8
	if pad < 4 {
		pad += 8
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+pad))
	b = append(b, byte(pad))
	return append(append(b, payload...), make([]byte, pad)...)
}

// TestBrokenPackets says things that no client says.
func TestBrokenPackets(t *testing.T) {
	s := start(t, "", echo(), nil)
	version := []byte("SSH-2.0-x\r\n")
	cases := map[string][]byte{
		"nothing":             {},
		"another protocol":    []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"SSH 1":               []byte("SSH-1.5-old\r\n"),
		"endless version":     bytes.Repeat([]byte("A"), 1<<20),
		"version with NULs":   append(version[:9:9], make([]byte, 4096)...),
		"huge length":         append(version[:len(version):len(version)], 0xff, 0xff, 0xff, 0xff, 0),
		"zero length":         append(version[:len(version):len(version)], 0, 0, 0, 0, 0),
		"padding over length": append(version[:len(version):len(version)], 0, 0, 0, 12, 255, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		"cut off":             append(version[:len(version):len(version)], packet([]byte{20})[:7]...),
		"empty kexinit":       append(version[:len(version):len(version)], packet([]byte{20})...),
		"auth before kex":     append(version[:len(version):len(version)], packet(ssh.Marshal(struct{ Type byte }{50}))...),
		"kexinit of lists":    append(version[:len(version):len(version)], packet(append(append([]byte{20}, make([]byte, 16)...), bytes.Repeat([]byte{0, 0, 255, 255}, 30)...))...),
		"newkeys first":       append(version[:len(version):len(version)], packet([]byte{21})...),
		"disconnect":          append(version[:len(version):len(version)], packet([]byte{1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})...),
		"random":              append(version[:len(version):len(version)], bytes.Repeat([]byte{7, 99, 1, 250, 13}, 50000)...),
	}
	for name, data := range cases {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Write(data) // the server may have hung up already
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: the server keeps the connection", name)
		}
		c.Close()
	}
	getsIn(t, s)
	if strings.Contains(s.log.String(), "panic") {
		t.Error(s.log)
	}
}

// TestHostileNames tries user names of all kinds.
func TestHostileNames(t *testing.T) {
	s := start(t, "", echo(), nil)
	for _, name := range []string{
		"", "\x00", "../../etc/passwd", "root\n", "%h", "-oProxyCommand=x", "a:b", "\x1b[2Jroot", "ünï", strings.Repeat("u", 1000),
		strings.Repeat("u", 200<<10), strings.Repeat("u", 1<<20), "root ", " root", "ROOT", "root:x:0:0",
	} {
		c, err := dialAs(s.addr, name, s.key)
		if err == nil {
			c.Close()
			t.Errorf("%.20q gets in", name)
		}
	}
	getsIn(t, s)
	if log := s.log.String(); strings.ContainsAny(log, "\x00\x1b") || len(log) > 100<<10 {
		t.Errorf("names of clients are in the log as they came (%d bytes)", len(log))
	}
}

// TestThousandKeys offers keys until it is stopped.
func TestThousandKeys(t *testing.T) {
	s := start(t, "", echo(), nil)
	keys := make([]ssh.Signer, 1000)
	for i := range keys {
		keys[i] = newKey(t)
	}
	c, err := s.dial(append(keys, s.key)...)
	if err == nil {
		c.Close()
		t.Fatal("1,001 keys were tried")
	}
	if !strings.Contains(err.Error(), "too many authentication failures") {
		t.Errorf("the client is told %q", err)
	}
	if n := strings.Count(s.log.String(), "Failed publickey"); n != 6 {
		t.Errorf("%d tries; MaxAuthTries is 6", n)
	}
	getsIn(t, s)
}

// TestNoneNeverSucceeds tries methods that there are none of.
func TestNoneNeverSucceeds(t *testing.T) {
	s := start(t, "PasswordAuthentication yes\nPermitEmptyPasswords yes", echo(), nil)
	for name, auth := range map[string][]ssh.AuthMethod{
		"none":     nil,
		"password": {ssh.Password("")},
		"keyboard": {ssh.KeyboardInteractive(func(_, _ string, q []string, _ []bool) ([]string, error) { return make([]string, len(q)), nil })},
	} {
		_, err := ssh.Dial("tcp", s.addr, &ssh.ClientConfig{User: me(t), Auth: auth, HostKeyCallback: ssh.FixedHostKey(s.host.PublicKey())})
		if err == nil {
			t.Errorf("%s gets in", name)
		} else if !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSameAnswers compares what a stranger is told about a user that exists
// and one that does not.
func TestSameAnswers(t *testing.T) {
	s := start(t, "", echo(), nil)
	answers := map[string]bool{}
	for _, name := range []string{me(t), "nosuchuser", "daemon"} {
		_, err := dialAs(s.addr, name, newKey(t))
		if err == nil {
			t.Fatal("a stranger gets in")
		}
		answers[err.Error()] = true
	}
	if len(answers) != 1 {
		t.Errorf("answers differ: %v", answers)
	}
}

// TestRequestsRefused asks for all that there is none of.
func TestRequestsRefused(t *testing.T) {
	s := start(t, "MaxSessions 2\nAllowAgentForwarding no", echo(), nil)
	c := s.mustDial()
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "x11", "forwarded-tcpip", "tun@openssh.com", "\x1b[2J", ""} {
		if ch, _, err := c.OpenChannel(kind, make([]byte, 100)); err == nil {
			ch.Close()
			t.Errorf("channel %q is opened", kind)
		}
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "no-more-sessions@openssh.com", "hostkeys-prove-00@openssh.com", "x"} {
		if ok, _, err := c.SendRequest(kind, true, []byte{0, 0, 0, 9}); ok || err != nil {
			t.Errorf("request %q: %v %v", kind, ok, err)
		}
	}
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for _, kind := range []string{"shell", "exec", "pty-req", "x11-req", "auth-agent-req@openssh.com", "env", "window-change", "signal", "subsystem", ""} {
		for _, payload := range [][]byte{nil, {0, 0, 0, 4, 's', 'f', 't', 'p'}, {255, 255, 255, 255}, bytes.Repeat([]byte{0}, 30000)} {
			if ok, err := ch.SendRequest(kind, true, payload); ok || err != nil {
				t.Errorf("request %q with %d bytes: %v %v", kind, len(payload), ok, err)
			}
		}
	}
	second, _, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.OpenChannel("session", nil); err == nil || !strings.Contains(err.Error(), "no more sessions") {
		t.Errorf("a third session: %v", err)
	}
	second.Close()
	ch.Close()
	getsIn(t, s)
}

// TestPerSourceMaxStartups and penalties keep one source out.
func TestPerSourceLimits(t *testing.T) {
	s := start(t, "PerSourceMaxStartups 3\nPerSourcePenalties yes", echo(), nil)
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := c.Read(make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.dial(s.key); err == nil {
		t.Error("a fourth connection gets in")
	}
	for _, c := range conns {
		c.Close()
	}
	waitFor(t, func() bool { return s.startups.len() == 0 })
	for range 4 {
		if _, err := s.dial(newKey(t)); err == nil {
			t.Fatal("a stranger gets in")
		}
	}
	waitFor(t, func() bool { _, err := s.dial(s.key); return err != nil })
	if !strings.Contains(s.log.String(), "reason=penalty") {
		t.Errorf("no penalty in the log:\n%s", s.log)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("it does not happen within 20 s")
}

// TestDrops holds the random early drop to sshd's arithmetic.
func TestDrops(t *testing.T) {
	for _, c := range []struct {
		n, low, high int
	}{{9, 0, 0}, {10, 22, 38}, {55, 55, 75}, {100, 100, 100}, {1000, 100, 100}} {
		hits := 0
		for range 1000 {
			if drops(struct{ Start, Rate, Full int }{10, 30, 100}, c.n) {
				hits++
			}
		}
		if hits < c.low*10 || hits > c.high*10 {
			t.Errorf("at %d connections %d of 1000 are dropped", c.n, hits)
		}
	}
}

// TestKeepAlive cuts a client that does not answer.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	s := start(t, "ClientAliveInterval 1\nClientAliveCountMax 2", echo(), nil)
	ours, theirs := net.Pipe()
	defer ours.Close()
	tcp, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	deaf := make(chan struct{})
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := tcp.Read(buf)
			if err != nil {
				return
			}
			select {
			case <-deaf:
			default:
				_, _ = theirs.Write(buf[:n])
			}
		}
	}()
	go func() { _, _ = io.Copy(tcp, theirs) }()
	sc, chans, reqs, err := ssh.NewClientConn(ours, s.addr, &ssh.ClientConfig{
		User: me(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(s.key)}, HostKeyCallback: ssh.FixedHostKey(s.host.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	c := ssh.NewClient(sc, chans, reqs)
	if got := roundTrip(t, c, "x"); got != "x" {
		t.Fatal(got)
	}
	time.Sleep(2500 * time.Millisecond) // an idle client that answers stays
	if got := roundTrip(t, c, "y"); got != "y" {
		t.Fatal(got)
	}
	close(deaf)
	waitFor(t, func() bool { return strings.Contains(s.log.String(), "client not responding") })
	waitFor(t, func() bool { return s.Stats().OpenConns.Load() == 0 })
}
