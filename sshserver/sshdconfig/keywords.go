package sshdconfig

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Use says what nexecd makes of a keyword.
type Use int

const (
	// Honoured as sshd does, or as its row in doc/sshd_config.md says.
	Honoured Use = iota
	// Refused: a configuration that asks for it does not load.
	Refused
	// Meaningless: it concerns what nexecd never offers, so nothing it could
	// permit is permitted, and nothing it could forbid is possible.
	Meaningless
)

func (u Use) String() string { return [...]string{"honoured", "refused", "without meaning"}[u] }

// keyword is a row of the table.
type keyword struct {
	Name  string
	Use   Use
	Why   string // for Refused and Meaningless, and remarks
	Match bool   // allowed in Match blocks
	Many  bool   // further lines add to the first
	Max   int    // most arguments; 0: any number
	Own   bool   // not in sshd_config(5)
	raw   bool   // its one argument is the rest of the line as it stands
	// composed: show returns whole lines, of words quoted already.
	composed bool
	// set checks args and stores them. An error comes with the argument's number.
	set func(s *Settings, args []string) (int, error)
	// clear removes what a further scope's first line replaces.
	clear func(s *Settings)
	// warn says what of a directive has no effect; empty: nothing, nil: never.
	warn func(args []string) string
	// show is for -T; nil leaves the keyword out.
	show func(s *Settings) []string
}

// Keyword is what the table says of one keyword.
type Keyword struct {
	Name  string
	Use   Use
	Why   string
	Match bool
	Own   bool
}

// Keywords returns the whole table in the order of the alphabet.
func Keywords() []Keyword {
	var list []Keyword
	for _, k := range table() {
		list = append(list, Keyword{k.Name, k.Use, k.Why, k.Match, k.Own})
	}
	list = append(list, Keyword{Name: "Include", Match: true}, Keyword{Name: "Match"})
	return sorted(list)
}

func flag(to func(*Settings) *bool) (func(*Settings, []string) (int, error), func(*Settings) []string) {
	set := func(s *Settings, args []string) (int, error) {
		v, err := yesNo(args[0])
		*to(s) = v
		return 0, err
	}
	return set, func(s *Settings) []string { return []string{showBool(*to(s))} }
}

func yesNo(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "yes", "true":
		return true, nil
	case "no", "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither yes nor no", s)
}

func showBool(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func number(low, high int, to func(*Settings) *int) (func(*Settings, []string) (int, error), func(*Settings) []string) {
	set := func(s *Settings, args []string) (int, error) {
		n, err := strconv.Atoi(args[0])
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%q is not a number from %d to %d", args[0], low, high)
		}
		*to(s) = n
		return 0, nil
	}
	return set, func(s *Settings) []string { return []string{strconv.Itoa(*to(s))} }
}

// maxInterval is some 68 years: what fits sshd's int.
const maxInterval = 1<<31 - 1

func interval(to func(*Settings) *time.Duration) (func(*Settings, []string) (int, error), func(*Settings) []string) {
	set := func(s *Settings, args []string) (int, error) {
		if strings.EqualFold(args[0], "none") {
			*to(s) = 0
			return 0, nil
		}
		d, err := parseInterval(args[0])
		*to(s) = d
		return 0, err
	}
	return set, func(s *Settings) []string { return []string{strconv.Itoa(int(*to(s) / time.Second))} }
}

// parseInterval reads a time such as 90, 10m or 1h30m. See sshd_config(5),
// "TIME FORMATS".
func parseInterval(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a time such as 90, 10m or 1h30m", s)
	total, rest := 0, s
	for rest != "" {
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		n, err := strconv.Atoi(rest[:i])
		if err != nil {
			return 0, bad
		}
		unit := 1
		if i < len(rest) {
			switch rest[i] {
			case 's', 'S':
			case 'm', 'M':
				unit = 60
			case 'h', 'H':
				unit = 3600
			case 'd', 'D':
				unit = 24 * 3600
			case 'w', 'W':
				unit = 7 * 24 * 3600
			default:
				return 0, bad
			}
			i++
		}
		if n > maxInterval/unit || total > maxInterval-n*unit {
			return 0, bad
		}
		total += n * unit
		rest = rest[i:]
	}
	if s == "" {
		return 0, bad
	}
	return time.Duration(total) * time.Second, nil
}

// text takes one argument; none stands for the empty one when noneEmpty.
func text(noneEmpty bool, to func(*Settings) *string) (func(*Settings, []string) (int, error), func(*Settings) []string) {
	set := func(s *Settings, args []string) (int, error) {
		if args[0] == "" {
			return 0, errors.New("empty argument")
		}
		*to(s) = args[0]
		if noneEmpty && strings.EqualFold(args[0], "none") {
			*to(s) = ""
		}
		return 0, nil
	}
	show := func(s *Settings) []string {
		if *to(s) == "" {
			return []string{"none"}
		}
		return []string{*to(s)}
	}
	return set, show
}

func oneOf(to func(*Settings) *string, values ...string) (func(*Settings, []string) (int, error), func(*Settings) []string) {
	set := func(s *Settings, args []string) (int, error) {
		for _, v := range values {
			if strings.EqualFold(v, args[0]) {
				*to(s) = v
				return 0, nil
			}
		}
		return 0, fmt.Errorf("%q is not one of %s", args[0], strings.Join(values, ", "))
	}
	return set, func(s *Settings) []string { return []string{*to(s)} }
}

// words takes any number of arguments; each further line adds to them. clear
// is for a scope that replaces the list.
func list(to func(*Settings) *[]string) (set func(*Settings, []string) (int, error), clear func(*Settings), show func(*Settings) []string) {
	set = func(s *Settings, args []string) (int, error) {
		for i, a := range args {
			if a == "" {
				return i, errors.New("empty argument")
			}
		}
		have := *to(s)
		*to(s) = append(have[:len(have):len(have)], args...)
		return 0, nil
	}
	return set, func(s *Settings) { *to(s) = nil }, func(s *Settings) []string { return *to(s) }
}

// only accepts one value of a keyword that is otherwise refused.
func only(why string, allowed ...string) func(*Settings, []string) (int, error) {
	return func(_ *Settings, args []string) (int, error) {
		joined := strings.Join(args, " ")
		for _, a := range allowed {
			if strings.EqualFold(a, joined) {
				return 0, nil
			}
		}
		return 0, fmt.Errorf("%s (only %q is accepted)", why, strings.Join(allowed, `" or "`))
	}
}
