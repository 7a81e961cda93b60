package dial

import (
	"errors"
	"strings"
	"testing"
)

func TestDialAndEcho(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	c := mustDial(t, s.options())
	mustEcho(t, c)
	mustEcho(t, c)
	if got := c.Config().Port; got != s.port {
		t.Errorf("port %d, want %d", got, s.port)
	}
}

func TestNoSuchSubsystem(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	c := mustDial(t, s.options())
	ch, err := c.OpenSubsystem(testContext(t), "nothing")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ch.Read(make([]byte, 1))
	var sub *SubsystemError
	if !errors.As(err, &sub) || !strings.Contains(err.Error(), "Subsystem nothing") {
		t.Errorf("Read: %v", err)
	}
	if err := ch.Accepted(testContext(t)); !errors.As(err, &sub) {
		t.Errorf("Accepted: %v", err)
	}
}
