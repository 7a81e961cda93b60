package sshserver

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/crypto/ssh"
)

// judge asks for one login, from 192.0.2.7, without a network.
type judge struct {
	t        *testing.T
	dir      string
	accounts *Accounts
	log      *lockedBuffer
	key      ssh.Signer
	ca       ssh.Signer
}

func newJudge(t *testing.T) *judge {
	// Everybody is who we are, because files are read with the account's rights.
	uid := os.Geteuid()
	passwd := fmt.Sprintf("alice:x:%d:7001::/home/alice:/bin/sh\nbob:x:%d:7002::/home/bob:/bin/sh\nkeyrunner:x:%d:%d::/:/bin/sh\nlocked:x:%d:7001::/:/bin/sh\n",
		uid, uid, uid, os.Getegid(), uid)
	j := &judge{t: t, dir: t.TempDir(), log: &lockedBuffer{}, key: newKey(t), ca: newKey(t)}
	j.accounts = accountsIn(t, passwd, "staff:x:7001:\nwheel:x:7003:alice\nguests:x:7002:\n", "alice:*:::::::\nbob:*:::::::\nlocked:!:::::::\n")
	j.write("keys", line(j.key.PublicKey())+"\n")
	j.write("ca", line(j.ca.PublicKey())+"\n")
	return j
}

func (j *judge) write(name, text string) string {
	j.t.Helper()
	path := filepath.Join(j.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		j.t.Fatal(err)
	}
	return path
}

// cert makes a user certificate.
func (j *judge) cert(principals ...string) *ssh.Certificate {
	j.t.Helper()
	c := &ssh.Certificate{Key: j.key.PublicKey(), CertType: ssh.UserCert, KeyId: "test", Serial: 7, ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, j.ca); err != nil {
		j.t.Fatal(err)
	}
	return c
}

// ask returns the grant, nil for a refusal. DIR in lines is the judge's directory.
func (j *judge) ask(lines, user string, key ssh.PublicKey) *Grant {
	j.t.Helper()
	text := "StrictModes no\nPermitRootLogin yes\n" + lines + "\nAuthorizedKeysFile DIR/keys\n"
	cfg, err := sshdconfig.Parse("f", []byte(strings.ReplaceAll(text, "DIR", j.dir)))
	if err != nil {
		j.t.Fatal(err)
	}
	a := &Authorizer{Config: cfg, Accounts: j.accounts, Log: slog.New(slog.NewTextHandler(j.log, nil))}
	end := Endpoint{Addr: "192.0.2.7", Port: 5, LocalAddr: "192.0.2.1", LocalPort: 22}
	algorithm := plainKey(key).Type()
	g, err := a.Authorize(j.t.Context(), end, user, key, algorithm)
	if (g == nil) != (err != nil) {
		j.t.Fatalf("grant %v with error %v", g, err)
	}
	return g
}

func TestWhoMayLogIn(t *testing.T) {
	j := newJudge(t)
	for lines, want := range map[string]string{ // who gets in of alice and bob
		"":                           "alice bob",
		"AllowUsers alice":           "alice",
		"AllowUsers a* b?b":          "alice bob",
		"AllowUsers !alice *":        "bob",
		"AllowUsers * !alice":        "alice bob", // the first match counts
		"AllowUsers alice@192.0.2.7": "alice",
		"AllowUsers alice@192.0.2.0/24 bob@10.0.0.0/8":                      "alice",
		"AllowUsers *@!192.0.2.7,*":                                         "",
		"DenyUsers alice":                                                   "bob",
		"DenyUsers *@192.0.2.*":                                             "",
		"DenyUsers bob\nAllowUsers alice bob":                               "alice",
		"AllowGroups staff":                                                 "alice",
		"AllowGroups wheel guests":                                          "alice bob",
		"DenyGroups wheel":                                                  "bob",
		"AllowGroups *\nDenyGroups g*":                                      "alice",
		"AllowUsers bob\nAllowGroups staff":                                 "",
		"PubkeyAuthentication no":                                           "",
		"PubkeyAcceptedAlgorithms -ssh-ed25519":                             "",
		"PubkeyAuthentication no\nMatch User bob\nPubkeyAuthentication yes": "bob",
		"Match Address 192.0.2.0/24\nDenyUsers bob":                         "alice",
		"RevokedKeys DIR/keys":                                              "",
		"RevokedKeys DIR/ca":                                                "alice bob",
		"RevokedKeys DIR/missing":                                           "",
		"AuthorizedKeysFile none":                                           "",
		"AuthorizedKeysFile DIR/none DIR/%%keys none DIR/keys":              "alice bob",
		"AuthorizedKeysFile DIR/%u":                                         "",
	} {
		var in []string
		for _, user := range []string{"alice", "bob", "carol", "locked", "", "keyrunner\x00"} {
			if j.ask(lines, user, j.key.PublicKey()) != nil {
				in = append(in, user)
			}
		}
		if got := strings.Join(in, " "); got != want {
			t.Errorf("%s: %q get in, want %q", lines, got, want)
		}
	}
	if j.ask("", "alice", newKey(t).PublicKey()) != nil {
		t.Error("a stranger's key gets in")
	}
}

func TestCertificatesAndPrincipals(t *testing.T) {
	j := newJudge(t)
	j.write("keys", "")
	j.write("principals.alice", "role # of hers\n")
	j.write("principals.bob", "")
	const trust = "TrustedUserCAKeys DIR/ca\n"
	for _, c := range []struct {
		lines string
		cert  *ssh.Certificate
		user  string
		in    bool
	}{
		{trust, j.cert("alice"), "alice", true},
		{trust, j.cert("alice"), "bob", false},
		{trust, j.cert(), "alice", false},
		{"", j.cert("alice"), "alice", false},
		{trust + "AuthorizedPrincipalsFile DIR/principals.%u", j.cert("role"), "alice", true},
		{trust + "AuthorizedPrincipalsFile DIR/principals.%u", j.cert("alice"), "alice", false},
		{trust + "AuthorizedPrincipalsFile DIR/principals.%u", j.cert("role"), "bob", false},
		{trust + "AuthorizedPrincipalsFile DIR/missing", j.cert("alice"), "alice", false},
		{trust + "RevokedKeys DIR/ca", j.cert("alice"), "alice", false},
		{trust + "CASignatureAlgorithms rsa-sha2-512", j.cert("alice"), "alice", false},
		{trust + "PubkeyAcceptedAlgorithms ssh-ed25519", j.cert("alice"), "alice", false},
		{trust + "PubkeyAcceptedAlgorithms ssh-ed25519-cert-v01@openssh.com", j.cert("alice"), "alice", true},
	} {
		if got := j.ask(c.lines, c.user, c.cert) != nil; got != c.in {
			t.Errorf("%s, %v for %s: %v\n%s", c.lines, c.cert.ValidPrincipals, c.user, got, j.log)
		}
	}
	j.write("keys", "cert-authority "+line(j.ca.PublicKey())+"\n")
	if j.ask("", "alice", j.cert("alice")) == nil {
		t.Errorf("cert-authority is not honoured\n%s", j.log)
	}
	if j.ask("", "alice", j.key.PublicKey()) != nil || j.ask("", "alice", j.ca.PublicKey()) != nil || j.ask("", "alice", j.cert("bob")) != nil {
		t.Error("cert-authority lets in more than its certificates")
	}
}

// TestKeysCommand runs programs that name keys. They must lie where nobody
// else may write, which the system's own directories do.
func TestKeysCommand(t *testing.T) {
	j := newJudge(t)
	if os.Geteuid() != 0 {
		// The program must be ours or root's; /usr/bin/printf is root's, and its
		// directory is too.
		t.Log("running as an ordinary user")
	}
	key := line(j.key.PublicKey())
	other := line(newKey(t).PublicKey())
	asks := func(command string) bool {
		return j.ask("AuthorizedKeysFile none\nAuthorizedKeysCommandUser keyrunner\nAuthorizedKeysCommand "+command, "alice", j.key.PublicKey()) != nil
	}
	for command, want := range map[string]bool{
		"/usr/bin/printf '" + strings.ReplaceAll(key, "%", "%%") + "'": true,
		"/usr/bin/printf '" + other + "'":                              false,
		"/usr/bin/printf '%%s %%s\\\\n' %t %k":                         true, // what sshd would be told
		"/usr/bin/printf 'restrict %%s %%s\\\\n' %t %k":                true,
		"/usr/bin/printf '%z'":                                         false,
		"/nonexistent/program":                                         false,
		"/usr/bin/false":                                               false,
		"/bin/cat /dev/zero":                                           false, // without end
		"/bin/sh -c 'echo " + key + "; exit 1'":                        false,
		j.write("mine", "#!/bin/sh\necho "+key+"\n"):                   false, // below /tmp
		"none": false,
		"/bin/sh -c 'echo " + strings.ReplaceAll(key, " ", " ") + "; exec >&-'": true,
	} {
		if got := asks(command); got != want {
			t.Errorf("%s: %v\n%s", command, got, j.log)
		}
	}
	if !strings.Contains(j.log.String(), "longer than") || strings.Contains(j.log.String(), "deadline") {
		t.Errorf("a program that prints without end is not stopped by its output:\n%s", j.log)
	}
	if j.ask("AuthorizedKeysFile none\nAuthorizedKeysCommand /usr/bin/printf x", "alice", j.key.PublicKey()) != nil {
		t.Error("a command without its user runs")
	}
}

// TestForcedCommandsOnly and other ways to restrict root and everybody.
func TestRootLogin(t *testing.T) {
	j := newJudge(t)
	j.accounts = accountsIn(t, "root:x:0:0::/root:/bin/sh\n", "", "root:*:::::::\n")
	forced := `command="x" ` + line(j.key.PublicKey()) + "\n"
	for _, c := range []struct {
		value string
		keys  string
		in    bool
	}{
		{"yes", "", true}, {"prohibit-password", "", true}, {"without-password", "", true}, {"no", "", false}, {"no", forced, false},
		{"forced-commands-only", "", false}, {"forced-commands-only", forced, true},
	} {
		if c.keys == "" {
			c.keys = line(j.key.PublicKey()) + "\n"
		}
		j.write("keys", c.keys)
		cfg, err := sshdconfig.Parse("f", []byte("StrictModes no\nPermitRootLogin "+c.value+"\nAuthorizedKeysFile "+j.dir+"/keys\n"))
		if err != nil {
			t.Fatal(err)
		}
		a := &Authorizer{Config: cfg, Accounts: j.accounts, Log: slog.New(slog.DiscardHandler)}
		_, err = a.Authorize(t.Context(), Endpoint{Addr: "192.0.2.7"}, "root", j.key.PublicKey(), "ssh-ed25519")
		if (err == nil) != c.in {
			t.Errorf("%s %.10s: %v", c.value, c.keys, err)
		}
	}
}

// TestOnlyOneUser is nexecd as an ordinary user.
func TestOnlyOneUser(t *testing.T) {
	j := newJudge(t)
	cfg, err := sshdconfig.Parse("f", []byte("StrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile "+j.dir+"/keys\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := &Authorizer{Config: cfg, Accounts: j.accounts, Log: slog.New(slog.DiscardHandler), Only: &Account{Name: "me", UID: 4711}}
	if _, err := a.Authorize(t.Context(), Endpoint{Addr: "192.0.2.7"}, "alice", j.key.PublicKey(), "ssh-ed25519"); err == nil {
		t.Error("another user is served")
	}
}

// TestExpiry has a clock of its own.
func TestExpiry(t *testing.T) {
	j := newJudge(t)
	j.write("keys", `expiry-time="20300101Z" `+line(j.key.PublicKey())+"\n")
	cfg, err := sshdconfig.Parse("f", []byte("StrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile "+j.dir+"/keys\n"))
	if err != nil {
		t.Fatal(err)
	}
	for year, want := range map[int]bool{2029: true, 2031: false} {
		a := &Authorizer{Config: cfg, Accounts: j.accounts, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }}
		_, err := a.Authorize(t.Context(), Endpoint{Addr: "192.0.2.7"}, "alice", j.key.PublicKey(), "ssh-ed25519")
		if (err == nil) != want {
			t.Errorf("%d: %v", year, err)
		}
	}
}
