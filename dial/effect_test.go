package dial

import (
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSettingsTakeEffect looks at sshd's end of what the configuration asks for.
func TestSettingsTakeEffect(t *testing.T) {
	s := startSSHD(t, "LogLevel DEBUG", "AcceptEnv SENT_* SET", "Subsystem env /usr/bin/env", "ListenAddress 127.0.0.1")
	s.knownHosts()
	t.Setenv("SENT_ONE", "1")
	t.Setenv("SENT_TWO", "2")
	t.Setenv("SET", "overridden")
	t.Setenv("OTHER", "3")
	c := mustDial(t, s.options("BindAddress=127.0.0.3", "SendEnv=SENT_* OTHER", "SetEnv=SET=value SENT_TWO=two",
		"KexAlgorithms=ecdh-sha2-nistp384", "Ciphers=aes192-ctr", "MACs=hmac-sha2-512", "VersionAddendum=addendum"))
	ch, err := c.OpenSubsystem(testContext(t), "env")
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(ch)
	if err != nil {
		t.Fatal(err)
	}
	vars := strings.Split(string(out), "\n")
	for _, want := range []string{"SENT_ONE=1", "SENT_TWO=two", "SET=value"} {
		if !slices.Contains(vars, want) {
			t.Errorf("no %s in %q", want, vars)
		}
	}
	if strings.Contains(string(out), "OTHER=") {
		t.Errorf("sshd's AcceptEnv does not count: %q", vars)
	}
	waitFor(t, func() bool { return strings.Contains(s.logged(), "Accepted publickey") })
	for _, want := range []string{
		"Connection from 127.0.0.3", "kex: algorithm: ecdh-sha2-nistp384", "kex: client->server cipher: aes192-ctr MAC: hmac-sha2-512",
		"remote software version nexec addendum",
	} {
		if !strings.Contains(s.logged(), want) {
			t.Errorf("sshd does not say %q", want)
		}
	}
}

// TestConnectionAttempts finds a host that comes up while it is tried.
func TestConnectionAttempts(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts("* " + keyOf(t, s.path("host_ed25519.pub")))
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := probe.Addr().String()
	probe.Close()
	o := s.options("ConnectionAttempts=60")
	_, port, _ := net.SplitHostPort(addr)
	o.Destination = s.user + "@127.0.0.1:" + port
	up := make(chan net.Listener, 1)
	go func() {
		time.Sleep(1500 * time.Millisecond)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			close(up)
			return
		}
		up <- l
		if conn, err := l.Accept(); err == nil {
			s.running.Go(func() { s.serve(conn) })
		}
	}()
	began := time.Now()
	mustEcho(t, mustDial(t, o))
	if d := time.Since(began); d < time.Second {
		t.Errorf("it took %v: the host was there at once", d)
	}
	if l := <-up; l != nil {
		l.Close()
	}
	o.Settings = append([]string{"ConnectionAttempts=1"}, o.Settings...)
	o.Destination = s.user + "@127.0.0.1:" + strconv.Itoa(1)
	if _, err := Dial(testContext(t), o); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}
