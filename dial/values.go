package dial

import (
	"strconv"
	"strings"
)

// Bounds of multi-valued keywords, as OpenSSH's SSH_MAX_*.
const (
	maxHostFiles     = 32
	maxIdentities    = 100
	maxCanonDomains  = 32
	maxSendEnv       = 1 << 12
	maxInt           = 1<<31 - 1
	rekeyMinimum     = 16
	identityFileName = "identityfile"
)

// readKeyword reads the arguments of a line and stores them when the block
// applies and the keyword is not yet set.
func (r *resolver) readKeyword(l *line) error {
	switch l.kw.kind {
	case kindSpecial:
		return r.readSpecial(l)
	case kindCommand:
		return r.readCommand(l)
	case kindWords:
		return r.readWords(l)
	case kindAppend:
		return r.readAppend(l)
	}
	arg, err := l.next()
	if err != nil {
		return err
	}
	val, cerr := readValue(l, arg)
	if cerr != nil {
		return cerr
	}
	if l.active {
		r.set(l.key, val)
	}
	return nil
}

// readValue checks one argument of a plain kind and makes it canonical.
func readValue(l *line, arg string) (string, error) {
	switch l.kw.kind {
	case kindFlag:
		if v, ok := choose(arg, []string{"yes", "no", "true=yes", "false=no"}); ok {
			return v, nil
		}
		return "", l.errorf("%s is yes or no, not %q", l.kw.name, arg)
	case kindChoice:
		if v, ok := choose(arg, l.kw.choices); ok {
			return v, nil
		}
		err := l.errorf("%s cannot be %q: use one of %s", l.kw.name, arg, strings.Join(choiceNames(l.kw.choices), ", "))
		err.beyond = true
		return "", err
	case kindTime:
		if arg == "none" {
			return arg, nil
		}
		secs, err := parseTime(arg)
		if err != nil {
			return "", l.errorf("%s: invalid time value %q: write seconds, or like 1h30m", l.kw.name, arg)
		}
		return strconv.Itoa(secs), nil
	case kindInt:
		n, err := strconv.ParseInt(arg, 10, 32)
		if err != nil || n < 0 {
			return "", l.errorf("%s: %q is not a number from 0 to %d", l.kw.name, arg, maxInt)
		}
		return strconv.FormatInt(n, 10), nil
	case kindAlgs:
		if bad := unknownAlgorithm(l.key, arg); bad != "" {
			err := l.errorf("%s: unknown algorithm %q: see `ssh -Q %s` for the names", l.kw.name, bad, l.kw.name)
			err.beyond = true
			return "", err
		}
	}
	return arg, nil
}

// choose finds arg, whatever its case, among choices and gives the canonical
// name.
func choose(arg string, choices []string) (string, bool) {
	for _, c := range choices {
		name, canonical, ok := strings.Cut(c, "=")
		if !ok {
			canonical = name
		}
		if strings.EqualFold(name, arg) {
			return canonical, true
		}
	}
	return "", false
}

func choiceNames(choices []string) []string {
	names := make([]string, 0, len(choices))
	for _, c := range choices {
		name, _, _ := strings.Cut(c, "=")
		names = append(names, name)
	}
	return names
}

// readCommand takes the rest of the line as it stands, quotes, comments and
// all.
func (r *resolver) readCommand(l *line) error {
	l.used = len(l.args)
	command := strings.TrimLeft(l.rest, configSpace+"=")
	if l.key == "proxycommand" && r.values["proxyjump"] != nil {
		return nil // the first of the two wins
	}
	if l.active {
		r.set(l.key, command)
	}
	return nil
}

func (r *resolver) readWords(l *line) error {
	limit := maxHostFiles
	var words []string
	for l.used < len(l.args) {
		word, err := l.next()
		if err != nil {
			return err
		}
		if strings.EqualFold(word, "none") && len(l.args) > 1 {
			return l.errorf("%s: none must stand alone", l.kw.name)
		}
		words = append(words, word)
	}
	if len(words) == 0 { // only a comment: OpenSSH takes it for nothing said
		return nil
	}
	if len(words) > limit {
		return l.errorf("%s has more than %d entries: remove some", l.kw.name, limit)
	}
	if l.key == "canonicaldomains" {
		for _, d := range words {
			if !validDomain(d) {
				return l.errorf("CanonicalDomains: %q is not a domain name", d)
			}
		}
	}
	if l.active {
		r.set(l.key, words...)
	}
	return nil
}

// validDomain reports whether a name can be looked up as a host name.
func validDomain(name string) bool {
	if name == "" || !isAlnum(name[0]) {
		return false
	}
	last := byte(0)
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !isAlnum(c) && c != '.' && c != '-' && c != '_' || (c == '.' && last == '.') {
			return false
		}
		last = c
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// readAppend reads IdentityFile and CertificateFile: each line adds one file,
// unless it is on the list.
func (r *resolver) readAppend(l *line) error {
	arg, err := l.next()
	if err != nil || !l.active {
		return err
	}
	for _, have := range r.values[l.key] {
		if have == arg {
			return nil
		}
	}
	if len(r.values[l.key]) >= maxIdentities {
		return l.errorf("more than %d %s lines apply: remove some", maxIdentities, l.kw.name)
	}
	r.values[l.key] = append(r.values[l.key], arg)
	return nil
}
