package sshserver

import (
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// unwilling has a key that it does not sign with: its owner has only its
// public half, which is no secret.
type unwilling struct{ ssh.Signer }

func (unwilling) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return nil, errors.New("not mine")
}

func (u unwilling) SignWithAlgorithm(rand io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return u.Sign(rand, data)
}

// forger signs for one key with another.
type forger struct {
	ssh.Signer
	with ssh.Signer
}

func (f forger) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return f.with.Sign(rand, data)
}

func (f forger) SignWithAlgorithm(rand io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return f.with.Sign(rand, data)
}

// offerAll logs in with one key after the other, as long as it is let.
func (s *testServer) offerAll(signers ...ssh.Signer) (*ssh.Client, error) {
	next := 0
	return ssh.Dial("tcp", s.addr, &ssh.ClientConfig{
		User: me(s.t), HostKeyCallback: ssh.FixedHostKey(s.host.PublicKey()),
		AuthCallback: func(*ssh.ClientAuthContext) (ssh.AuthMethod, error) {
			if next >= len(signers) {
				return nil, errors.New("no more keys")
			}
			next++
			return ssh.PublicKeys(signers[next-1]), nil
		},
	})
}

// TestKeyThatSigned asks about keys and signs with others: what a login may do
// is what the key may that signed, whatever was asked about before.
func TestKeyThatSigned(t *testing.T) {
	says := map[string]Handler{"nexec": HandlerFunc(func(s *Session) Exit {
		_, _ = io.WriteString(s, s.Grant.Options.Command+" "+ssh.FingerprintSHA256(s.Grant.Key))
		return Exit{}
	})}
	s := start(t, "MaxAuthTries 20", says, nil)
	free, forced, stranger := newKey(t), newKey(t), newKey(t)
	s.authorize(`command="free" ` + line(free.PublicKey()) + "\n" + `command="forced",restrict ` + line(forced.PublicKey()))
	for _, c := range []struct {
		name    string
		signers []ssh.Signer
		want    ssh.Signer // nil: refused
		command string
	}{
		{"asks about another key first", []ssh.Signer{unwilling{free}, forced}, forced, "forced"},
		{"asks about its own and another", []ssh.Signer{unwilling{forced}, unwilling{free}, unwilling{forced}, forced}, forced, "forced"},
		{"asks the other way round", []ssh.Signer{unwilling{forced}, free}, free, "free"},
		{"asks about known keys, signs with its own", []ssh.Signer{unwilling{free}, unwilling{forced}, stranger}, nil, ""},
		{"signs for another key with its own", []ssh.Signer{forger{free, stranger}}, nil, ""},
		{"signs for another known key", []ssh.Signer{forger{free, forced}}, nil, ""},
		{"fails, then signs for another", []ssh.Signer{stranger, forger{free, stranger}, forced}, nil, ""},
		{"never signs", []ssh.Signer{unwilling{free}, unwilling{forced}}, nil, ""},
	} {
		client, err := s.offerAll(c.signers...)
		if (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v\n%s", c.name, err, s.log)
		}
		if err != nil {
			continue
		}
		if c.want == nil {
			client.Close()
			continue
		}
		if got := run(t, client, "").out; got != c.command+" "+ssh.FingerprintSHA256(c.want.PublicKey()) {
			t.Errorf("%s: it may do what %q may", c.name, got)
		}
		client.Close()
	}
	if n := strings.Count(s.log.String(), "Accepted publickey"); n != 3 {
		t.Errorf("%d logins are in the log:\n%s", n, s.log)
	}
}

// TestCertificatesThatAreNot has certificates of the wrong kind and shape.
func TestCertificatesThatAreNot(t *testing.T) {
	s := start(t, "TrustedUserCAKeys "+t.TempDir()+"/ca", echo(), nil)
	ca := newKey(t)
	s.cfg.Global.TrustedUserCAKeys = s.dir + "/keys" // the authority is the only key there
	s.cfg.Global.AuthorizedKeysFiles = []string{"none"}
	s.authorize(line(ca.PublicKey()))
	user := newKey(t)
	make := func(change func(*ssh.Certificate)) ssh.Signer {
		c := &ssh.Certificate{Key: user.PublicKey(), CertType: ssh.UserCert, KeyId: "x", ValidPrincipals: []string{me(t)}, ValidBefore: ssh.CertTimeInfinity}
		signer := ca
		change(c)
		if c.SignatureKey != nil { // as the case wants it
			nested, err := ssh.NewCertSigner(c.SignatureKey.(*ssh.Certificate), ca)
			if err != nil {
				t.Fatal(err)
			}
			signer = nested
		}
		if err := c.SignCert(rand.Reader, signer); err != nil {
			t.Logf("%v", err)
			return nil
		}
		cs, err := ssh.NewCertSigner(c, user)
		if err != nil {
			t.Fatal(err)
		}
		return cs
	}
	caCert := func() *ssh.Certificate {
		c := &ssh.Certificate{Key: ca.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{me(t)}, ValidBefore: ssh.CertTimeInfinity}
		if err := c.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]struct {
		change func(*ssh.Certificate)
		in     bool
	}{
		"good":                    {func(*ssh.Certificate) {}, true},
		"no principals":           {func(c *ssh.Certificate) { c.ValidPrincipals = nil }, false},
		"an empty principal":      {func(c *ssh.Certificate) { c.ValidPrincipals = []string{""} }, false},
		"a pattern as principal":  {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"*"} }, false},
		"another's":               {func(c *ssh.Certificate) { c.ValidPrincipals = []string{"nobody"} }, false},
		"a list in one":           {func(c *ssh.Certificate) { c.ValidPrincipals = []string{me(t) + ",x"} }, false},
		"a host's":                {func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, false},
		"of no kind":              {func(c *ssh.Certificate) { c.CertType = 7 }, false},
		"expired":                 {func(c *ssh.Certificate) { c.ValidBefore = 1000 }, false},
		"not yet valid":           {func(c *ssh.Certificate) { c.ValidAfter = 1 << 40 }, false},
		"never valid":             {func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 1<<40, 0 }, false},
		"an unknown critical one": {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"x": ""} }, false},
		"an unknown extension":    {func(c *ssh.Certificate) { c.Extensions = map[string]string{"x": ""} }, true},
		"from elsewhere":          {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24"} }, false},
		"from here":               {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "127.0.0.0/8"} }, true},
		"from nowhere":            {func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": ""} }, false},
		"signed by a certificate": {func(c *ssh.Certificate) { c.SignatureKey = caCert() }, false},
	} {
		signer := make(c.change)
		if signer == nil {
			continue // the library does not even sign it
		}
		client, err := s.dial(signer)
		if (err == nil) != c.in {
			t.Errorf("%s: %v\n%s", name, err, s.log)
		}
		if err == nil {
			client.Close()
		}
	}
	if c, err := s.dial(ca); err == nil {
		c.Close()
		t.Error("the authority's own key logs in")
	}
}
