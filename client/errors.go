package client

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// The errors of a session are types, not texts: cmd/nexec says them to the
// user. Their Error methods are for logs and tests.

// ExecError: the command could not be started.
type ExecError struct {
	Stage fsyscall.ExecStage
	Errno unix.Errno
	Name  string // argv[0]; empty: the login shell
	Cwd   string
}

func (e *ExecError) Error() string {
	return fmt.Sprintf("start %q in %q: stage %d: %v", e.Name, e.Cwd, e.Stage, e.Errno)
}

func (e *ExecError) Unwrap() error { return e.Errno }

// FatalError: the server ended the session and said why.
type FatalError struct{ fsyscall.Fatal }

func (e *FatalError) Error() string {
	return fmt.Sprintf("fatal %d (%v): %q", e.Code, unix.Errno(e.Errno), e.Detail)
}

// OpenError: there is no connection to the server.
type OpenError struct{ Err error }

func (e *OpenError) Error() string { return fmt.Sprintf("open: %v", e.Err) }
func (e *OpenError) Unwrap() error { return e.Err }

// LostError: the connection ended before the command did. Err is nil when the
// server closed it in good order.
type LostError struct {
	Err error
	// Began: the server's end of the session had spoken.
	Began bool
}

func (e *LostError) Error() string { return fmt.Sprintf("connection lost: %v", e.Err) }
func (e *LostError) Unwrap() error { return e.Err }

// FilesError: fslave could not be started, or ended before the session did.
type FilesError struct {
	Err error
	Ran bool // it was started
}

func (e *FilesError) Error() string { return fmt.Sprintf("file service: %v", e.Err) }
func (e *FilesError) Unwrap() error { return e.Err }

// StreamError: a local standard stream failed in a way that the command could
// not be told of.
type StreamError struct {
	Slot int
	Op   string // "write", "seek"
	Err  error
}

func (e *StreamError) Error() string {
	return fmt.Sprintf("%s standard stream %d: %v", e.Op, e.Slot, e.Err)
}
func (e *StreamError) Unwrap() error { return e.Err }

// ProtocolError: the server sent what no correct server sends.
type ProtocolError struct{ Err error }

func (e *ProtocolError) Error() string { return fmt.Sprintf("protocol: %v", e.Err) }
func (e *ProtocolError) Unwrap() error { return e.Err }

// UnansweredError: the user interrupted twice and nothing came from the
// server in between.
type UnansweredError struct{}

func (*UnansweredError) Error() string { return "interrupted; the server does not answer" }

// InterruptedError: a signal ended nexec itself, not the command.
type InterruptedError struct{ Signal unix.Signal }

func (e *InterruptedError) Error() string { return fmt.Sprintf("ended by %v", e.Signal) }

func asError[T error](err error, target *T) bool { return errors.As(err, target) }

// CwdError: the working directory has no name.
type CwdError struct{ Err error }

func (e *CwdError) Error() string { return fmt.Sprintf("working directory: %v", e.Err) }
func (e *CwdError) Unwrap() error { return e.Err }
