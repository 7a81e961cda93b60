package dial

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"unicode"
)

// ErrCannotAsk says that there is no terminal and no askpass program to ask
// the user with.
var ErrCannotAsk = errors.New("no terminal and no SSH_ASKPASS program to ask with")

// ConnectError says that the host could not be reached.
type ConnectError struct {
	Host string
	Port int
	Err  error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("connect to host %s port %d: %v: %s", printable(e.Host), e.Port, reason(e.Err), connectHint(e.Err))
}

func (e *ConnectError) Unwrap() error { return e.Err }

func connectHint(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "check the name"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check the port, and that the server runs there"
	}
	return "check the address, the network and firewalls"
}

// HostKeyError says that the host's key was not accepted.
type HostKeyError struct {
	Host        string // as known_hosts has it, with the port
	KeyType     string // as OpenSSH names it: ED25519, RSA, ...
	Fingerprint string // of the key shown
	Where       string // file:line of the line it contradicts, or ""
	Why         string
	Hint        string // what to do
}

func (e *HostKeyError) Error() string {
	s := fmt.Sprintf("host key verification failed: %s (%s key %s of %s", e.Why, e.KeyType, e.Fingerprint, printable(e.Host))
	if e.Where != "" {
		s += "; the key on file is in " + e.Where
	}
	return s + "): " + e.Hint
}

// AuthError says that the server refused the user.
type AuthError struct {
	User    string
	Host    string
	Methods []string // what the server would still take
	Tried   []string // what was tried
	Hint    string
	Err     error
}

func (e *AuthError) Error() string {
	s := fmt.Sprintf("%s@%s: permission denied", printable(e.User), printable(e.Host))
	if len(e.Methods) > 0 {
		s += " (" + printable(strings.Join(e.Methods, ",")) + ")"
	}
	return s + ": " + e.Hint
}

func (e *AuthError) Unwrap() error { return e.Err }

// SubsystemError says that the server has no such subsystem.
type SubsystemError struct {
	Host, Name string
	Stderr     string // what came on the channel's stderr, printable
}

func (e *SubsystemError) Error() string {
	s := fmt.Sprintf("%s has no subsystem %q: install nexec-server there and add \"Subsystem %s /usr/lib/nexec/nexec-server\" to sshd_config, or connect to nexecd's port", printable(e.Host), e.Name, e.Name)
	if e.Stderr != "" {
		s += " (it says: " + e.Stderr + ")"
	}
	return s
}

// LostError says that a connection that stood has ended.
type LostError struct {
	Host string
	Err  error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("connection to %s lost: %v", printable(e.Host), reason(e.Err))
}

func (e *LostError) Unwrap() error { return e.Err }

// reason is the short cause of an error: the system's words where it has
// some.
func reason(err error) error {
	var dns *net.DNSError
	var no syscall.Errno
	var path *fs.PathError
	switch {
	case errors.As(err, &dns):
		return lookupReason(err)
	case errors.As(err, &no):
		return errors.New(no.Error())
	case errors.As(err, &path):
		return path.Err
	}
	return err
}

func lookupReason(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Errorf("could not resolve hostname: %s", dns.Err)
	}
	return err
}

// maxShown bounds what is shown of a string that others made.
const maxShown = 1024

// printable makes a string safe for a terminal and for one line: whatever is
// not printable is escaped, and what is too long cut.
func printable(s string) string {
	if len(s) > maxShown {
		s = s[:maxShown] + "..."
	}
	var b strings.Builder
	for _, r := range s {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			fmt.Fprintf(&b, `\x%02x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
