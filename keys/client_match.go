package keys

import "strings"

// MatchPattern reports whether s matches an OpenSSH pattern, in which * is any
// run of characters, ? any one character, and everything else itself. See
// ssh_config(5), "PATTERNS". It takes time linear in len(s)*len(pattern).
func MatchPattern(s, pattern string) bool {
	si, pi := 0, 0
	star, mark := -1, 0
	for si < len(s) {
		switch {
		case pi < len(pattern) && pattern[pi] == '*':
			star, mark = pi, si
			pi++
		case pi < len(pattern) && (pattern[pi] == '?' || pattern[pi] == s[si]):
			si++
			pi++
		case star >= 0:
			mark++
			si, pi = mark, star+1
		default:
			return false
		}
	}
	for pi < len(pattern) && pattern[pi] == '*' {
		pi++
	}
	return pi == len(pattern)
}

// MatchList matches s against a comma-separated pattern-list: 1 for a match,
// -1 when a pattern negated by ! matches, 0 otherwise. With lower, the
// patterns (not s) are taken in lower case.
func MatchList(s, list string, lower bool) int {
	result := 0
	for list != "" {
		var p string
		p, list, _ = strings.Cut(list, ",")
		negated := strings.HasPrefix(p, "!")
		if negated {
			p = p[1:]
		}
		if len(p) >= 1023 { // OpenSSH's limit of one pattern
			return 0
		}
		if lower {
			p = strings.ToLower(p)
		}
		if !MatchPattern(s, p) {
			continue
		}
		if negated {
			return -1
		}
		result = 1
	}
	return result
}
