package dial

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// target is a host as the user names one.
type target struct {
	user string // or ""
	host string
	port int // or 0
}

var errNoHost = errors.New("no host name in it")

// parseTarget reads [user@]host[:port], with an IPv6 address in brackets when
// a port follows, or ssh://[user@]host[:port].
func parseTarget(s string) (target, error) {
	if strings.HasPrefix(s, "ssh://") {
		return parseURL(s)
	}
	var t target
	host := s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if t.user, host = s[:i], s[i+1:]; t.user == "" {
			return t, errors.New("an empty user name before the @")
		}
	}
	port := ""
	switch {
	case strings.HasPrefix(host, "["):
		inner, after, ok := strings.Cut(host[1:], "]")
		if !ok || (after != "" && after[0] != ':') {
			return t, errors.New("unbalanced brackets")
		}
		host, port = inner, strings.TrimPrefix(after, ":")
		if after == ":" {
			return t, errors.New("an empty port after the colon")
		}
	case strings.Count(host, ":") == 1:
		if host, port, _ = strings.Cut(host, ":"); port == "" {
			return t, errors.New("an empty port after the colon")
		}
	}
	t.host = host
	if t.host == "" {
		return t, errNoHost
	}
	if port != "" {
		var ok bool
		if t.port, ok = parsePort(port); !ok {
			return t, fmt.Errorf("bad port %q: use a number from 1 to 65535", port)
		}
	}
	return t, nil
}

func parseURL(s string) (target, error) {
	var t target
	rest := strings.TrimPrefix(s, "ssh://")
	if user, host, ok := strings.Cut(rest, "@"); ok {
		user, _, _ = strings.Cut(user, ";") // connection parameters: none are known
		name, err := url.PathUnescape(user)
		if err != nil || name == "" {
			return t, errors.New("a bad user name before the @")
		}
		t.user, rest = name, host
	}
	host, path, _ := strings.Cut(rest, "/")
	if path != "" {
		return t, errors.New("a path after the host: an ssh URL here has none")
	}
	inner, err := parseTarget(host)
	if err != nil {
		return t, err
	}
	t.host, t.port = inner.host, inner.port
	return t, nil
}

// parseJump reads a ProxyJump value: hosts as parseTarget reads them, the one
// to reach first standing first.
func parseJump(s string) ([]target, error) {
	var hops []target
	for _, part := range strings.Split(s, ",") {
		t, err := parseTarget(part)
		if err == nil {
			err = t.check()
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
		hops = append(hops, t)
	}
	return hops, nil
}

// check refuses names that could be taken for options or shell syntax where
// tokens carry them into commands. The rules are those of OpenSSH 9.6.
func (t target) check() error {
	if strings.HasPrefix(t.host, "-") || strings.ContainsAny(t.host, "'`\"$\\;&<>|(){},") || strings.ContainsFunc(t.host, isSpaceOrControl) {
		return fmt.Errorf("hostname %q contains invalid characters: remove them", t.host)
	}
	if strings.HasPrefix(t.user, "-") || strings.ContainsAny(t.user, "'`\";&<>|(){}") || strings.HasSuffix(t.user, "\\") ||
		strings.Contains(t.user, " -") || strings.Contains(t.user, "\t-") || strings.ContainsFunc(t.user, isControl) {
		return fmt.Errorf("remote user name %q contains invalid characters: remove them", t.user)
	}
	return nil
}

func isControl(r rune) bool        { return r < ' ' || r == 0x7f }
func isSpaceOrControl(r rune) bool { return r <= ' ' || r == 0x7f }

// String is the target as it would be typed.
func (t target) String() string {
	s := t.host
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	if t.port != 0 {
		s = fmt.Sprintf("%s:%d", s, t.port)
	}
	if t.user != "" {
		s = t.user + "@" + s
	}
	return s
}
