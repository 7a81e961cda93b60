package dial

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestKnownHostsCommand asks ssh and us about what a command knows of a host.
func TestKnownHostsCommand(t *testing.T) {
	s := startSSHD(t)
	keygen(t, s.path("other"), "-t", "ed25519")
	key, other := keyOf(t, s.path("host_ed25519.pub")), keyOf(t, s.path("other.pub"))
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	script := func(file, text string) string {
		path := write(t, s.path(file), "#!/bin/sh\n"+text+"\n")
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	words := script("words", `echo "$@"`)
	for _, c := range []struct {
		name, command, known string
		want                 bool
		alone                bool // ssh ends before it says what it makes of the key
	}{
		{name: "the key", command: words + " " + name + " " + key, want: true},
		{name: "another key", command: words + " " + name + " " + other},
		{name: "another host", command: words + " elsewhere " + key},
		{name: "without port", command: words + " 127.0.0.1 " + key},
		{name: "tokens", command: words + " %H %t %K %f %I %p %%", want: true},
		{name: "quotes", command: words + " \"%H\" '%t' %K", want: true},
		{name: "nothing", command: words},
		{name: "a file knows it", command: words, known: name + " " + key, want: true},
		{name: "a file knows another", command: words + " " + name + " " + key, known: name + " " + other, want: true},
		{name: "revoked", command: words + " @revoked * " + key, known: name + " " + key},
		{name: "only once asked about the key", command: script("late", `[ "$1" = HOSTNAME ] && echo "$2 $3 $4"; true`) + " %I %H %t %K", want: true},
		{name: "fails", command: script("fails", "echo '"+name+" "+key+"'; exit 1"), alone: true},
		{name: "is not there", command: s.path("missing"), known: name + " " + key, alone: true},
		{name: "relative", command: "echo " + name + " " + key, alone: true},
		{name: "unknown token", command: words + " %x", alone: true},
		{name: "prints without end", command: "/bin/cat /dev/zero", known: name + " " + key, alone: true},
	} {
		s.knownHosts(c.known)
		o := s.options("KnownHostsCommand=" + c.command)
		if !c.alone {
			settings := append([]string{"PubkeyAuthentication=no", "PasswordAuthentication=no"}, o.Settings...)
			if got := sshAccepts(t, s, Options{Settings: settings}); got != c.want {
				t.Errorf("%s: ssh says %v", c.name, got)
			}
		}
		began := time.Now()
		conn, err := Dial(testContext(t), o)
		if d := time.Since(began); d > hostCommandTime/2 {
			t.Errorf("%s: it took %v", c.name, d)
		}
		if err == nil {
			conn.Close()
		}
		if (err == nil) != c.want {
			t.Errorf("%s: %v\n%v", c.name, err, o.Stderr)
		}
		var refused *HostKeyError
		if err != nil && !errors.As(err, &refused) && !strings.Contains(err.Error(), "KnownHostsCommand") {
			t.Errorf("%s: %v", c.name, err)
		}
		if text := fmt.Sprint(o.Stderr); strings.Contains(text, "-f '"+commandTag) {
			t.Errorf("%s: it says how to mend what is no file: %s", c.name, text)
		}
	}
}
