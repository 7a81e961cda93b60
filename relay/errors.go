package relay

import (
	"errors"
	"fmt"
	"io"
)

var (
	// ErrLost is wrapped by the error of a link whose byte stream ended, or
	// went silent, without either end having closed the link.
	ErrLost = errors.New("connection lost")
	// ErrNotNexec is wrapped when what the peer sent first is no link.
	ErrNotNexec = errors.New("the other end does not speak the nexec protocol")
	// ErrVersion is wrapped when the peer speaks another version of the link.
	ErrVersion = errors.New("the other end speaks another version of the link")
	// ErrProtocol is wrapped when the peer broke a rule of the link.
	ErrProtocol = errors.New("the other end broke the link protocol")
	// ErrAborted is wrapped when the peer gave the link up and said why.
	ErrAborted = errors.New("the other end gave up the link")
	// ErrClosed is returned by operations on a link that was closed in good
	// order by either end, and on the closed direction of a stream.
	ErrClosed = errors.New("link or stream closed")
	// ErrClosedByPeer is returned by writes to a stream whose reader at the
	// other end has called CloseRead: what EPIPE is to a pipe.
	ErrClosedByPeer = errors.New("stream closed by its reader")
	// ErrTooLong is wrapped for a message over the bound on messages.
	ErrTooLong = errors.New("message too long")
)

// broken makes the error for a peer that broke a rule.
func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// lost makes the error for a byte stream that ended with cause.
func lost(cause error) error {
	if errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the other end hung up (%w)", ErrLost, cause)
	}
	return fmt.Errorf("%w: %w", ErrLost, cause)
}
