package sshserver

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxUserName bounds names that are worth looking up; Linux allows 32 bytes,
// directories of big sites more.
const maxUserName = 256

// maxBanner bounds the file that Banner names.
const maxBanner = 64 << 10

// sshConfig makes the library's configuration for this connection.
func (c *conn) sshConfig() *ssh.ServerConfig {
	s := &c.config.Auth.Config.Global
	c.maxTries = s.MaxAuthTries
	cfg := &ssh.ServerConfig{
		Config: ssh.Config{
			KeyExchanges: s.KexAlgorithms,
			Ciphers:      s.Ciphers,
			MACs:         s.MACs,
			// Keys are renewed as often as any Match block may ask for: whose
			// connection it is comes out too late for a choice.
			RekeyThreshold: c.config.Auth.Config.LeastRekeyLimit(),
		},
		// Match may allow an algorithm to some users only: here the widest
		// list, and Authorize decides.
		PublicKeyAuthAlgorithms: signatureAlgorithms(),
		// The highest of all Match blocks; authLog enforces a lower one.
		MaxAuthTries:              c.config.Auth.Config.MostAuthTries(),
		PublicKeyCallback:         c.offered,
		VerifiedPublicKeyCallback: c.verified,
		AuthLogCallback:           c.authLog,
		BannerCallback:            c.banner,
		ServerVersion:             strings.TrimSpace("SSH-2.0-nexecd " + s.VersionAddendum),
	}
	for _, k := range c.config.HostKeys {
		if signer := restrictHostKey(k, s.HostKeyAlgorithms); signer != nil {
			cfg.AddHostKey(signer)
		}
	}
	return cfg
}

func signatureAlgorithms() []string {
	return []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
}

// restrictHostKey leaves to a host key the algorithms that HostKeyAlgorithms
// names; nil when there are none.
func restrictHostKey(k ssh.Signer, allowed []string) ssh.Signer {
	multi, ok := k.(ssh.MultiAlgorithmSigner)
	if !ok || plainKey(k.PublicKey()).Type() != ssh.KeyAlgoRSA {
		if slices.Contains(allowed, k.PublicKey().Type()) {
			return k
		}
		return nil
	}
	var algs []string
	for _, a := range multi.Algorithms() {
		name := a
		if _, isCert := k.PublicKey().(*ssh.Certificate); isCert {
			name = certName(k.PublicKey().Type(), a)
		}
		if slices.Contains(allowed, name) {
			algs = append(algs, a)
		}
	}
	if len(algs) == 0 {
		return nil
	}
	signer, err := ssh.NewSignerWithAlgorithms(multi, algs)
	if err != nil {
		return nil
	}
	return signer
}

// offered answers whether it is worth signing with a key. Nothing is decided
// here: the decision is verified's, made anew.
func (c *conn) offered(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	grant, err := c.authorize(meta.User(), key, "")
	if err != nil {
		return nil, err
	}
	perms := &ssh.Permissions{}
	if noTouch(grant) {
		perms.Extensions = map[string]string{"no-touch-required": ""}
	}
	return perms, nil
}

// noTouch is the one option that the library acts on itself.
func noTouch(g *Grant) bool {
	return g.Options.NoTouchRequired && !g.Settings.TouchRequired
}

// verified decides, once the client has proved that it has the key.
func (c *conn) verified(meta ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, algorithm string) (*ssh.Permissions, error) {
	grant, err := c.authorize(meta.User(), key, algorithm)
	if err != nil {
		return nil, err
	}
	return &ssh.Permissions{ExtraData: map[any]any{grantKey{}: grant}}, nil
}

func (c *conn) authorize(user string, key ssh.PublicKey, algorithm string) (*Grant, error) {
	if len(user) > maxUserName || strings.ContainsAny(user, "\x00\n:/") {
		user = "" // nobody's name, and all else takes its usual way
	}
	return c.config.Auth.Authorize(c.ctx, c.end, user, key, algorithm)
}

// authLog counts failures and ends the connection at MaxAuthTries, as sshd
// does: the first attempt of method none is free.
func (c *conn) authLog(meta ssh.ConnMetadata, method string, err error) {
	first := c.user == ""
	if first && meta.User() != "" {
		c.user = printable(meta.User())
		s := c.config.Auth.Settings(c.ctx, c.end, meta.User())
		c.maxTries = s.MaxAuthTries
		c.log = atLevel(c.log, s.LogLevel)
	}
	if err == nil {
		return
	}
	if errors.Is(err, ssh.ErrNoAuth) && first {
		return
	}
	c.failures++
	c.log.Info("Failed "+printable(method)+" for "+printable(meta.User()), "tries", c.failures)
	if c.failures < c.maxTries {
		return
	}
	c.log.Info("error: maximum authentication attempts exceeded", "user", printable(meta.User()))
	if c.maxTries < c.config.Auth.Config.MostAuthTries() {
		c.raw.abort() // else the library says so to the client and ends it
	}
}

// banner is sent before authentication.
func (c *conn) banner(meta ssh.ConnMetadata) string {
	name := c.config.Auth.Settings(c.ctx, c.end, meta.User()).Banner
	if name == "" {
		return ""
	}
	f, err := os.Open(name)
	if err != nil {
		c.log.Error("Banner", "error", err)
		return ""
	}
	defer f.Close()
	buf := make([]byte, maxBanner)
	n, _ := f.Read(buf)
	return string(buf[:n])
}
