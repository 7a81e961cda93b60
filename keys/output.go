package keys

import (
	"bytes"
	"errors"
)

// Output takes what a command that names keys prints (AuthorizedKeysCommand,
// KnownHostsCommand), up to Limit bytes. More fails the write, which ends the
// command. For the standard output of one exec.Cmd.
type Output struct {
	Limit int
	// Over: the command wanted to print more.
	Over bool

	text bytes.Buffer // not embedded: its ReadFrom knows no bound
}

var errOutputOver = errors.New("the output is too long")

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	if o.text.Len()+len(p) > o.Limit {
		o.Over = true
		return 0, errOutputOver
	}
	return o.text.Write(p)
}

// String returns what was printed.
func (o *Output) String() string { return o.text.String() }
