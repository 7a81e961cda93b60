package sshserver

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// securityKey signs as a FIDO token does, with the flags that it is given. See
// OpenSSH's PROTOCOL.u2f.
type securityKey struct {
	public  ssh.PublicKey
	flags   byte
	ed25519 ed25519.PrivateKey // one of these
	ecdsa   *ecdsa.PrivateKey
}

const (
	touched  = 1 // user presence
	verified = 4 // a PIN, or the like
	skApp    = "ssh:"
)

func newSecurityKey(t *testing.T, kind string) *securityKey {
	t.Helper()
	k := &securityKey{}
	var blob []byte
	switch kind {
	case ssh.KeyAlgoSKED25519:
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k.ed25519 = private
		blob = ssh.Marshal(struct {
			Name        string
			Key         []byte
			Application string
		}{kind, public, skApp})
	case ssh.KeyAlgoSKECDSA256:
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k.ecdsa = private
		point, err := private.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		blob = ssh.Marshal(struct {
			Name, Curve string
			Key         []byte
			Application string
		}{kind, "nistp256", point, skApp})
	}
	var err error
	if k.public, err = ssh.ParsePublicKey(blob); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *securityKey) PublicKey() ssh.PublicKey { return k.public }

func (k *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	app, msg := sha256.Sum256([]byte(skApp)), sha256.Sum256(data)
	attested := binary.BigEndian.AppendUint32([]byte{k.flags}, 42) // a counter
	signed := append(append(app[:], attested...), msg[:]...)
	sig := &ssh.Signature{Format: k.public.Type(), Rest: attested}
	if k.ed25519 != nil {
		sig.Blob = ed25519.Sign(k.ed25519, signed)
		return sig, nil
	}
	digest := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, k.ecdsa, digest[:])
	if err != nil {
		return nil, err
	}
	sig.Blob = ssh.Marshal(struct{ R, S *big.Int }{r, s})
	return sig, nil
}

// certified makes a certificate for the key, with extensions.
func (k *securityKey) certified(t *testing.T, ca ssh.Signer, extensions ...string) ssh.Signer {
	t.Helper()
	c := &ssh.Certificate{Key: k.public, CertType: ssh.UserCert, KeyId: "token", ValidPrincipals: []string{me(t)}, ValidBefore: ssh.CertTimeInfinity, Permissions: ssh.Permissions{Extensions: map[string]string{}}}
	for _, e := range extensions {
		if name, critical := strings.CutPrefix(e, "!"); critical {
			c.CriticalOptions = map[string]string{name: ""}
		} else {
			c.Extensions[e] = ""
		}
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(c, k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSecurityKeys holds what is made of a token's signature to what Debian's
// sshd makes of it. Where a PIN or a touch is demanded that the library does
// not let us see, we refuse what sshd may accept; never the other way round.
func TestSecurityKeys(t *testing.T) {
	ca := newKey(t)
	authority := "cert-authority"
	for _, kind := range []string{ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256} {
		for _, c := range []struct {
			config, options string
			cert            []string // nil: no certificate
			flags           byte
			sshd, ours      bool
		}{
			{"", "", nil, touched, true, true},
			{"", "", nil, touched | verified, true, true},
			{"", "", nil, 0, false, false},
			{"", "", nil, verified, false, false},
			{"", "no-touch-required", nil, 0, true, true},
			{"", "no-touch-required", nil, touched, true, true},
			{"", "restrict,touch-required", nil, 0, false, false},
			{"PubkeyAuthOptions touch-required", "no-touch-required", nil, 0, false, false},
			{"PubkeyAuthOptions touch-required", "no-touch-required", nil, touched, true, true},
			{"", "verify-required", nil, touched, false, false},
			{"", "verify-required", nil, touched | verified, true, false},
			{"", "verify-required,no-touch-required", nil, verified, true, false},
			{"PubkeyAcceptedAlgorithms ssh-ed25519", "", nil, touched, false, false},
			{"", authority, []string{}, touched, true, true},
			{"", authority, []string{}, 0, false, false},
			{"", authority, []string{"no-touch-required"}, 0, false, false},
			{"", authority, []string{"no-touch-required"}, touched, true, false},
			{"", authority + ",no-touch-required", []string{"no-touch-required"}, 0, true, true},
			{"", authority + ",no-touch-required", []string{}, 0, false, false},
			{"", authority, []string{"!verify-required"}, touched, false, false},
			{"", authority, []string{"!verify-required"}, touched | verified, true, false},
			{"PubkeyAuthOptions touch-required", authority + ",no-touch-required", []string{"no-touch-required"}, 0, false, false},
		} {
			what := kind + " " + c.config + " " + c.options + " " + strings.Join(c.cert, " ")
			token := newSecurityKey(t, kind)
			token.flags = c.flags
			s := start(t, c.config, echo(), nil)
			var signer ssh.Signer = token
			entry := c.options + " " + line(token.public)
			if c.cert != nil {
				signer, entry = token.certified(t, ca, c.cert...), c.options+" "+line(ca.PublicKey())
			}
			s.authorize(strings.TrimSpace(entry))
			got := logsIn(s.addr, me(t), signer)
			if got != c.ours {
				t.Errorf("%s, flags %d: we say %v\n%s", what, c.flags, got, s.log)
			}
			if kind != ssh.KeyAlgoSKED25519 {
				continue // one kind is enough to ask sshd about
			}
			addr, sshdLog := realSSHD(t, s.dir, "StrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile "+filepath.Join(s.dir, "keys")+"\n"+c.config)
			if got := logsIn(addr, me(t), signer); got != c.sshd {
				t.Errorf("%s, flags %d: sshd says %v\n%s", what, c.flags, got, sshdLog())
			}
		}
	}
}

func logsIn(addr, user string, signer ssh.Signer) bool {
	c, err := dialAs(addr, user, signer)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// TestSecurityKeyForgeries has signatures that are not of the token.
func TestSecurityKeyForgeries(t *testing.T) {
	s := start(t, "", echo(), nil)
	token, other := newSecurityKey(t, ssh.KeyAlgoSKED25519), newSecurityKey(t, ssh.KeyAlgoSKED25519)
	token.flags, other.flags = touched, touched
	s.authorize(line(token.public))
	raised := *token // the touch is claimed after signing
	raised.flags = 0
	for name, signer := range map[string]ssh.Signer{
		"another token's":       forger{token, other},
		"flags changed":         tampered{&raised, func(sig *ssh.Signature) { sig.Rest[0] = touched }},
		"no flags":              tampered{token, func(sig *ssh.Signature) { sig.Rest = nil }},
		"something more":        tampered{token, func(sig *ssh.Signature) { sig.Rest = append(sig.Rest, 0) }},
		"of an ordinary key":    tampered{token, func(sig *ssh.Signature) { sig.Format = ssh.KeyAlgoED25519 }},
		"an ordinary signature": plainSigner{token},
	} {
		if logsIn(s.addr, me(t), signer) {
			t.Errorf("%s: it logs in", name)
		}
	}
	if !logsIn(s.addr, me(t), token) {
		t.Errorf("the token itself does not log in\n%s", s.log)
	}
}

type tampered struct {
	*securityKey
	change func(*ssh.Signature)
}

func (s tampered) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	sig, err := s.securityKey.Sign(r, data)
	if err == nil {
		s.change(sig)
	}
	return sig, err
}

// plainSigner signs the data itself, as an ordinary key would.
type plainSigner struct{ *securityKey }

func (s plainSigner) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: s.public.Type(), Blob: ed25519.Sign(s.ed25519, data), Rest: []byte{touched, 0, 0, 0, 1}}, nil
}
