package sshserver

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/SumiTomohiko/nexec/keys"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/crypto/ssh"
)

// allowed judges the account by everything but its keys, in sshd's order.
func (l *login) allowed() error {
	if l.Only != nil && l.Only.UID != l.account.UID {
		return fmt.Errorf("nexecd runs as %s and serves only that user", l.Only.Name)
	}
	if l.account.UID == ^uint32(0) || l.account.GID == ^uint32(0) {
		return errors.New("account has an impossible uid or gid")
	}
	if err := l.Accounts.Usable(l.account, l.now()); err != nil {
		return err
	}
	if l.settings.UsePAM {
		if err := l.Accounts.PasswordAge(l.account, l.now()); err != nil {
			return err
		}
	}
	if err := l.lists(); err != nil {
		return err
	}
	if l.account.UID == 0 && l.settings.PermitRootLogin == "no" {
		return errors.New("PermitRootLogin is no")
	}
	return nil
}

// lists are DenyUsers, AllowUsers, DenyGroups, AllowGroups.
func (l *login) lists() error {
	s := l.settings
	host := l.peer().Host
	matches := func(p string) bool { return matchUser(l.account.Name, host, l.end.Addr, p) }
	if slices.ContainsFunc(s.DenyUsers, func(p string) bool { return matches(strings.TrimPrefix(p, "!")) }) {
		return errors.New("listed in DenyUsers")
	}
	if len(s.AllowUsers) > 0 && !allowedByList(s.AllowUsers, matches) {
		return errors.New("not listed in AllowUsers")
	}
	if len(s.DenyGroup) > 0 && groupListed(l.account.GroupNames, s.DenyGroup) {
		return errors.New("a group is listed in DenyGroups")
	}
	if len(s.AllowGroups) > 0 && !sshdconfig.MatchGroups(l.account.GroupNames, strings.Join(s.AllowGroups, ",")) {
		return errors.New("none of user's groups are listed in AllowGroups")
	}
	return nil
}

// allowedByList is sshd's reading of AllowUsers: a match lets in unless a
// negated pattern matches before it.
func allowedByList(patterns []string, matches func(string) bool) bool {
	for _, p := range patterns {
		rest, negated := strings.CutPrefix(p, "!")
		if matches(rest) {
			return !negated
		}
	}
	return false
}

func groupListed(groups, patterns []string) bool {
	return slices.ContainsFunc(groups, func(g string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			return keys.MatchPattern(g, strings.TrimPrefix(p, "!"))
		})
	})
}

// matchUser matches USER or USER@HOST, where HOST may be a network.
func matchUser(user, host, addr, pattern string) bool {
	at := strings.LastIndexByte(pattern, '@')
	if at < 0 {
		return keys.MatchPattern(user, pattern)
	}
	if !keys.MatchPattern(user, pattern[:at]) {
		return false
	}
	matched, err := keys.MatchHostAndIP(host, addr, pattern[at+1:])
	return err == nil && matched
}

// expandPath replaces the tokens of AuthorizedKeysFile; what is then relative
// is below the account's home.
func (l *login) expandPath(pattern string) (string, error) {
	name, err := expandTokens(pattern, map[byte]string{
		'h': l.account.Home, 'u': l.account.Name, 'U': strconv.Itoa(int(l.account.UID)),
	})
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(l.account.Home, name)
	}
	if len(name) >= 4096 {
		return "", fmt.Errorf("AuthorizedKeysFile %.100s: too long", name)
	}
	return name, nil
}

// expandTokens replaces %X by tokens[X] and %% by %.
func expandTokens(s string, tokens map[byte]string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out.WriteByte(s[i])
			continue
		}
		if i++; i >= len(s) {
			return "", fmt.Errorf("%q ends in %%", s)
		}
		if s[i] == '%' {
			out.WriteByte('%')
			continue
		}
		value, ok := tokens[s[i]]
		if !ok {
			return "", fmt.Errorf("%q has the unknown token %%%c", s, s[i])
		}
		out.WriteString(value)
	}
	return out.String(), nil
}

// algorithmAllowed checks PubkeyAcceptedAlgorithms. Before there is a
// signature, one algorithm that the key could be used with is enough.
func algorithmAllowed(key ssh.PublicKey, signature string, allowed []string) bool {
	_, isCert := key.(*ssh.Certificate)
	names := []string{key.Type()}
	switch {
	case signature != "" && isCert:
		names = []string{certName(key.Type(), signature)}
	case signature != "":
		names = []string{signature}
	case key.Type() == ssh.KeyAlgoRSA:
		names = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	case key.Type() == ssh.CertAlgoRSAv01:
		names = []string{ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01}
	}
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(allowed, n) })
}

// certName is the algorithm of a certificate whose key signs with signature.
func certName(keyType, signature string) string {
	switch signature {
	case ssh.KeyAlgoRSASHA256:
		return ssh.CertAlgoRSASHA256v01
	case ssh.KeyAlgoRSASHA512:
		return ssh.CertAlgoRSASHA512v01
	}
	return keyType
}

func rsaBits(key ssh.PublicKey) int {
	if c, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
			return k.N.BitLen()
		}
	}
	return 0
}

// trustedCertificate is TrustedUserCAKeys.
func (l *login) trustedCertificate() (*keys.Options, string) {
	cert, ok := l.key.(*ssh.Certificate)
	if !ok || l.settings.TrustedUserCAKeys == "" {
		return nil, ""
	}
	authorities, err := keys.LoadKeyList(l.settings.TrustedUserCAKeys)
	if err != nil {
		l.log.Error("TrustedUserCAKeys", "error", err)
		return nil, ""
	}
	if !slices.ContainsFunc(authorities, func(k ssh.PublicKey) bool { return keys.SameKey(k, cert.SignatureKey) }) {
		return nil, ""
	}
	lists, err := l.principals(cert)
	if err != nil {
		l.logUnread(err)
		return nil, ""
	}
	opts, reason := keys.TrustedCertificate(cert, l.account.Name, lists, l.peer())
	if opts == nil {
		l.log.Info("Certificate refused", "reason", printable(reason), "id", printable(cert.KeyId), "serial", cert.Serial)
		return nil, ""
	}
	return opts, l.settings.TrustedUserCAKeys
}

// principals reads the lists that must name a principal. When the
// configuration asks for one there always is one, empty if it cannot be read.
func (l *login) principals(cert *ssh.Certificate) ([]keys.PrincipalsList, error) {
	var lists []keys.PrincipalsList
	if pattern := l.settings.PrincipalsFile; pattern != "" {
		name, err := l.expandPath(pattern)
		if err != nil {
			return nil, err
		}
		data, err := l.readChecked(name)
		if err != nil {
			l.logUnread(err)
		}
		lists = append(lists, keys.PrincipalsList{Name: name, Data: strings.NewReader(data)})
	}
	if command := l.settings.PrincipalsCommand; len(command) > 0 {
		out, err := l.runKeysCommand(command, l.settings.PrincipalsUser, cert)
		if err != nil {
			l.log.Error("AuthorizedPrincipalsCommand", "error", err)
		}
		lists = append(lists, keys.PrincipalsList{Name: command[0], Data: strings.NewReader(out)})
	}
	return lists, nil
}

func (l *login) readChecked(name string) (string, error) {
	var data []byte
	err := asUser(l.account, func() error {
		f, err := l.openChecked(name)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err = readBounded(f)
		return err
	})
	return string(data), err
}

// searchCommand is AuthorizedKeysCommand.
func (l *login) searchCommand() (*keys.Options, string) {
	command := l.settings.AuthorizedKeysCommand
	if len(command) == 0 || l.account.Home == "/nonexistent" && l.account.Name != l.user {
		return nil, "" // not for users who do not exist
	}
	out, err := l.runKeysCommand(command, l.settings.AuthorizedKeysUser, nil)
	if err != nil {
		l.log.Error("AuthorizedKeysCommand", "error", err)
		return nil, ""
	}
	match, refused, err := keys.FindAuthorized(strings.NewReader(out), command[0], l.account.Name, l.key, l.peer())
	l.logRefused(refused)
	if err != nil || match == nil {
		return nil, ""
	}
	return match.Options, match.Where
}

// printable makes text from outside fit for a line of a log.
func printable(s string) string {
	const longest = 100
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
}

func describeKey(key ssh.PublicKey) string {
	return keyKind(key) + " " + ssh.FingerprintSHA256(plainKey(key))
}

// describeLogin is describeKey with what says whose certificate it was.
func describeLogin(key ssh.PublicKey) string {
	text := describeKey(key)
	if cert, ok := key.(*ssh.Certificate); ok {
		text += fmt.Sprintf(" ID %s (serial %d) CA %s", printable(cert.KeyId), cert.Serial, describeKey(cert.SignatureKey))
	}
	return text
}

func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// keyKind is the name that OpenSSH's log has for a type of key.
func keyKind(key ssh.PublicKey) string {
	t := key.Type()
	name := map[string]string{
		ssh.KeyAlgoED25519: "ED25519", ssh.KeyAlgoRSA: "RSA", ssh.KeyAlgoECDSA256: "ECDSA",
		ssh.KeyAlgoECDSA384: "ECDSA", ssh.KeyAlgoECDSA521: "ECDSA",
		ssh.KeyAlgoSKED25519: "ED25519-SK", ssh.KeyAlgoSKECDSA256: "ECDSA-SK",
	}[plainKey(key).Type()]
	if name == "" {
		name = t
	}
	if _, ok := key.(*ssh.Certificate); ok {
		name += "-CERT"
	}
	return name
}

// Printable makes text of a program or a user fit for a line of a log: what
// does not show is escaped. It is not cut.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimRight(s, "\r\n") {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}
