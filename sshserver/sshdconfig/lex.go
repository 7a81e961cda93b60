package sshdconfig

import (
	"fmt"
	"strings"
)

// Error is a mistake in a configuration, with its place.
type Error struct {
	File         string
	Line, Column int // from 1; the column counts bytes
	Text         string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// word is one word of a line and where it starts, from 1.
type word struct {
	text   string
	column int
}

// split splits a line into its keyword and arguments. A # at the start of a
// word begins a comment. Words may be quoted with " or '; a backslash escapes
// a quote, a backslash and, outside of quotes, a blank. Between the keyword and
// its arguments there may be one =. See sshd_config(5) and OpenSSH's argv_split.
func split(line string) ([]word, *Error) {
	line = strings.TrimRight(line, " \t\r\n\f")
	at := len(line) - len(strings.TrimLeft(line, " \t\r"))
	if at == len(line) || line[at] == '#' {
		return nil, nil
	}
	if i := strings.IndexByte(line, 0); i >= 0 {
		return nil, &Error{Column: i + 1, Text: "a NUL byte; is this a text file?"}
	}
	keyword, next, err := splitKeyword(line, at)
	if err != nil {
		return nil, err
	}
	words := []word{keyword}
	for {
		for next < len(line) && (line[next] == ' ' || line[next] == '\t') {
			next++
		}
		if next >= len(line) || line[next] == '#' {
			return words, nil
		}
		start := next
		text, end, ok := unquote(line, start)
		if !ok {
			return nil, &Error{Column: start + 1, Text: "a quote that is not closed"}
		}
		words = append(words, word{text, start + 1})
		next = end
	}
}

// splitKeyword reads the first word, which may be in double quotes, and what
// parts it from the arguments.
func splitKeyword(line string, at int) (word, int, *Error) {
	var text string
	end := at
	if line[at] == '"' {
		n := strings.IndexByte(line[at+1:], '"')
		if n < 0 {
			return word{}, 0, &Error{Column: at + 1, Text: "a quote that is not closed"}
		}
		text, end = line[at+1:at+1+n], at+n+2
	} else {
		for end < len(line) && !strings.ContainsRune(" \t\r\n=\"", rune(line[end])) {
			end++
		}
		text = line[at:end]
	}
	next := end
	for next < len(line) && strings.ContainsRune(" \t\r\n", rune(line[next])) {
		next++
	}
	if next < len(line) && line[next] == '=' {
		next++
	}
	return word{text, at + 1}, next, nil
}

// unquote reads one word from at. It reports where the word ends.
func unquote(line string, at int) (text string, end int, ok bool) {
	var out strings.Builder
	var quote byte
	for i := at; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && i+1 < len(line) && (strings.IndexByte(`'"\`, line[i+1]) >= 0 || quote == 0 && line[i+1] == ' '):
			i++
			out.WriteByte(line[i])
		case quote == 0 && (c == ' ' || c == '\t'):
			return out.String(), i, true
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), len(line), quote == 0
}
