package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
)

// newLog makes the log: one line per event on standard error or in a file.
// Under systemd standard error is the journal, which has its own times.
func newLog(o *options, cfg *sshdconfig.Config, stderr io.Writer) (*slog.Logger, func(), error) {
	out, closeLog := stderr, func() {}
	if o.logFile != "" {
		f, err := os.OpenFile(o.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("log: %w", err)
		}
		out, closeLog = f, func() { f.Close() }
	}
	opts := &slog.HandlerOptions{Level: level(cfg.Global.LogLevel)}
	if os.Getenv("JOURNAL_STREAM") != "" && o.logFile == "" {
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
	return slog.New(h).With("pid", os.Getpid()), closeLog, nil
}

// levelNone is above everything that is logged.
const levelNone = slog.Level(100)

func level(name string) slog.Level {
	switch name {
	case "QUIET":
		return levelNone
	case "FATAL", "ERROR":
		return slog.LevelError
	case "INFO":
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
