package sshserver

import (
	"context"
	"log/slog"
)

// NewLog makes a log that writes by h what LogLevel level lets through. h must
// itself let everything through: a connection may have a level of its own.
func NewLog(h slog.Handler, level string) *slog.Logger {
	return slog.New(&levelled{h, levelOf(level)})
}

// levelNone is above everything that is logged.
const levelNone = slog.Level(100)

// levelOf maps sshd's levels, of which some mean the same here.
func levelOf(name string) slog.Level {
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

// levelled is a handler with a level that can be replaced.
type levelled struct {
	slog.Handler
	level slog.Level
}

func (l *levelled) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= l.level && l.Handler.Enabled(ctx, level)
}

func (l *levelled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &levelled{l.Handler.WithAttrs(attrs), l.level}
}

func (l *levelled) WithGroup(name string) slog.Handler {
	return &levelled{l.Handler.WithGroup(name), l.level}
}

// atLevel is the same log with another level, which a Match block may have for
// a user. A log that NewLog has not made stays as it is.
func atLevel(log *slog.Logger, level string) *slog.Logger {
	l, ok := log.Handler().(*levelled)
	if !ok || l.level == levelOf(level) {
		return log
	}
	return slog.New(&levelled{l.Handler, levelOf(level)})
}
