package dial

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/keys"
)

// startAgent starts an ssh-agent and loads key files.
func startAgent(t *testing.T, files ...string) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "a")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	waitFor(t, func() bool { _, err := os.Stat(socket); return err == nil })
	for _, file := range files {
		add := exec.Command("ssh-add", "-q", file)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add: %v\n%s", err, out)
		}
	}
	return socket
}

// dialErr connects and expects a refusal with all of want in its text.
func dialErr(t *testing.T, o Options, want ...string) *AuthError {
	t.Helper()
	c, err := Dial(testContext(t), o)
	if err == nil {
		c.Close()
		t.Fatal("connected")
	}
	var denied *AuthError
	if !errors.As(err, &denied) {
		t.Fatalf("error %v", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("no %q in %q", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	return denied
}

func TestKeyKinds(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	var authorized string
	kinds := map[string][]string{
		"ecdsa256": {"-t", "ecdsa", "-b", "256"}, "ecdsa521": {"-t", "ecdsa", "-b", "521"}, "rsa": {"-t", "rsa", "-b", "2048"},
		"pem_rsa": {"-t", "rsa", "-b", "2048", "-m", "PEM"}, "pem_ecdsa": {"-t", "ecdsa", "-m", "PEM"}, "pkcs8": {"-t", "rsa", "-b", "2048", "-m", "PKCS8"},
		"locked": {"-t", "ed25519", "-N", "secret"}, "locked_pem": {"-t", "ecdsa", "-m", "PEM", "-N", "secret"},
	}
	for name, args := range kinds {
		keygen(t, s.path(name), args...)
		authorized += read(t, s.path(name+".pub"))
		os.Remove(s.path(name + ".pub"))
	}
	write(t, s.path("authorized_keys"), authorized)
	for name := range kinds {
		o := s.options("IdentityFile=" + s.path(name))
		o.Settings = append([]string{"IdentityFile=" + s.path(name)}, s.options().Settings...)
		p := &answers{t: t, give: []string{"wrong", "secret"}}
		o.Prompt = p
		mustEcho(t, mustDial(t, o))
		locked := strings.HasPrefix(name, "locked")
		if asked := len(p.got); asked != map[bool]int{true: 2}[locked] {
			t.Errorf("%s: asked %d times", name, asked)
		}
		if locked && (p.got[0].Text != "Enter passphrase for key '"+s.path(name)+"': " || p.got[0].Echo) {
			t.Errorf("%s: asked %+v", name, p.got[0])
		}
	}
	o := s.options()
	o.Settings = append([]string{"IdentityFile=" + s.path("locked"), "BatchMode=yes"}, o.Settings...)
	dialErr(t, o, "permission denied", "ssh-add")
}

func TestUnprotectedKey(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	if err := os.Chmod(s.path("id"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := s.options()
	dialErr(t, o, "chmod 600")
	shown := o.Stderr.(*lockedBuffer).String()
	// The words are those of the ssh that is installed.
	out, _ := exec.Command("ssh-keygen", "-y", "-f", s.path("id")).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "UNPROTECTED") || strings.Contains(line, "Permissions 0644") || strings.Contains(line, "required that your") {
			if !strings.Contains(shown, strings.TrimSpace(line)) {
				t.Errorf("no %q in\n%s", line, shown)
			}
		}
	}
	if !strings.Contains(string(out), "UNPROTECTED") {
		t.Errorf("ssh-keygen says %s", out)
	}
}

func TestAgent(t *testing.T) {
	s := startSSHD(t, "PasswordAuthentication no", "KbdInteractiveAuthentication no")
	s.knownHosts()
	var others []string
	for _, name := range []string{"x1", "x2", "x3"} {
		others = append(others, keygen(t, s.path(name), "-t", "ed25519"))
	}
	socket := startAgent(t, append(others, s.path("id"))...)
	id := s.path("id")
	if err := os.Rename(id, s.path("moved")); err != nil {
		t.Fatal(err)
	}
	with := func(settings ...string) Options {
		o := s.options()
		o.Settings = append(append(settings, "IdentityAgent="+socket), o.Settings...)
		return o
	}
	// IdentitiesOnly and the public half of the file choose the agent's key.
	c := mustDial(t, with())
	mustEcho(t, c)
	if n := strings.Count(s.logged(), "Failed publickey"); n != 0 {
		t.Errorf("%d keys were refused", n)
	}
	only := func(file string, settings ...string) Options { // instead of the file of options
		o := with(append(settings, "IdentityFile="+file)...)
		o.Settings = slices.DeleteFunc(o.Settings, func(s string) bool { return s == "IdentityFile="+id })
		return o
	}
	mustEcho(t, mustDial(t, only("none", "IdentitiesOnly=no")))
	if n := strings.Count(s.logged(), "Failed publickey"); n != 3 {
		t.Errorf("%d keys were refused, want the agent's other 3 in its order", n)
	}
	t.Setenv("SSH_AUTH_SOCK", socket)
	t.Setenv("OTHER_SOCK", socket)
	for _, agent := range []string{"SSH_AUTH_SOCK", "$OTHER_SOCK", "${OTHER_SOCK}"} {
		mustDial(t, with("IdentityAgent="+agent))
	}
	dialErr(t, with("IdentityAgent=none"), "permission denied")
	before := strings.Count(s.logged(), "Failed publickey")
	dialErr(t, only(s.path("x1")), "none of the 1 keys offered")
	if n := strings.Count(s.logged(), "Failed publickey") - before; n != 1 {
		t.Errorf("%d keys were offered, want 1", n)
	}
}

func TestAddKeysToAgent(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	run(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", s.path("id"))
	socket := startAgent(t)
	with := func(settings ...string) Options {
		o := s.options()
		o.Settings = append(append(settings, "IdentityAgent="+socket), o.Settings...)
		o.Prompt = &answers{t: t, give: []string{"secret"}}
		return o
	}
	mustDial(t, with())
	list := func() string {
		cmd := exec.Command("ssh-add", "-l")
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		out, _ := cmd.Output()
		return string(out)
	}
	if !strings.Contains(list(), "no identities") {
		t.Errorf("the agent has %s", list())
	}
	mustDial(t, with("AddKeysToAgent=yes"))
	if !strings.Contains(list(), s.path("id")) {
		t.Errorf("the agent has %s", list())
	}
	o := with()
	o.Prompt = nil // nobody is asked
	mustDial(t, o)
}

func TestUserCertificates(t *testing.T) {
	s := startSSHD(t, "TrustedUserCAKeys @DIR@/ca.pub")
	s.knownHosts()
	write(t, s.path("authorized_keys"), "")
	for _, kind := range []string{"ed25519", "rsa", "ecdsa"} {
		t.Run(kind, func(t *testing.T) {
			os.Remove(s.path("ca"))
			os.Remove(s.path("ca.pub"))
			keygen(t, s.path("ca"), "-t", kind)
			keygen(t, s.path(kind), "-t", kind)
			run(t, "ssh-keygen", "-q", "-s", s.path("ca"), "-I", "me", "-n", s.user, s.path(kind+".pub"))
			o := s.options()
			o.Settings = append([]string{"IdentityFile=" + s.path(kind)}, o.Settings...)
			mustEcho(t, mustDial(t, o))
			// The same from the agent, with CertificateFile, without the key's file.
			cert := write(t, s.path("cert-"+kind), read(t, s.path(kind+"-cert.pub")))
			os.Remove(s.path(kind + "-cert.pub"))
			socket := startAgent(t, s.path(kind))
			o.Settings = append([]string{"IdentityAgent=" + socket, "CertificateFile=" + cert}, o.Settings...)
			mustEcho(t, mustDial(t, o))
			dialErr(t, s.options("IdentityFile="+s.path(kind)), "permission denied")
		})
	}
}

func TestTooManyKeys(t *testing.T) {
	s := startSSHD(t, "MaxAuthTries 3")
	s.knownHosts()
	o := s.options()
	o.Settings = o.Settings[:0]
	for _, name := range []string{"a", "b", "c", "d"} {
		o.Settings = append(o.Settings, "IdentityFile="+keygen(t, s.path(name), "-t", "ed25519"))
	}
	o.Settings = append(o.Settings, s.options().Settings...)
	dialErr(t, o, "IdentitiesOnly")
}

func TestNoMethods(t *testing.T) {
	s := startSSHD(t, "PasswordAuthentication no", "KbdInteractiveAuthentication no")
	s.knownHosts()
	o := s.options("PreferredAuthentications=password")
	denied := dialErr(t, o, "PreferredAuthentications", "(publickey)")
	if len(denied.Tried) != 0 {
		t.Errorf("tried %v", denied.Tried)
	}
	o = s.options("PubkeyAuthentication=no")
	dialErr(t, o, "(publickey)")
}

func TestAskpass(t *testing.T) {
	script := filepath.Join(t.TempDir(), "askpass")
	write(t, script, "#!/bin/sh\necho \"$SSH_ASKPASS_PROMPT:$1\"\necho more\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_ASKPASS", script)
	t.Setenv("SSH_ASKPASS_REQUIRE", "force")
	got, err := Terminal{}.Ask(context.Background(), Question{Text: "well? ", Confirm: true})
	if err != nil || got != "confirm:well? " {
		t.Errorf("answer %q, %v", got, err)
	}
	t.Setenv("SSH_ASKPASS", "/nonexistent")
	if _, err := (Terminal{}).Ask(context.Background(), Question{}); !errors.Is(err, ErrCannotAsk) {
		t.Errorf("error %v", err)
	}
}

func TestSecurityKeyFileIsRefused(t *testing.T) {
	// A private key of an authenticator, as ssh-keygen -t ed25519-sk writes
	// it, cannot be made here; its public half names a kind that only an
	// agent can sign with.
	if name := keys.TypeName(parseKey(t, "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIKMTc1iA8EEjOqMYkcsB5sZnPtfB3T1hrIMWQ4pUbGMVAAAABHNzaDo=")); name != "ED25519-SK" {
		t.Errorf("name %q", name)
	}
}
