package keys

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Options are the options before a key in authorized_keys or before a name in
// a principals file. See sshd(8), "AUTHORIZED_KEYS FILE FORMAT".
type Options struct {
	CertAuthority bool
	Restricted    bool // restrict was there

	// What the key may have. All are true unless taken away.
	PTY, PortForwarding, AgentForwarding, X11Forwarding, UserRC bool

	NoTouchRequired bool // security keys: signing needs no touch
	VerifyRequired  bool // security keys: signing needs a PIN

	HasCommand bool
	Command    string

	HasPrincipals bool
	Principals    string // a list with commas

	HasFrom bool
	From    string // a pattern list

	// SourceAddress is a certificate's own list of networks; empty if it has none.
	SourceAddress string

	Environment []string // NAME=VALUE, the first of each name
	// Expiry is zero when the key does not expire.
	Expiry                   time.Time
	PermitOpen, PermitListen []string
	Tunnel                   string
}

func permissiveOptions() *Options {
	return &Options{PTY: true, PortForwarding: true, AgentForwarding: true, X11Forwarding: true, UserRC: true}
}

// maxPermits is SSH_AUTHOPT_PERMIT_MAX: more permitopen= than this is an error.
const maxPermits = 4096

// ParseOptions reads options up to the first blank outside of quotes, as
// OpenSSH's sshauthopt_parse. Names are matched without regard to case; an
// unknown one is an error. Nothing is nil on success.
func ParseOptions(s string) (*Options, error) {
	o := permissiveOptions()
	p := &optionParser{rest: s}
	for p.more() {
		if err := p.one(o); err != nil {
			return nil, err
		}
		if !p.more() {
			break
		}
		if p.rest[0] != ',' {
			return nil, errors.New("unknown key option")
		}
		p.rest = p.rest[1:]
		if p.rest == "" {
			return nil, errors.New("unexpected end-of-options")
		}
	}
	return o, nil
}

type optionParser struct{ rest string }

func (p *optionParser) more() bool {
	return p.rest != "" && p.rest[0] != ' ' && p.rest[0] != '\t'
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) && isASCII(s[:len(prefix)])
}

// isASCII keeps Unicode's case folding (K for the Kelvin sign) out of
// comparisons that C does byte by byte.
func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// flag consumes name, or no-name. set says which; found whether either was there.
func (p *optionParser) flag(name string) (set, found bool) {
	rest, set := p.rest, true
	if hasPrefixFold(rest, "no-") {
		rest, set = rest[3:], false
	}
	if !hasPrefixFold(rest, name) {
		return false, false
	}
	p.rest = rest[len(name):]
	return set, true
}

// one consumes one option. What it does not know it leaves for the caller,
// who then finds neither a comma nor the end.
func (p *optionParser) one(o *Options) error {
	switch {
	case hasPrefixFold(p.rest, "restrict"):
		p.rest = p.rest[len("restrict"):]
		o.Restricted = true
		o.PTY, o.PortForwarding, o.AgentForwarding, o.X11Forwarding, o.UserRC = false, false, false, false, false
		return nil
	case hasPrefixFold(p.rest, "cert-authority"):
		p.rest = p.rest[len("cert-authority"):]
		o.CertAuthority = true
		return nil
	}
	for _, f := range []struct {
		name string
		to   *bool
	}{
		{"port-forwarding", &o.PortForwarding}, {"agent-forwarding", &o.AgentForwarding},
		{"x11-forwarding", &o.X11Forwarding}, {"verify-required", &o.VerifyRequired},
		{"pty", &o.PTY}, {"user-rc", &o.UserRC},
	} {
		if set, found := p.flag(f.name); found {
			*f.to = set
			return nil
		}
	}
	if set, found := p.flag("touch-required"); found {
		o.NoTouchRequired = !set
		return nil
	}
	return p.valued(o)
}

// valued consumes one NAME="VALUE".
func (p *optionParser) valued(o *Options) error {
	for _, v := range []struct {
		name string
		set  func(*Options, string) error
	}{
		{"command", func(o *Options, s string) error { return once(&o.HasCommand, &o.Command, s, "command") }},
		{"principals", func(o *Options, s string) error { return once(&o.HasPrincipals, &o.Principals, s, "principals") }},
		{"from", func(o *Options, s string) error { return once(&o.HasFrom, &o.From, s, "from") }},
		{"expiry-time", setExpiry},
		{"environment", setEnvironment},
		{"permitopen", func(o *Options, s string) error { return addPermit(&o.PermitOpen, s, false) }},
		{"permitlisten", func(o *Options, s string) error { return addPermit(&o.PermitListen, s, true) }},
		{"tunnel", setTunnel},
	} {
		if !hasPrefixFold(p.rest, v.name) || !strings.HasPrefix(p.rest[len(v.name):], "=") {
			continue
		}
		p.rest = p.rest[len(v.name)+1:]
		value, err := p.dequote()
		if err != nil {
			return err
		}
		return v.set(o, value)
	}
	return nil
}

// dequote consumes a string in double quotes, in which \" stands for a quote
// and a backslash before anything else for itself.
func (p *optionParser) dequote() (string, error) {
	if !strings.HasPrefix(p.rest, `"`) {
		return "", errors.New("missing start quote")
	}
	var out strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return out.String(), nil
		case c == '\\' && i+1 < len(p.rest) && p.rest[i+1] == '"':
			i++
			out.WriteByte('"')
		default:
			out.WriteByte(c)
		}
	}
	return "", errors.New("missing end quote")
}

func once(has *bool, to *string, value, name string) error {
	if *has {
		return fmt.Errorf("multiple %q clauses", name)
	}
	*has, *to = true, value
	return nil
}

func setExpiry(o *Options, s string) error {
	t, err := parseAbsoluteTime(s)
	if err != nil || t.Unix() == 0 {
		return errors.New("invalid expires time")
	}
	if o.Expiry.IsZero() || t.Before(o.Expiry) {
		o.Expiry = t
	}
	return nil
}

// parseAbsoluteTime reads YYYYMMDD[HHMM[SS]][Z|UTC], without a zone in local
// time. Days beyond a month's end roll over, as mktime has it.
func parseAbsoluteTime(s string) (time.Time, error) {
	zone := time.Local
	switch n := len(s); {
	case n > 1 && strings.EqualFold(s[n-1:], "Z"):
		s, zone = s[:n-1], time.UTC
	case n > 3 && strings.EqualFold(s[n-3:], "UTC"):
		s, zone = s[:n-3], time.UTC
	}
	bad := errors.New("not YYYYMMDD[HHMM[SS]]")
	if len(s) != 8 && len(s) != 12 && len(s) != 14 {
		return time.Time{}, bad
	}
	var f [6]int
	limits := [6][2]int{{0, 9999}, {1, 12}, {1, 31}, {0, 23}, {0, 59}, {0, 61}}
	for i, at := 0, 0; at < len(s); i++ {
		width := 2
		if i == 0 {
			width = 4
		}
		n, err := strconv.ParseUint(s[at:at+width], 10, 16)
		if err != nil || int(n) < limits[i][0] || int(n) > limits[i][1] {
			return time.Time{}, bad
		}
		f[i] = int(n)
		at += width
	}
	t := time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], 0, zone)
	if t.Unix() < 0 {
		return time.Time{}, bad
	}
	return t, nil
}

func setEnvironment(o *Options, s string) error {
	name, _, ok := strings.Cut(s, "=")
	if !ok || !validEnvName(name) {
		return errors.New("invalid environment string")
	}
	for _, have := range o.Environment {
		if strings.HasPrefix(have, name+"=") {
			return nil // the first one counts
		}
	}
	o.Environment = append(o.Environment, s)
	return nil
}

func validEnvName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && !('a' <= c && c <= 'z') && !('A' <= c && c <= 'Z') && !('0' <= c && c <= '9') {
			return false
		}
	}
	return name != ""
}

// addPermit checks HOST:PORT; for permitlisten the host may be left out.
func addPermit(list *[]string, s string, barePort bool) error {
	if len(*list) > maxPermits {
		return errors.New("too many permission directives")
	}
	if barePort && !strings.Contains(s, ":") {
		s = "*:" + s
	}
	end := strings.IndexAny(s, ":/")
	if strings.HasPrefix(s, "[") {
		end = strings.IndexByte(s, ']') + 1
		if end == 0 || end < len(s) && s[end] != ':' && s[end] != '/' {
			return errors.New("invalid permission hostname")
		}
	}
	if end > 1024 {
		return errors.New("invalid permission hostname")
	}
	if end < 0 || end >= len(s) {
		return errors.New("invalid permission port")
	}
	if port := s[end+1:]; port != "*" && !validPort(port) {
		return errors.New("invalid permission port")
	}
	*list = append(*list, s)
	return nil
}

func validPort(s string) bool {
	if n, ok := cNumber(s); ok {
		return n > 0 && n <= 65535
	}
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	n, err := net.LookupPort("tcp", s)
	return err == nil && n > 0
}

// cNumber reads a number as strtonum(3): blanks and a sign may precede it.
func cNumber(s string) (int64, bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && !strings.Contains(s, "_")
}

func setTunnel(o *Options, s string) error {
	if n, ok := cNumber(s); !strings.EqualFold(s, "any") && (!ok || n < 0 || n > 1<<31-3) {
		return errors.New("invalid tun device")
	}
	o.Tunnel = s
	return nil
}
