package keys

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxAuthorizedFile bounds an authorized_keys or principals file: some 100,000
// keys. What is beyond it is not read, and that is an error.
const maxAuthorizedFile = 16 << 20

// Peer is where a login comes from.
type Peer struct {
	// Addr is the numeric address.
	Addr string
	// Host is the name that the address was resolved to, or Addr itself.
	Host string
	// Now is the time that validity is judged by.
	Now time.Time
}

// Refusal is an entry that concerns the key but does not let it in. The file
// may have a further entry that does.
type Refusal struct {
	Where  string // file:line
	Reason string
}

func (r Refusal) String() string { return r.Where + ": " + r.Reason }

// Match is an entry that lets a key in.
type Match struct {
	Where   string // file:line
	Options *Options
}

// ErrInvalidKeyLine is a line that holds no key.
var ErrInvalidKeyLine = errors.New("invalid key line")

// ParseAuthorizedLine reads one line with a key, as sshd does: a key first,
// and if there is none, options and then a key.
func ParseAuthorizedLine(line string) (ssh.PublicKey, *Options, error) {
	return parseLine(line, "")
}

// parseLine reads a line in which a key of type want is looked for; any if
// empty. As in sshd a key of another type counts as no key.
func parseLine(line, want string) (ssh.PublicKey, *Options, error) {
	if key := readKey(line, want); key != nil {
		return key, permissiveOptions(), nil
	}
	rest, err := pastOptions(line)
	if err != nil {
		return nil, nil, err
	}
	key := readKey(strings.TrimLeft(rest, " \t"), want)
	if key == nil {
		return nil, nil, ErrInvalidKeyLine
	}
	opts, err := ParseOptions(line)
	if err != nil {
		return nil, nil, fmt.Errorf("bad key options: %w", err)
	}
	return key, opts, nil
}

// pastOptions returns what follows the first blank outside of quotes.
func pastOptions(s string) (string, error) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case !quoted && (s[i] == ' ' || s[i] == '\t'):
			return s[i:], nil
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		case s[i] == '"':
			quoted = !quoted
		}
	}
	if quoted {
		return "", errors.New("invalid key option string")
	}
	return "", nil
}

// readKey reads "type base64 comment", or returns nil.
func readKey(s, want string) ssh.PublicKey {
	end := strings.IndexAny(s, " \t")
	if end < 0 {
		return nil
	}
	format := s[:end]
	if format == ssh.KeyAlgoRSASHA256 || format == ssh.KeyAlgoRSASHA512 {
		format = ssh.KeyAlgoRSA // sshd takes the names of signatures for the key's
	}
	if want != "" && format != want {
		return nil
	}
	s = strings.TrimLeft(s[end:], " \t")
	if end = strings.IndexAny(s, " \t"); end >= 0 {
		s = s[:end]
	}
	blob, err := base64.StdEncoding.DecodeString(strings.Map(dropSpace, s))
	if err != nil {
		return nil
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != format {
		return nil
	}
	return key
}

// dropSpace removes what base64 readers in C skip.
func dropSpace(r rune) rune {
	if strings.ContainsRune("\n\v\f\r", r) {
		return -1
	}
	return r
}

// FindAuthorized looks for key, or for the authority of the certificate that
// key is, in an authorized_keys file called name. It returns nil when no entry
// lets user in, and what refused it on the way. The error is about reading.
func FindAuthorized(r io.Reader, name, user string, key ssh.PublicKey, peer Peer) (*Match, []Refusal, error) {
	var refused []Refusal
	var match *Match
	err := eachLine(r, func(n int, line string) bool {
		where := fmt.Sprintf("%s:%d", name, n)
		opts, reason := checkLine(line, user, key, peer)
		if opts != nil {
			match = &Match{Where: where, Options: opts}
			return false
		}
		if reason != "" && len(refused) < maxRefusals {
			refused = append(refused, Refusal{Where: where, Reason: reason})
		}
		return true
	})
	if err != nil {
		return nil, refused, fmt.Errorf("%s: %w", name, err)
	}
	return match, refused, nil
}

// maxRefusals bounds what one file can put into the log.
const maxRefusals = 8

// eachLine calls f with each line that is neither empty nor a comment, without
// its leading blanks, until f returns false. Like C it takes a line to end at
// a NUL.
func eachLine(r io.Reader, f func(n int, line string) bool) error {
	limited := &io.LimitedReader{R: r, N: maxAuthorizedFile + 1}
	in := bufio.NewReader(limited)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if err != nil && err != io.EOF {
			return err
		}
		if limited.N == 0 {
			return fmt.Errorf("longer than %d bytes", maxAuthorizedFile)
		}
		cut, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\x00")
		cut = strings.TrimLeft(cut, " \t")
		if cut != "" && cut[0] != '#' && !f(n, cut) {
			return nil
		}
		if err == io.EOF {
			return nil
		}
	}
}

// checkLine judges one line. It returns options when the line lets key in, a
// reason when the line is about key and refuses it, and neither otherwise.
func checkLine(line, user string, key ssh.PublicKey, peer Peer) (*Options, string) {
	cert, isCert := key.(*ssh.Certificate)
	wanted, want := key, key.Type()
	if isCert {
		wanted, want = cert.SignatureKey, ""
	}
	found, opts, err := parseLine(line, want)
	if errors.Is(err, ErrInvalidKeyLine) {
		return nil, ""
	}
	if err != nil {
		return nil, err.Error()
	}
	if !SameKey(found, wanted) || opts.CertAuthority != isCert {
		return nil, ""
	}
	if reason := opts.permits(peer, isCert); reason != "" {
		return nil, reason
	}
	if !isCert {
		return ifHonoured(opts, key)
	}
	return checkAuthority(cert, user, opts, peer)
}

// permits judges a key's own conditions. It returns the reason for a refusal.
func (o *Options) permits(peer Peer, mayBeAuthority bool) string {
	if !o.Expiry.IsZero() && o.Expiry.Unix() < peer.Now.Unix() {
		return "entry expired at " + o.Expiry.Format("2006-01-02T15:04:05")
	}
	if o.HasPrincipals && !o.CertAuthority {
		return "principals on non-CA key"
	}
	if o.CertAuthority && !mayBeAuthority {
		return "cert-authority flag invalid here"
	}
	if o.HasFrom {
		matched, err := MatchHostAndIP(peer.Host, peer.Addr, o.From)
		if err != nil {
			return "invalid from criteria"
		}
		if !matched {
			return fmt.Sprintf("correct key but not from a permitted host (host=%.200s, ip=%.200s, required=%.200s)",
				peer.Host, peer.Addr, o.From)
		}
	}
	if o.SourceAddress != "" {
		matched, err := matchCIDRList(peer.Addr, o.SourceAddress)
		if err != nil {
			return "Certificate source-address invalid"
		}
		if !matched {
			return fmt.Sprintf("valid certificate but not from a permitted source address (%.100s)", peer.Addr)
		}
	}
	return ""
}
