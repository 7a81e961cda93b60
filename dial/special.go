package dial

import (
	"strconv"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
)

// readSpecial reads the keywords that have a form of their own.
func (r *resolver) readSpecial(l *line) error {
	switch l.key {
	case "host":
		return r.hostLine(l)
	case "match":
		return r.matchLine(l)
	case "include":
		return r.include(l)
	case "port":
		return r.readPort(l)
	case "proxyjump":
		return r.readJump(l)
	case "rekeylimit":
		return r.readRekeyLimit(l)
	case "sendenv":
		return r.readSendEnv(l)
	case "setenv":
		return r.readSetEnv(l)
	case "addkeystoagent":
		return r.readAddKeys(l)
	case "identityagent", "forwardagent":
		return r.readAgent(l)
	case "controlpersist":
		return r.readPersist(l)
	case "canonicalizepermittedcnames":
		return r.readCNAMEs(l)
	case "ipqos":
		return r.readIPQoS(l)
	}
	// Without meaning here: there must be an argument, and that is all.
	if _, err := l.next(); err != nil {
		return err
	}
	l.used = len(l.args)
	if l.active {
		r.set(l.key, l.args...)
	}
	return nil
}

func (r *resolver) readPort(l *line) error {
	arg, err := l.next()
	if err != nil {
		return err
	}
	port, ok := parsePort(arg)
	if !ok {
		return l.errorf("bad port %q: use a number from 1 to 65535", arg)
	}
	if l.active {
		r.set(l.key, strconv.Itoa(port))
	}
	return nil
}

func parsePort(s string) (int, bool) {
	port, err := strconv.ParseUint(s, 10, 16)
	return int(port), err == nil && port > 0
}

// readJump stores the hops as one string, comments cut off.
func (r *resolver) readJump(l *line) error {
	l.used = len(l.args)
	val, _, comment := strings.Cut(strings.TrimLeft(l.rest, configSpace+"="), "#")
	val = strings.TrimRight(val, configSpace)
	if strings.EqualFold(val, "none") {
		if val = "none"; comment {
			return l.at(0).errorf("ProxyJump none with a comment is a host called none to OpenSSH: give the comment a line of its own")
		}
	} else if _, err := parseJump(val); err != nil {
		return l.at(0).errorf("invalid ProxyJump %q: %v", val, err)
	}
	if l.active && r.values["proxycommand"] == nil {
		r.set(l.key, val)
	}
	return nil
}

func (r *resolver) readRekeyLimit(l *line) error {
	arg, err := l.next()
	if err != nil {
		return err
	}
	var size int64
	if arg != "default" {
		var ok bool
		if size, ok = parseScaled(arg); !ok || (size != 0 && size < rekeyMinimum) {
			return l.errorf("RekeyLimit: bad amount %q: write like 1G, at least %d", arg, rekeyMinimum)
		}
	}
	interval := "0"
	if l.used < len(l.args) {
		arg, err := l.next()
		if err != nil {
			return err
		}
		if arg != "none" {
			secs, err := parseTime(arg)
			if err != nil {
				return l.errorf("RekeyLimit: invalid time %q: write seconds, or like 1h30m", arg)
			}
			interval = strconv.Itoa(secs)
		}
	}
	if l.active {
		r.set(l.key, strconv.FormatInt(size, 10), interval)
	}
	return nil
}

// parseScaled reads a number with one of the suffixes K, M, G, T.
func parseScaled(s string) (int64, bool) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("BKMGTPE", s[len(s)-1]&^0x20); i >= 0 && s[len(s)-1] > '9' {
			shift, s = 10*i, s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)>>shift {
		return 0, false
	}
	return n << shift, true
}

// readSendEnv adds names; a name with - takes those off that match it.
func (r *resolver) readSendEnv(l *line) error {
	for l.used < len(l.args) {
		name, err := l.next()
		if err != nil || strings.Contains(name, "=") {
			return l.errorf("SendEnv: invalid environment name: use names or patterns, without values")
		}
		if !l.active {
			continue
		}
		if strings.HasPrefix(name, "-") {
			r.values[l.key] = removeMatching(r.values[l.key], name[1:])
		} else if len(r.values[l.key]) < maxSendEnv {
			r.values[l.key] = append(r.values[l.key], name)
		} else {
			return l.errorf("SendEnv has more than %d names: use patterns", maxSendEnv)
		}
	}
	return nil
}

func removeMatching(names []string, pattern string) []string {
	var kept []string
	for _, name := range names {
		if !keys.MatchPattern(name, pattern) {
			kept = append(kept, name)
		}
	}
	return kept
}

// readSetEnv takes the first line that applies, and of a name its first
// value.
func (r *resolver) readSetEnv(l *line) error {
	var vars []string
	seen := map[string]bool{}
	for l.used < len(l.args) {
		arg, err := l.next()
		name, _, ok := strings.Cut(arg, "=")
		if err != nil || !ok {
			return l.errorf("SetEnv: %q is not NAME=VALUE", arg)
		}
		if !seen[name] {
			seen[name] = true
			vars = append(vars, arg)
		}
	}
	if l.active && len(vars) > 0 {
		r.set(l.key, vars...)
	}
	return nil
}

// readAddKeys stores yes, no, ask or confirm, and a lifetime in seconds.
func (r *resolver) readAddKeys(l *line) error {
	arg, err := l.next()
	if err != nil {
		return err
	}
	val, isWord := choose(arg, []string{"yes", "no", "ask", "confirm", "true=yes", "false=no"})
	life := arg
	if isWord {
		life = "0"
	} else {
		val = "yes"
	}
	if l.used < len(l.args) {
		if life, err = l.next(); err != nil || val != "confirm" {
			return l.errorf("AddKeysToAgent: only confirm takes a time after it")
		}
	}
	secs, err := parseTime(life)
	if err != nil {
		return l.errorf("AddKeysToAgent is yes, no, ask, confirm or a time, not %q", life)
	}
	if l.active {
		r.set(l.key, val, strconv.Itoa(secs))
	}
	return nil
}

// readAgent reads IdentityAgent and ForwardAgent: a path, or $NAME for the
// path in an environment variable.
func (r *resolver) readAgent(l *line) error {
	arg, err := l.next()
	if err != nil {
		return err
	}
	if v, ok := choose(arg, []string{"yes", "no", "true=yes", "false=no"}); ok && l.key == "forwardagent" {
		arg = v
	} else if _, err := expandPercent(arg, nil, true); err != nil {
		return l.errorf("%s: %v", l.kw.name, err)
	}
	if strings.HasPrefix(arg, "$") && !strings.HasPrefix(arg, "${") && !validEnvName(arg[1:]) {
		return l.errorf("%s: %q is not the name of an environment variable", l.kw.name, arg)
	}
	if l.active {
		r.set(l.key, arg)
	}
	return nil
}

func validEnvName(name string) bool {
	for i := 0; i < len(name); i++ {
		if !isAlnum(name[i]) && name[i] != '_' {
			return false
		}
	}
	return name != ""
}

// readPersist stores yes or no, and a time in seconds.
func (r *resolver) readPersist(l *line) error {
	arg, err := l.next()
	if err != nil {
		return err
	}
	val, life := "yes", 0
	switch arg {
	case "yes", "true":
	case "no", "false":
		val = "no"
	default:
		if life, err = parseTime(arg); err != nil {
			return l.errorf("ControlPersist is yes, no or a time, not %q", arg)
		}
	}
	if l.active {
		r.set(l.key, val, strconv.Itoa(life))
	}
	return nil
}

// readCNAMEs reads pairs of pattern-lists "from:to", or * for *:*, or none.
func (r *resolver) readCNAMEs(l *line) error {
	var rules []string
	for l.used < len(l.args) {
		arg, err := l.next()
		if err != nil {
			return err
		}
		arg = strings.ToLower(arg)
		_, to, ok := strings.Cut(arg, ":")
		switch {
		case arg == "none" && len(l.args) > 1:
			return l.errorf("CanonicalizePermittedCNAMEs: none must stand alone")
		case arg != "none" && arg != "*" && (!ok || to == ""):
			return l.errorf("CanonicalizePermittedCNAMEs: %q is not FROM:TO", arg)
		}
		rules = append(rules, arg)
	}
	if len(rules) > maxCanonDomains {
		return l.errorf("CanonicalizePermittedCNAMEs has more than %d rules: remove some", maxCanonDomains)
	}
	if l.active && len(rules) > 0 {
		r.set(l.key, rules...)
	}
	return nil
}

// ipQoS are the names of IPQoS with their DSCP byte. See RFC 8325, RFC 2474.
func ipQoS(name string) (int, bool) {
	if n, err := strconv.ParseUint(name, 0, 8); err == nil {
		return int(n), true
	}
	name = strings.ToLower(name)
	if class, ok := strings.CutPrefix(name, "cs"); ok && len(class) == 1 && class[0] >= '0' && class[0] <= '7' {
		return int(class[0]-'0') << 5, true
	}
	if len(name) == 4 && name[:2] == "af" && name[2] >= '1' && name[2] <= '4' && name[3] >= '1' && name[3] <= '3' {
		return int(name[2]-'0')<<5 | int(name[3]-'0')<<3, true
	}
	switch name {
	case "ef":
		return 0xb8, true
	case "le":
		return 0x04, true
	case "va":
		return 0xb0, true
	case "lowdelay":
		return 0x10, true
	case "throughput":
		return 0x08, true
	case "reliability":
		return 0x04, true
	case "none":
		return -1, true
	}
	return 0, false
}

func (r *resolver) readIPQoS(l *line) error {
	arg, err := l.next()
	if err != nil {
		return err
	}
	vals := []string{arg, arg}
	if l.used < len(l.args) {
		if vals[1], err = l.next(); err != nil {
			return err
		}
	}
	for i, v := range vals {
		n, ok := ipQoS(v)
		if !ok {
			return l.errorf("IPQoS: unknown class %q: use a name like cs1, af21, ef, lowdelay, none or a number", v)
		}
		vals[i] = strconv.Itoa(n)
	}
	if l.active {
		r.set(l.key, vals...)
	}
	return nil
}
