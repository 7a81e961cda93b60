package dial

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// localFacts are what tokens and patterns may name of this side.
type localFacts struct {
	user     string
	uid      string
	home     string // from the password database, as OpenSSH takes it
	hostname string
}

// connFacts are what tokens may name of a connection.
type connFacts struct {
	host     string // after Hostname and canonicalization
	typed    string // as typed
	port     string
	user     string
	keyAlias string
	jump     string // the ProxyJump value, or ""
}

// findLocalFacts asks the system who runs this. home replaces the home
// directory unless it is empty.
func findLocalFacts(home string) (localFacts, error) {
	u, err := user.Current()
	if err != nil {
		return localFacts{}, fmt.Errorf("who is uid %d: %v: add the user to the password database", os.Getuid(), err)
	}
	host, err := os.Hostname()
	if err != nil {
		return localFacts{}, fmt.Errorf("the name of this machine: %v", err)
	}
	if home == "" {
		home = u.HomeDir
	}
	return localFacts{user: u.Username, uid: u.Uid, home: home, hostname: host}, nil
}

// tokens are the replacements of % sequences that most keywords take. See
// ssh_config(5), "TOKENS".
func (l localFacts) tokens(c connFacts) map[byte]string {
	short, _, _ := strings.Cut(l.hostname, ".")
	return map[byte]string{
		'C': l.connHash(c), 'L': short, 'd': l.home, 'h': c.host, 'i': l.uid, 'j': c.jump,
		'k': c.keyAlias, 'l': l.hostname, 'n': c.typed, 'p': c.port, 'r': c.user, 'u': l.user,
	}
}

// connHash is %C, the hash of %l%h%p%r%j. OpenSSH before 9.6 left %j out.
func (l localFacts) connHash(c connFacts) string {
	sum := sha1.Sum([]byte(l.hostname + c.host + c.port + c.user + c.jump))
	return hex.EncodeToString(sum[:])
}

// expandPercent replaces % sequences, and with dollar also ${NAME}.
func expandPercent(s string, tokens map[byte]string, dollar bool) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case dollar && strings.HasPrefix(s[i:], "${"):
			name, _, ok := strings.Cut(s[i+2:], "}")
			val, set := os.LookupEnv(name)
			if !ok || name == "" || !set {
				return "", fmt.Errorf("%q: environment variable %q is not set: set it or write the value", s, name)
			}
			b.WriteString(val)
			i += len(name) + 2
		case s[i] != '%' || tokens == nil:
			b.WriteByte(s[i])
		case i+1 == len(s):
			return "", fmt.Errorf("%q ends with %%: write %%%%", s)
		default:
			i++
			val, ok := tokens[s[i]]
			if s[i] == '%' {
				val, ok = "%", true
			}
			if !ok {
				return "", fmt.Errorf("%q: unknown token %%%c: write %%%%%c for itself", s, s[i], s[i])
			}
			b.WriteString(val)
		}
	}
	return b.String(), nil
}

// expandTilde replaces ~ and ~name at the beginning of a path.
func (l localFacts) expandTilde(path string) (string, error) {
	if !strings.HasPrefix(path, "~") {
		return path, nil
	}
	name, rest, _ := strings.Cut(path[1:], "/")
	home := l.home
	if name != "" {
		u, err := user.Lookup(name)
		if err != nil {
			return "", fmt.Errorf("%q: no such user %s", path, name)
		}
		home = u.HomeDir
	}
	return strings.TrimSuffix(home, "/") + "/" + strings.TrimLeft(rest, "/"), nil
}

var errBadTime = errors.New("not a time")

// parseTime reads seconds or a time like 1h30m. See sshd_config(5), "TIME
// FORMATS".
func parseTime(s string) (int, error) {
	total := 0
	if s == "" {
		return 0, errBadTime
	}
	for s != "" {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		secs, err := strconv.ParseInt(s[:n], 10, 32)
		if err != nil {
			return 0, errBadTime
		}
		unit := int64(1)
		if s = s[n:]; s != "" {
			switch s[0] {
			case 's', 'S':
			case 'm', 'M':
				unit = 60
			case 'h', 'H':
				unit = 3600
			case 'd', 'D':
				unit = 86400
			case 'w', 'W':
				unit = 604800
			default:
				return 0, errBadTime
			}
			s = s[1:]
		}
		if secs *= unit; secs > 1<<31-1-int64(total) {
			return 0, errBadTime
		}
		total += int(secs)
	}
	return total, nil
}
