package dial

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/keys"
)

// sshAccepts reports whether the real ssh, with the same settings, accepts the
// host's key. It has no user key, so that the host's refusal says so sooner
// than a session would.
func sshAccepts(t *testing.T, s *sshd, o Options) bool {
	t.Helper()
	args := []string{"-F", "none", "-p", strconv.Itoa(s.port), "-o", "BatchMode=yes"}
	for _, set := range o.Settings {
		args = append(args, "-o", set)
	}
	out, err := exec.Command("ssh", append(args, "-s", s.user+"@127.0.0.1", "nexec")...).CombinedOutput()
	denied := strings.Contains(string(out), "Permission denied")
	if err == nil || !denied && !strings.Contains(string(out), "Host key verification failed.") {
		t.Fatalf("ssh: %v, %s", err, out)
	}
	return denied
}

// TestHostKeyVerdicts holds the verdict about many known_hosts files to that
// of the real ssh.
func TestHostKeyVerdicts(t *testing.T) {
	s := startSSHD(t, "HostKey @DIR@/host_ed25519", "HostCertificate @DIR@/host_ed25519-cert.pub")
	keygen(t, s.path("ca"), "-t", "ed25519")
	keygen(t, s.path("other"), "-t", "ed25519")
	keygen(t, s.path("ecdsa"), "-t", "ecdsa")
	sign := func(args ...string) {
		run(t, "ssh-keygen", append(append([]string{"-q", "-s", s.path("ca"), "-I", "h", "-h"}, args...), s.path("host_ed25519.pub"))...)
	}
	sign("-n", "127.0.0.1")
	key, other, ca, ecdsa := keyOf(t, s.path("host_ed25519.pub")), keyOf(t, s.path("other.pub")), keyOf(t, s.path("ca.pub")), keyOf(t, s.path("ecdsa.pub"))
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	cases := []struct {
		name  string
		sign  []string // of the host's certificate, when it differs
		lines []string
		want  bool // with StrictHostKeyChecking=yes
	}{
		{name: "plain", lines: []string{name + " " + key}, want: true},
		{name: "nothing", lines: []string{"# empty"}},
		{name: "several names", lines: []string{"a," + name + ",b " + key}, want: true},
		{name: "upper case pattern", lines: []string{"[127.0.0.1]:* " + key}, want: true},
		{name: "wildcard", lines: []string{"* " + key}, want: true},
		{name: "negated with port", lines: []string{"*,!" + name + " " + key}, want: true}, // by * for the name without port
		{name: "negated", lines: []string{"*,!" + name + ",!127.0.0.1 " + key}},
		{name: "negated first", lines: []string{"!*127.0.0.1*,* " + key}},
		{name: "hashed", lines: []string{keys.HashHost(name) + " " + key}, want: true},
		{name: "hashed other", lines: []string{keys.HashHost("elsewhere") + " " + key}},
		{name: "hashed damaged", lines: []string{"|1|xx|yy " + key, name + " " + key}, want: true},
		{name: "without port", lines: []string{"127.0.0.1 " + key}, want: true},
		{name: "without port, other key", lines: []string{"127.0.0.1 " + other}},
		{name: "changed", lines: []string{name + " " + other}},
		{name: "changed, then right", lines: []string{name + " " + other, name + " " + key}, want: true},
		{name: "other type only", lines: []string{name + " " + ecdsa}},
		{name: "revoked", lines: []string{name + " " + key, "@revoked * " + key}},
		{name: "revoked elsewhere", lines: []string{name + " " + key, "@revoked elsewhere " + key}, want: true},
		{name: "damaged lines", lines: []string{name + " ssh-ed25519 AAAA", "@bad " + name + " " + key, name, name + " ssh-rsa " + strings.Fields(key)[1], name + " " + key}, want: true},
		{name: "two markers", lines: []string{"@revoked @cert-authority * " + key, name + " " + key}, want: true},
		{name: "authority", lines: []string{"@cert-authority * " + ca}, want: true},
		{name: "authority without port", lines: []string{"@cert-authority 127.0.0.1 " + ca}, want: true},
		{name: "authority elsewhere", lines: []string{"@cert-authority elsewhere " + ca}},
		{name: "other authority", lines: []string{"@cert-authority * " + other}},
		{name: "other authority and key", lines: []string{"@cert-authority * " + other, name + " " + key}, want: true},
		{name: "authority revoked", lines: []string{"@cert-authority * " + ca, "@revoked * " + ca}},
		{name: "authority revoked, key known", lines: []string{name + " " + key, "@revoked * " + ca}},
		{name: "key as authority", lines: []string{"@cert-authority * " + key}},
		{name: "authority, other principal", sign: []string{"-n", "elsewhere"}, lines: []string{"@cert-authority * " + ca}},
		{name: "other principal, key known", sign: []string{"-n", "elsewhere"}, lines: []string{"@cert-authority * " + ca, name + " " + key}, want: true},
		{name: "expired", sign: []string{"-n", "127.0.0.1", "-V", "-2d:-1d"}, lines: []string{"@cert-authority * " + ca}},
		{name: "not yet valid", sign: []string{"-n", "127.0.0.1", "-V", "+1d:+2d"}, lines: []string{"@cert-authority * " + ca}},
	}
	for _, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			if c.sign != nil {
				sign(c.sign...)
				t.Cleanup(func() { sign("-n", "127.0.0.1") })
			}
			for _, strict := range []string{"yes", "accept-new"} {
				if strict != "yes" && c.want {
					break // what is known is as good
				}
				s.knownHosts(c.lines...)
				o := s.options("StrictHostKeyChecking="+strict, "PubkeyAuthentication=no", "PasswordAuthentication=no", "KbdInteractiveAuthentication=no")
				ssh := sshAccepts(t, s, o)
				s.knownHosts(c.lines...)
				_, err := Dial(testContext(t), o)
				var denied *AuthError
				var bad *HostKeyError
				if !errors.As(err, &denied) && !errors.As(err, &bad) {
					t.Fatalf("error %v", err)
				}
				if ours := errors.As(err, &denied); ours != ssh {
					t.Errorf("strict %s: this package: %v; ssh accepts: %v", strict, err, ssh)
				}
				if strict == "yes" && ssh != c.want {
					t.Errorf("ssh accepts: %v, want %v", ssh, c.want)
				}
			}
		})
	}
}

// TestRevokedHostKeys asks ssh and us about files of revoked keys.
func TestRevokedHostKeys(t *testing.T) {
	s := startSSHD(t, "HostKey @DIR@/host_ed25519", "HostCertificate @DIR@/host_ed25519-cert.pub")
	keygen(t, s.path("ca"), "-t", "ed25519")
	keygen(t, s.path("other"), "-t", "ed25519")
	run(t, "ssh-keygen", "-q", "-s", s.path("ca"), "-I", "h", "-h", "-z", "7", "-n", "127.0.0.1", s.path("host_ed25519.pub"))
	key, ca := keyOf(t, s.path("host_ed25519.pub")), keyOf(t, s.path("ca.pub"))
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	plain, vouched := name+" "+key, "@cert-authority * "+ca
	krl := func(file string, args ...string) string {
		run(t, "ssh-keygen", append([]string{"-q", "-k", "-f", s.path(file)}, args...)...)
		return s.path(file)
	}
	serial := write(t, s.path("serials"), "serial: 7\n")
	for _, c := range []struct {
		name, file, known string
		want              bool
	}{
		{"none", "none", plain, true},
		{"another key", s.path("other.pub"), plain, true},
		{"the key", s.path("host_ed25519.pub"), plain, false},
		{"the key, with its certificate", s.path("host_ed25519.pub"), vouched, false},
		{"the authority", s.path("ca.pub"), vouched, false},
		{"KRL of another", krl("krl1", s.path("other.pub")), plain, true},
		{"KRL of the key", krl("krl2", s.path("host_ed25519.pub")), plain, false},
		{"KRL of the serial number", krl("krl3", "-s", s.path("ca.pub"), serial), vouched, false},
		{"no such file", s.path("missing"), plain, false},
		{"damaged", write(t, s.path("damaged"), "SSHKRL\n\x00junk"), plain, false},
		{"empty", write(t, s.path("empty"), ""), plain, true},
	} {
		s.knownHosts(c.known)
		for _, strict := range []string{"yes", "no"} {
			o := s.options("RevokedHostKeys="+c.file, "StrictHostKeyChecking="+strict)
			settings := append([]string{"PubkeyAuthentication=no", "PasswordAuthentication=no"}, o.Settings...)
			if got := sshAccepts(t, s, Options{Settings: settings}); got != c.want {
				t.Errorf("%s, strict %s: ssh says %v", c.name, strict, got)
			}
			conn, err := Dial(testContext(t), o)
			if err == nil {
				conn.Close()
			}
			if (err == nil) != c.want {
				t.Errorf("%s, strict %s: %v", c.name, strict, err)
			}
			var refused *HostKeyError
			if err != nil && (!errors.As(err, &refused) || !strings.Contains(strings.ToLower(err.Error()), "revoked")) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

func TestHostKeyPrompt(t *testing.T) {
	s := startSSHD(t)
	fp := strings.Fields(run(t, "ssh-keygen", "-l", "-f", s.path("host_ed25519.pub")))[1]
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	for _, c := range []struct {
		answers []string
		ok      bool
	}{{[]string{"yes"}, true}, {[]string{fp}, true}, {[]string{"maybe", "YES"}, true}, {[]string{"no"}, false}, {[]string{""}, false}, {nil, false}} {
		os.Remove(s.path("known_hosts"))
		o := s.options("StrictHostKeyChecking=ask")
		p := &answers{t: t, give: c.answers}
		o.Prompt = p
		conn, err := Dial(testContext(t), o)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("answers %q: %v", c.answers, err)
		}
		want := "The authenticity of host '" + name + " (" + name + ")' can't be established.\nED25519 key fingerprint is " + fp + ".\nThis key is not known by any other names.\nAre you sure you want to continue connecting (yes/no/[fingerprint])? "
		if len(p.got) == 0 || p.got[0].Text != want || !p.got[0].Echo {
			t.Fatalf("asked %+v\nwant %q", p.got, want)
		}
		data, _ := os.ReadFile(s.path("known_hosts"))
		if has := string(data) == name+" "+keyOf(t, s.path("host_ed25519.pub"))+"\n"; has != c.ok {
			t.Errorf("answers %q: known_hosts is %q", c.answers, data)
		}
	}
}

func TestHostKeyChangedMessage(t *testing.T) {
	s := startSSHD(t)
	keygen(t, s.path("other"), "-t", "ed25519")
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	s.knownHosts("# a comment", name+" "+keyOf(t, s.path("other.pub")))
	o := s.options()
	_, err := Dial(testContext(t), o)
	var bad *HostKeyError
	if !errors.As(err, &bad) || bad.Where != s.path("known_hosts")+":2" {
		t.Fatalf("error %v", err)
	}
	fp := strings.Fields(run(t, "ssh-keygen", "-l", "-f", s.path("host_ed25519.pub")))[1]
	shown := o.Stderr.(*lockedBuffer).String()
	for _, want := range []string{"REMOTE HOST IDENTIFICATION HAS CHANGED!", "The fingerprint for the ED25519 key sent by the remote host is\n" + fp + ".",
		"Offending ED25519 key in " + s.path("known_hosts") + ":2", "ssh-keygen -f '" + s.path("known_hosts") + "' -R '" + name + "'"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in:\n%s", want, shown)
		}
	}
	if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), fp) || !strings.Contains(err.Error(), "ssh-keygen -f") {
		t.Errorf("error %q", err)
	}
	// The advice helps.
	run(t, "ssh-keygen", "-f", s.path("known_hosts"), "-R", name)
	mustDial(t, s.options("StrictHostKeyChecking=accept-new"))
}

func TestHostKeyAlgorithmOrder(t *testing.T) {
	s := startSSHD(t, "HostKey @DIR@/host_ed25519", "HostKey @DIR@/host_ecdsa", "HostKey @DIR@/host_rsa")
	keygen(t, s.path("host_ecdsa"), "-t", "ecdsa")
	keygen(t, s.path("host_rsa"), "-t", "rsa", "-b", "2048")
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		s.knownHosts(name + " " + keyOf(t, s.path("host_"+kind+".pub")))
		mustEcho(t, mustDial(t, s.options()))
	}
	// An order in the configuration is kept, and the key then is another one.
	s.knownHosts(name + " " + keyOf(t, s.path("host_rsa.pub")))
	if _, err := Dial(testContext(t), s.options("HostKeyAlgorithms=ssh-ed25519,rsa-sha2-512")); err == nil {
		t.Error("connected by another key than the one on file")
	}
	if _, err := Dial(testContext(t), s.options("RequiredRSASize=3072")); err == nil || !strings.Contains(err.Error(), "2048 bits") {
		t.Errorf("RSA of 2048 bits: %v", err)
	}
}

func TestHashAndAlias(t *testing.T) {
	s := startSSHD(t)
	write(t, s.path("known_hosts"), "")
	mustDial(t, s.options("StrictHostKeyChecking=accept-new", "HashKnownHosts=yes", "HostKeyAlias=Build9"))
	text := read(t, s.path("known_hosts"))
	if !strings.HasPrefix(text, "|1|") {
		t.Fatalf("known_hosts is %q", text)
	}
	if out := run(t, "ssh-keygen", "-F", "build9", "-f", s.path("known_hosts")); !strings.Contains(out, "found: line 1") {
		t.Errorf("ssh-keygen -F: %s", out)
	}
	mustDial(t, s.options("HostKeyAlias=build9"))
}

func TestUpdateHostKeys(t *testing.T) {
	s := startSSHD(t, "HostKey @DIR@/host_ed25519", "HostKey @DIR@/host_ecdsa", "HostKey @DIR@/host_rsa")
	keygen(t, s.path("host_ecdsa"), "-t", "ecdsa")
	keygen(t, s.path("host_rsa"), "-t", "rsa", "-b", "2048")
	keygen(t, s.path("old"), "-t", "ecdsa")
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	ed := name + " " + keyOf(t, s.path("host_ed25519.pub"))
	file := s.knownHosts("# mine", "other "+keyOf(t, s.path("id.pub")), ed, name+" "+keyOf(t, s.path("old.pub")))
	c := mustDial(t, s.options("UpdateHostKeys=yes"))
	want := "# mine\nother " + keyOf(t, s.path("id.pub")) + "\n" + ed + "\n" + name + " " + keyOf(t, s.path("host_ecdsa.pub")) + "\n" + name + " " + keyOf(t, s.path("host_rsa.pub")) + "\n"
	waitFor(t, func() bool { return len(strings.Split(read(t, file), "\n")) == len(strings.Split(want, "\n")) })
	lines := func(s string) map[string]bool {
		m := map[string]bool{}
		for _, l := range strings.Split(s, "\n") {
			m[l] = true
		}
		return m
	}
	got := read(t, file)
	for l := range lines(want) {
		if !lines(got)[l] {
			t.Errorf("no line %q in\n%s", l, got)
		}
	}
	mustEcho(t, c)
	if old := read(t, file+".old"); !strings.Contains(old, keyOf(t, s.path("old.pub"))) {
		t.Errorf("%s.old is %q", file, old)
	}
	// Lines that people wrote are left alone.
	text := "127.0.*,[127.0.0.1]:* " + keyOf(t, s.path("host_ed25519.pub"))
	s.knownHosts(text)
	mustEcho(t, mustDial(t, s.options("UpdateHostKeys=yes")))
	if read(t, file) != text+"\n" {
		t.Errorf("known_hosts became %q", read(t, file))
	}
}
