package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// ui is this package's voice: warnings and questions. It is safe for
// concurrent use; questions do not overlap.
type ui struct {
	mu     sync.Mutex
	out    io.Writer
	level  int // 0 quiet or errors only, 1 normal, 2 verbose, 3 and more debugging
	batch  bool
	prompt Prompter
	asking sync.Mutex
}

func newUI(o Options, c *Config) *ui {
	u := &ui{out: o.stderr(), prompt: o.Prompt, batch: c.BatchMode}
	if u.prompt == nil {
		u.prompt = Terminal{}
	}
	switch c.LogLevel {
	case "QUIET", "FATAL":
	case "ERROR":
		u.level = 1
	case "INFO":
		u.level = 2
	case "VERBOSE":
		u.level = 3
	default:
		u.level = 4
	}
	return u
}

// warn writes a warning, unless the user wants none.
func (u *ui) warn(format string, args ...any) { u.write(1, format, args...) }

// info writes what OpenSSH logs at its level INFO.
func (u *ui) info(format string, args ...any) { u.write(2, format, args...) }

// verbose writes what -v asks for; n is how often it must be given.
func (u *ui) verbose(n int, format string, args ...any) { u.write(3+n, format, args...) }

func (u *ui) write(level int, format string, args ...any) {
	if u.level < level {
		return
	}
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	u.mu.Lock()
	defer u.mu.Unlock()
	for line := range strings.Lines(text) {
		// A message that cannot be written has nowhere to be reported.
		_, _ = io.WriteString(u.out, printable(strings.TrimRight(line, "\r\n"))+"\n")
	}
}

// errBatch says that BatchMode forbids to ask.
var errBatch = errors.New("BatchMode forbids to ask")

func (u *ui) ask(ctx context.Context, q Question) (string, error) {
	if u.batch {
		return "", errBatch
	}
	u.asking.Lock()
	defer u.asking.Unlock()
	return u.prompt.Ask(ctx, q)
}
