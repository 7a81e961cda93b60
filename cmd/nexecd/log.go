package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
)

// logOutput is where the log goes: standard error or a file. It may be written
// to by several goroutines.
type logOutput struct {
	path string // empty: stderr
	mu   sync.Mutex
	w    io.Writer
	file *os.File // what w is, unless it is standard error
}

func openLog(path string, stderr io.Writer) (*logOutput, error) {
	o := &logOutput{path: path, w: stderr}
	return o, o.reopen()
}

// reopen opens the file anew: the old one may have been renamed away.
func (o *logOutput) reopen() error {
	if o.path == "" {
		return nil
	}
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeLocked()
	o.file, o.w = f, f
	return nil
}

func (o *logOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}

func (o *logOutput) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeLocked()
}

func (o *logOutput) closeLocked() {
	if o.file != nil {
		_ = o.file.Close()
	}
}

// newLog makes the log as it is configured: one line per event. Under systemd
// standard error is the journal, which has its own times.
func newLog(out *logOutput, cfg *sshdconfig.Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelDebug}
	if os.Getenv("JOURNAL_STREAM") != "" && out.path == "" {
		opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		}
	}
	var h slog.Handler = slog.NewTextHandler(out, opts)
	if cfg.Global.LogFormat == "json" {
		h = slog.NewJSONHandler(out, opts)
	}
	return sshserver.NewLog(h, cfg.Global.LogLevel).With("pid", os.Getpid())
}
