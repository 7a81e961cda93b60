package dial

import (
	"errors"
	"strings"
)

const configSpace = " \t\r\n"

// errQuotes says that a quote was opened and not closed.
var errQuotes = errors.New("invalid quotes")

// nextDelim takes one word off s as the keyword of a line and the criteria of
// Match are read: words end at white space or one '='; double quotes group,
// and may begin within a word. The word is ok when there was one.
func nextDelim(s string) (word, rest string, ok bool) {
	if s == "" {
		return "", "", false
	}
	i := strings.IndexAny(s, configSpace+`"=`)
	if i < 0 {
		return s, "", true
	}
	if s[i] == '"' {
		end := strings.IndexByte(s[i+1:], '"')
		if end < 0 {
			return "", "", false
		}
		word = s[:i] + s[i+1:i+1+end]
		return word, strings.TrimLeft(s[i+end+2:], configSpace), true
	}
	word, rest = s[:i], strings.TrimLeft(s[i+1:], configSpace)
	if s[i] != '=' && strings.HasPrefix(rest, "=") {
		rest = strings.TrimLeft(rest[1:], configSpace)
	}
	return word, rest, true
}

// splitKeyword splits a line into its keyword, in lower case, and what stands
// after it. A blank or comment line has no keyword.
func splitKeyword(line string) (keyword, rest string) {
	line = strings.TrimRight(line, configSpace+"\f")
	keyword, rest, _ = nextDelim(line)
	if keyword == "" {
		keyword, rest, _ = nextDelim(rest)
	}
	if strings.HasPrefix(keyword, "#") {
		return "", ""
	}
	return strings.ToLower(keyword), strings.TrimLeft(rest, configSpace)
}

// splitArgs splits the arguments of a keyword: words at blanks, single and
// double quotes, backslash before a quote, a backslash or, outside quotes, a
// blank, and a comment where a word could begin.
func splitArgs(s string) ([]string, error) {
	var args []string
	for i := 0; i < len(s); {
		switch {
		case s[i] == ' ' || s[i] == '\t':
			i++
		case s[i] == '#':
			return args, nil
		default:
			word, n, err := splitWord(s[i:])
			if err != nil {
				return nil, err
			}
			args = append(args, word)
			i += n
		}
	}
	return args, nil
}

func splitWord(s string) (word string, n int, err error) {
	var b strings.Builder
	quote := byte(0)
	for ; n < len(s); n++ {
		c := s[n]
		switch {
		case c == '\\' && n+1 < len(s) && escapable(s[n+1], quote):
			n++
			b.WriteByte(s[n])
		case quote == 0 && (c == ' ' || c == '\t'):
			return b.String(), n, nil
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", 0, errQuotes
	}
	return b.String(), n, nil
}

func escapable(c, quote byte) bool {
	return c == '\'' || c == '"' || c == '\\' || (quote == 0 && c == ' ')
}
