package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	skeema "github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
)

func newHostKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return mustSigner(t, priv)
}

func mustSigner(t testing.TB, key any) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func authorizedLine(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func writeKnown(t testing.TB, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestMatchesAsSSHKeygen: ssh-keygen -F finds the same lines. It does not look
// at patterns, so those are in TestMatchList.
func TestMatchesAsSSHKeygen(t *testing.T) {
	key := authorizedLine(newHostKey(t).PublicKey())
	hosts := []string{"a.example", "A.example,b.example", "[a.example]:2222", HashHost("a.example"), HashHost("[a.example]:2222"), HashHost("other"), "10.0.0.1", "::1", "|1|broken", "@x"}
	var lines []string
	for _, h := range hosts {
		lines = append(lines, h+" "+key)
	}
	file := writeKnown(t, lines...)
	for _, name := range []string{"a.example", "b.example", "[a.example]:2222", "other", "10.0.0.1", "::1", "nobody"} {
		out, _ := exec.Command("ssh-keygen", "-F", name, "-f", file).CombinedOutput()
		known, err := ReadKnownHosts(file, name)
		if err != nil {
			t.Fatal(err)
		}
		ours := map[int]bool{}
		for _, k := range known {
			ours[k.Line] = true
		}
		for i := range lines {
			theirs := strings.Contains(string(out), fmt.Sprintf("found: line %d ", i+1)) || strings.Contains(string(out), fmt.Sprintf("found: line %d\n", i+1))
			if ours[i+1] != theirs {
				t.Errorf("%s, line %d (%s): found %v, ssh-keygen %v", name, i+1, hosts[i], ours[i+1], theirs)
			}
		}
	}
}

func TestMatchList(t *testing.T) {
	for _, c := range []struct {
		s, list string
		want    int
	}{
		{"a", "a", 1}, {"a", "b,a", 1}, {"a", "b", 0}, {"a", "", 0}, {"", "*", 1}, {"", "?", 0}, {"ab", "?b", 1}, {"ab", "a?b", 0},
		{"a", "*,!a", -1}, {"a", "!a,*", -1}, {"a", "!b", 0}, {"a", "!b,*", 1}, {"abcabd", "*ab?", 1}, {"abc", "*c*", 1}, {"abc", "a**c", 1},
		{"[h]:22", "[h]:*", 1}, {"a,b", "a,b", 0}, {"x", "A,X", 1}, {strings.Repeat("a", 50), strings.Repeat("a*", 40) + "b", 0},
	} {
		if got := MatchList(c.s, c.list, true); got != c.want {
			t.Errorf("MatchList(%q, %q) = %d, want %d", c.s, c.list, got, c.want)
		}
	}
}

// TestCheckAsSkeema compares plain cases with skeema/knownhosts.
func TestCheckAsSkeema(t *testing.T) {
	a, b := newHostKey(t).PublicKey(), newHostKey(t).PublicKey()
	file := writeKnown(t, "one "+authorizedLine(a), "two,three "+authorizedLine(b), HashHost("four")+" "+authorizedLine(a), "[five]:2222 "+authorizedLine(b), "*.wild "+authorizedLine(a))
	db, err := skeema.NewDB(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"one:22", "two:22", "three:22", "four:22", "five:2222", "five:22", "x.wild:22", "none:22"} {
		for _, key := range []ssh.PublicKey{a, b} {
			err := db.HostKeyCallback()(host, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 22}, key)
			name, port, _ := strings.Cut(host, ":")
			n := 22
			fmt.Sscan(port, &n)
			known, errs := LoadKnownHosts(HostPort(name, n), file)
			if errs != nil {
				t.Fatal(errs)
			}
			status, _ := known.Check(key)
			theirs := map[bool]HostStatus{true: HostOK}[err == nil]
			if skeema.IsHostKeyChanged(err) {
				theirs = HostChanged
			}
			if status != theirs {
				t.Errorf("%s: %d, theirs %d (%v)", host, status, theirs, err)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	ca, host, other := newHostKey(t), newHostKey(t).PublicKey(), newHostKey(t).PublicKey()
	cert := &ssh.Certificate{Key: host, CertType: ssh.HostCert, ValidPrincipals: []string{"h"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	line := func(marker string, key ssh.PublicKey) string {
		return strings.TrimSpace(marker + " h " + authorizedLine(key))
	}
	for _, c := range []struct {
		name  string
		lines []string
		key   ssh.PublicKey
		want  HostStatus
		where int
	}{
		{"new", nil, host, HostNew, 0}, {"ok", []string{line("", host)}, host, HostOK, 1}, {"changed", []string{line("", other)}, host, HostChanged, 1},
		{"second", []string{line("", other), line("", host)}, host, HostOK, 2}, {"last that differs", []string{line("", other), line("", ca.PublicKey())}, host, HostChanged, 2},
		{"revoked wins", []string{line("", host), line("@revoked", host)}, host, HostRevoked, 0},
		{"authority", []string{line("@cert-authority", ca.PublicKey())}, cert, HostOK, 1}, {"plain line for a certificate", []string{line("", ca.PublicKey())}, cert, HostNew, 0},
		{"authority line for a key", []string{line("@cert-authority", host)}, host, HostNew, 0}, {"revoked authority", []string{line("@cert-authority", ca.PublicKey()), line("@revoked", ca.PublicKey())}, cert, HostRevoked, 0},
		{"revoked key of a certificate", []string{line("@cert-authority", ca.PublicKey()), line("@revoked", host)}, cert, HostRevoked, 0},
	} {
		known, errs := LoadKnownHosts("h", writeKnown(t, c.lines...))
		if errs != nil {
			t.Fatal(errs)
		}
		status, found := known.Check(c.key)
		where := 0
		if found != nil {
			where = found.Line
		}
		if status != c.want || where != c.where {
			t.Errorf("%s: %d at line %d, want %d at %d", c.name, status, where, c.want, c.where)
		}
	}
	if _, errs := LoadKnownHosts("h", t.TempDir()); len(errs) != 1 {
		t.Errorf("a directory: %v", errs)
	}
}

func TestHostCertificate(t *testing.T) {
	ca, host := newHostKey(t), newHostKey(t).PublicKey()
	now := time.Unix(1_000_000, 0)
	algs := []string{ssh.KeyAlgoED25519}
	for _, c := range []struct {
		name   string
		change func(*ssh.Certificate)
		host   string
		algs   []string
		want   string
	}{
		{"good", func(*ssh.Certificate) {}, "H.example", algs, ""},
		{"pattern", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"*.example"} }, "h.example", algs, ""},
		{"other host", func(*ssh.Certificate) {}, "x.example", algs, "not for"},
		{"no principals", func(c *ssh.Certificate) { c.ValidPrincipals = nil }, "h.example", algs, "not for"},
		{"user certificate", func(c *ssh.Certificate) { c.CertType = ssh.UserCert }, "h.example", algs, "not a host certificate"},
		{"early", func(c *ssh.Certificate) { c.ValidAfter = 1_000_001 }, "h.example", algs, "not yet valid"},
		{"late", func(c *ssh.Certificate) { c.ValidBefore = 1_000_000 }, "h.example", algs, "expired"},
		{"option", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x": ""} }, "h.example", algs, "critical option"},
		{"algorithm", func(*ssh.Certificate) {}, "h.example", []string{ssh.KeyAlgoRSASHA512}, "CASignatureAlgorithms"},
	} {
		cert := &ssh.Certificate{Key: host, CertType: ssh.HostCert, ValidPrincipals: []string{"h.example"}, ValidBefore: ssh.CertTimeInfinity}
		c.change(cert)
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		err := checkHostCertificate(cert, c.host, c.algs, now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		cert.Serial++ // what is signed is another one now
		if checkHostCertificate(cert, c.host, c.algs, now) == nil {
			t.Errorf("%s: a forged certificate passes", c.name)
		}
	}
}

func TestReplaceKnownHost(t *testing.T) {
	a, b, c := newHostKey(t).PublicKey(), newHostKey(t).PublicKey(), newHostKey(t).PublicKey()
	keep := []string{"# comment", "", "  h broken", "@revoked h " + authorizedLine(a), "other " + authorizedLine(a), "h,other2 " + authorizedLine(b) + " note"}
	file := writeKnown(t, append(keep, "h "+authorizedLine(a))...)
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceKnownHost(link, []string{"h"}, []ssh.PublicKey{b, c}, false); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(file)
	if want := strings.Join(append(keep, "h "+authorizedLine(c)), "\n") + "\n"; string(data) != want {
		t.Errorf("file is\n%s\nwant\n%s", data, want)
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", st.Mode())
	}
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", st, err)
	}
	if old, _ := os.ReadFile(file + ".old"); !bytes.Contains(old, []byte("h "+authorizedLine(a))) {
		t.Errorf("old file %q", old)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

func TestAddKnownHost(t *testing.T) {
	key := newHostKey(t).PublicKey()
	file := filepath.Join(t.TempDir(), "new", "known_hosts")
	if err := AddKnownHost(file, key, false, "A.example"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("no newline"), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := AddKnownHost(file, key, i%2 == 0, fmt.Sprintf("h%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 20 {
		if known, err := ReadKnownHosts(file, fmt.Sprintf("h%d", i)); err != nil || len(known) != 1 {
			t.Errorf("h%d: %v, %v", i, known, err)
		}
	}
	if st, _ := os.Stat(filepath.Dir(file)); st.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", st.Mode())
	}
	for name, ok := range map[string]bool{"h": true, "10.0.0.1": true, "a*": false, "a b": false, "a,b": false, "@x": false, "#x": false, "": false, "a\n": false} {
		if HostnameIsRecordable(name) != ok {
			t.Errorf("HostnameIsRecordable(%q) = %v", name, !ok)
		}
	}
}

func TestIdentityFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "pass", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	pub, err := LoadPublicIdentity(file)
	if err != nil || pub.Type() != ssh.KeyAlgoED25519 {
		t.Errorf("%v, %v", pub, err)
	}
	for pass, ok := range map[string]bool{"": false, "wrong": false, "pass": true} {
		if _, err := LoadPrivateKey(file, []byte(pass)); (err == nil) != ok || (!ok && err != ErrPassphrase) {
			t.Errorf("passphrase %q: %v", pass, err)
		}
	}
	if _, err := LoadPrivateKey(file+".pub", nil); err == nil || !strings.Contains(err.Error(), "unprotected") && !strings.Contains(err.Error(), "too open") {
		t.Errorf("a public file: %v", err)
	}
	if err := os.Truncate(file, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPrivateKey(file, nil); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a truncated file: %v", err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if n := RSABits(mustSigner(t, rsaKey).PublicKey()); n != 1024 {
		t.Errorf("%d bits", n)
	}
	if _, err := LoadUserCertificate(file + ".pub"); err == nil || !strings.Contains(err.Error(), "not a user certificate") {
		t.Errorf("a key as certificate: %v", err)
	}
}

// FuzzKnownHosts: a line that is accepted, written out again, is accepted with
// the same meaning; and what replaceLines keeps stays byte for byte.
func FuzzKnownHosts(f *testing.F) {
	key := authorizedLine(newHostKey(f).PublicKey())
	f.Add("h "+key+"\n", "h")
	f.Add("@cert-authority *.example,!x.example "+key+" comment\n# c\n\n", "a.example")
	f.Add(HashHost("h")+" "+key, "h")
	f.Add("@revoked\t[h]:22\t"+key+"\n|1|x|y z\n", "[h]:22")
	f.Add(strings.Repeat("*a", 60)+" "+key, strings.Repeat("a", 100))
	f.Fuzz(func(t *testing.T, text, name string) {
		known, err := ParseKnownHosts(strings.NewReader(text), "f")
		if err != nil {
			return
		}
		var out strings.Builder
		for _, k := range known {
			out.WriteString(strings.TrimSpace(k.Marker+" "+k.Hosts+" "+authorizedLine(k.Key)) + "\n")
		}
		again, err := ParseKnownHosts(strings.NewReader(out.String()), "f")
		if err != nil || len(again) != len(known) {
			t.Fatalf("%d lines read back as %d, %v", len(known), len(again), err)
		}
		for i := range known {
			if known[i].Matches(name) != again[i].Matches(name) || !SameKey(known[i].Key, again[i].Key) || known[i].Marker != again[i].Marker {
				t.Errorf("%+v reads back as %+v", known[i], again[i])
			}
		}
		if got := replaceLines(text, nil, nil, false); got != text && got != text+"\n" {
			t.Errorf("%q became %q", text, got)
		}
	})
}
