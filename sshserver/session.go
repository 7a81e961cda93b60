package sshserver

import (
	"context"
	"io"
	"log/slog"

	"golang.org/x/crypto/ssh"
)

// Handler serves a subsystem. ServeSSH returns when the session is over; the
// session's context ends when the client closes the channel or the connection
// is lost, and the handler must then return within 5 s.
type Handler interface {
	ServeSSH(s *Session) Exit
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(s *Session) Exit

// ServeSSH calls f.
func (f HandlerFunc) ServeSSH(s *Session) Exit { return f(s) }

// Exit is how a session ended, as the client is told.
type Exit struct {
	Code int // the exit status, when Signal is empty
	// Signal is the signal's name without SIG.
	Signal string
	Core   bool
}

// Session is a channel for which a subsystem was asked. It reads and writes
// the channel's data; its methods may be called by several goroutines.
type Session struct {
	// Grant is what the login may do.
	Grant *Grant
	// End is where the connection comes from.
	End Endpoint
	// User is the name that logged in.
	User string
	// Subsystem is the name that was asked for.
	Subsystem string
	// Env has what the client sent and AcceptEnv lets in, NAME=VALUE.
	Env []string
	Log *slog.Logger

	ctx     context.Context
	channel *countedChannel
	stats   *Stats
	agent   bool // the client forwards its agent, and may
	// openChannel opens a channel to the client.
	openChannel func(name string, data []byte) (ssh.Channel, <-chan *ssh.Request, error)
}

// Bytes returns how much has come from the client and gone to it so far.
func (s *Session) Bytes() (received, sent uint64) {
	return s.channel.read.Load(), s.channel.wrote.Load()
}

// CountCommand counts a command that a session has run.
func (s *Session) CountCommand() { s.stats.Commands.Add(1) }

// Context ends when the client has closed the channel or is gone.
func (s *Session) Context() context.Context { return s.ctx }

// Read reads what the client sends. It returns io.EOF when the client has
// nothing more to send, which does not mean that it is gone.
func (s *Session) Read(p []byte) (int, error) { return s.channel.Read(p) }

// Write sends to the client. It blocks while the client does not take it.
func (s *Session) Write(p []byte) (int, error) { return s.channel.Write(p) }

// CloseWrite tells the client that nothing more will come.
func (s *Session) CloseWrite() error { return s.channel.CloseWrite() }

// Stderr is the channel's second stream, for messages.
func (s *Session) Stderr() io.Writer { return s.channel.Stderr() }
