package sshserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/SumiTomohiko/nexec/keys"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/crypto/ssh"
)

// Authorizer decides by the configuration, the user database and the files
// that these name who may log in with which key. It may be used by several
// goroutines; nothing is kept between calls.
type Authorizer struct {
	Config   *sshdconfig.Config
	Accounts *Accounts
	Log      *slog.Logger
	// Only is the one account served when not running as root; nil otherwise.
	Only *Account
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// errDenied is the answer to everybody who is not let in. Why is in the log.
var errDenied = errors.New("permission denied")

// login is one attempt.
type login struct {
	*Authorizer
	ctx      context.Context
	end      Endpoint
	user     string
	key      ssh.PublicKey
	account  *Account
	settings *sshdconfig.Settings
	log      *slog.Logger
}

// Settings returns the configuration for a user who has not logged in yet.
func (a *Authorizer) Settings(ctx context.Context, end Endpoint, user string) *sshdconfig.Settings {
	s, _, _ := a.settings(ctx, end, user)
	return s
}

func (a *Authorizer) settings(ctx context.Context, end Endpoint, user string) (*sshdconfig.Settings, *Account, error) {
	conn := &sshdconfig.Conn{
		User: user, Addr: end.Addr, Host: end.Addr, LocalAddr: end.LocalAddr, LocalPort: end.LocalPort,
	}
	if a.Config.Global.UseDNS {
		conn.Host = hostName(ctx, end.Addr)
	}
	acct, err := a.Accounts.Lookup(user)
	if err == nil {
		conn.Groups = acct.GroupNames
	}
	return a.Config.For(conn), acct, err
}

// Authorize decides whether key may log in as user; the key's owner must have
// proved that it is theirs before the answer is acted on. algorithm is that of
// the signature, empty as long as there is none. An unknown user takes the way
// of a known one, with a home that does not exist, up to the same answer.
func (a *Authorizer) Authorize(ctx context.Context, end Endpoint, user string, key ssh.PublicKey, algorithm string) (*Grant, error) {
	log := a.Log.With("user", printable(user), "from", end.Addr, "port", end.Port)
	who := fmt.Sprintf("user %s from %s port %d", printable(user), end.Addr, end.Port)
	settings, acct, err := a.settings(ctx, end, user)
	log = atLevel(log, settings.LogLevel)
	l := &login{Authorizer: a, ctx: ctx, end: end, user: user, key: key, settings: settings, log: log, account: acct}
	if err != nil {
		l.account = &Account{Name: "nobody", UID: 65534, GID: 65534, Home: "/nonexistent", Shell: "/bin/sh"}
		_, _ = l.grant(algorithm)
		log.Info("Invalid "+who, "reason", err.Error())
		return nil, errDenied
	}
	if err := l.allowed(); err != nil {
		log.Info("Refused "+who, "reason", err.Error())
		_, _ = l.grant(algorithm)
		return nil, errDenied
	}
	return l.grant(algorithm)
}

// grant looks for an entry that lets the key in.
func (l *login) grant(algorithm string) (*Grant, error) {
	if reason := l.keyUsable(algorithm); reason != "" {
		l.log.Info("Key refused", "reason", reason, "key", describeKey(l.key))
		return nil, errDenied
	}
	opts, where := l.find()
	if opts == nil {
		return nil, errDenied
	}
	g := &Grant{Account: l.account, Key: l.key, Where: where, Options: opts, Settings: l.settings}
	if l.account.UID == 0 && l.settings.PermitRootLogin == "forced-commands-only" {
		if _, forced := g.ForcedCommand(); !forced {
			l.log.Info("ROOT LOGIN REFUSED", "reason", "PermitRootLogin forced-commands-only")
			return nil, errDenied
		}
	}
	return g, nil
}

func (l *login) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

// keyUsable judges the key itself, before any file is asked about it.
func (l *login) keyUsable(algorithm string) string {
	s := l.settings
	if !s.PubkeyAuthentication {
		return "public key authentication is switched off"
	}
	if !algorithmAllowed(l.key, algorithm, s.PubkeyAlgorithms) {
		return "key type not in PubkeyAcceptedAlgorithms"
	}
	plain := l.key
	if cert, ok := l.key.(*ssh.Certificate); ok {
		plain = cert.Key
		if !slices.Contains(s.CASignatures, cert.Signature.Format) {
			return "certificate signed with " + cert.Signature.Format + ", not in CASignatureAlgorithms"
		}
	}
	if s.TouchRequired && keys.WaivesTouch(l.key) {
		return "certificate waives the touch that PubkeyAuthOptions requires"
	}
	if n := rsaBits(plain); n > 0 && n < s.RequiredRSASize {
		return fmt.Sprintf("RSA key of %d bits; RequiredRSASize is %d", n, s.RequiredRSASize)
	}
	if s.RevokedKeys == "" {
		return ""
	}
	// Read anew each time, and refusing everything when it cannot be: a
	// revocation takes effect at once.
	revoked, err := keys.LoadRevoked(s.RevokedKeys)
	if err != nil {
		return "RevokedKeys cannot be read: " + err.Error()
	}
	if revoked.Contains(l.key) {
		return "key is revoked by " + s.RevokedKeys
	}
	return ""
}

// find tries the files and programs that may know the key, in sshd's order.
func (l *login) find() (*keys.Options, string) {
	for _, pattern := range l.settings.AuthorizedKeysFiles {
		if strings.EqualFold(pattern, "none") {
			continue
		}
		name, err := l.expandPath(pattern)
		if err != nil {
			l.log.Error("AuthorizedKeysFile", "error", err)
			continue
		}
		if opts, where := l.searchFile(name); opts != nil {
			return opts, where
		}
	}
	if opts, where := l.trustedCertificate(); opts != nil {
		return opts, where
	}
	return l.searchCommand()
}

func (l *login) peer() keys.Peer {
	p := keys.Peer{Addr: l.end.Addr, Host: l.end.Addr, Now: l.now()}
	if l.Config.Global.UseDNS {
		p.Host = hostName(l.ctx, l.end.Addr)
	}
	return p
}

func (l *login) searchFile(name string) (*keys.Options, string) {
	var match *keys.Match
	var refused []keys.Refusal
	err := asUser(l.account, func() error {
		f, err := l.openChecked(name)
		if err != nil {
			return err
		}
		defer f.Close()
		match, refused, err = keys.FindAuthorized(f, name, l.account.Name, l.key, l.peer())
		return err
	})
	l.logRefused(refused)
	if err != nil {
		l.logUnread(err)
	}
	if err != nil || match == nil {
		return nil, ""
	}
	return match.Options, match.Where
}

// openChecked opens a file of keys or principals and checks StrictModes. A
// fifo does not stop it.
func (l *login) openChecked(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("User %s authorized keys %s is not a regular file", l.account.Name, name)
	}
	if err == nil && l.settings.StrictModes {
		if bad := l.Accounts.checkModes(f, name, l.account); bad != nil {
			err = fmt.Errorf("Authentication refused: %w", bad)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (l *login) logUnread(err error) {
	if errors.Is(err, os.ErrNotExist) {
		l.log.Debug("No authorized keys", "error", err)
		return
	}
	l.log.Info(err.Error())
}

func (l *login) logRefused(refused []keys.Refusal) {
	for _, r := range refused {
		l.log.Info("Key refused", "where", r.Where, "reason", printable(r.Reason))
	}
}

// hostName is UseDNS: the address's name when that name has the address, and
// the address otherwise.
func hostName(ctx context.Context, addr string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	names, err := net.DefaultResolver.LookupAddr(ctx, addr)
	if err != nil || len(names) == 0 {
		return addr
	}
	name := strings.ToLower(strings.TrimSuffix(names[0], "."))
	back, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil || !slices.Contains(back, addr) {
		return addr
	}
	return name
}
