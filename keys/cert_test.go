package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshKeygen runs Debian's ssh-keygen.
func sshKeygen(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func readPublic(t testing.TB, path string) ssh.PublicKey {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair makes a key pair and returns the file's name.
func pair(t testing.TB, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	sshKeygen(t, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path)
	return path
}

// certify signs key with ca and returns the certificate.
func certify(t testing.TB, ca, key string, args ...string) *ssh.Certificate {
	t.Helper()
	args = append([]string{"-q", "-s", ca, "-I", "id of " + filepath.Base(key)}, args...)
	sshKeygen(t, append(args, key+".pub")...)
	return readPublic(t, key+"-cert.pub").(*ssh.Certificate)
}

func peerAt(addr string) Peer { return Peer{Addr: addr, Host: addr, Now: time.Now()} }

// TestTrustedCertificate has certificates of ssh-keygen and lists of principals.
func TestTrustedCertificate(t *testing.T) {
	dir := t.TempDir()
	ca, key := pair(t, dir, "ca"), pair(t, dir, "key")
	for _, c := range []struct {
		name string
		args []string
		list []string // contents of principals files
		want string   // the reason; empty: accepted
	}{
		{"own name", []string{"-n", "alice,bob"}, nil, ""},
		{"another's name", []string{"-n", "bob"}, nil, "not a listed principal"},
		{"no principals", nil, nil, "lacks principal list"},
		{"no principals, list", nil, []string{"alice"}, "does not contain an authorized principal"},
		{"host certificate", []string{"-h", "-n", "alice"}, nil, "not a user certificate"},
		{"expired", []string{"-n", "alice", "-V", "20200101:20210101"}, nil, "expired"},
		{"not yet", []string{"-n", "alice", "-V", "20400101:20410101"}, nil, "not yet valid"},
		{"source", []string{"-n", "alice", "-O", "source-address=192.0.2.0/24"}, nil, ""},
		{"other source", []string{"-n", "alice", "-O", "source-address=198.51.100.0/24"}, nil, "not from a permitted source"},
		{"unknown critical", []string{"-n", "alice", "-O", "critical:x@y=z"}, nil, "is not supported"},
		{"unknown extension", []string{"-n", "alice", "-O", "extension:x@y=z"}, nil, ""},
		{"listed", []string{"-n", "role"}, []string{"# roles\n\nother\nrole # yes\n"}, ""},
		{"listed later", []string{"-n", "role"}, []string{"a\n", "role"}, ""},
		{"own name unlisted", []string{"-n", "alice"}, []string{"role\n"}, "does not contain an authorized principal"},
		{"empty list", []string{"-n", "alice"}, []string{""}, "does not contain an authorized principal"},
		{"option from", []string{"-n", "role"}, []string{`from="192.0.2.1" role`}, ""},
		{"option from elsewhere", []string{"-n", "role"}, []string{`from="10.0.0.1" role`}, "not from a permitted host"},
		{"option unknown", []string{"-n", "role"}, []string{"nonsense role"}, "bad principals options"},
		{"option cert-authority", []string{"-n", "role"}, []string{"cert-authority role"}, "cert-authority flag invalid here"},
		{"same command", []string{"-n", "role", "-O", "force-command=x y"}, []string{`command="x y" role`}, ""},
		{"other command", []string{"-n", "role", "-O", "force-command=x"}, []string{`command="y" role`}, "do not match"},
		{"verify-required", []string{"-n", "alice", "-O", "verify-required"}, nil, ""}, // not a security key
	} {
		cert := certify(t, ca, key, c.args...)
		var lists []PrincipalsList
		for _, l := range c.list {
			lists = append(lists, PrincipalsList{"list", strings.NewReader(l)})
		}
		opts, reason := TrustedCertificate(cert, "alice", lists, peerAt("192.0.2.1"))
		if (opts != nil) != (c.want == "") || !strings.Contains(reason, c.want) {
			t.Errorf("%s: %v %q, want %q", c.name, opts, reason, c.want)
		}
	}
}

// TestCertificateOptions looks at what is left of two grants.
func TestCertificateOptions(t *testing.T) {
	dir := t.TempDir()
	ca, key := pair(t, dir, "ca"), pair(t, dir, "key")
	cert := certify(t, ca, key, "-n", "alice", "-O", "clear", "-O", "permit-pty", "-O", "force-command=run this")
	opts, reason := TrustedCertificate(cert, "alice", nil, peerAt("192.0.2.1"))
	if opts == nil || !opts.PTY || opts.AgentForwarding || !opts.HasCommand || opts.Command != "run this" {
		t.Errorf("%+v %s", opts, reason)
	}
	caLine, err := os.ReadFile(ca + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	match, _, err := FindAuthorized(strings.NewReader("cert-authority,no-pty "+string(caLine)), "f", "alice", cert, peerAt("192.0.2.1"))
	if err != nil || match == nil || match.Options.PTY || match.Options.Command != "run this" {
		t.Errorf("%+v %v", match, err)
	}
}

// TestForgedCertificate changes a certificate after it was signed.
func TestForgedCertificate(t *testing.T) {
	dir := t.TempDir()
	ca, key := pair(t, dir, "ca"), pair(t, dir, "key")
	for name, forge := range map[string]func(c *ssh.Certificate){
		"principal": func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} },
		"validity":  func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity },
		"options":   func(c *ssh.Certificate) { delete(c.CriticalOptions, "force-command") },
		"key": func(c *ssh.Certificate) {
			pub, _, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if c.Key, err = ssh.NewPublicKey(pub); err != nil {
				t.Fatal(err)
			}
		},
	} {
		cert := certify(t, ca, key, "-n", "alice,root", "-V", "-1d:+1d", "-O", "force-command=x")
		forge(cert)
		if opts, reason := TrustedCertificate(cert, "root", nil, peerAt("192.0.2.1")); opts != nil || reason != "Certificate signature invalid" {
			t.Errorf("%s: %v %q", name, opts, reason)
		}
	}
}
