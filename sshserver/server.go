// Package sshserver is an SSH server that offers named subsystems and nothing
// else: no shell, no commands, no forwarding. Who may log in is decided as
// OpenSSH's sshd decides it, from the same files.
//
// Its words are those of net/http: a Server serves listeners, and calls a
// Handler for each Session.
package sshserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("sshserver: server closed")

// Config is what connections are served by. A connection keeps the one that
// was there when it came.
type Config struct {
	// HostKeys has one key of each type. With certificates they come before
	// their plain keys.
	HostKeys []ssh.Signer
	Auth     *Authorizer
	// Handlers are the subsystems by name.
	Handlers map[string]Handler
	Log      *slog.Logger
}

// Stats counts what has happened since the server was made.
type Stats struct {
	Connections  atomic.Uint64 // accepted from the listeners
	Refused      atomic.Uint64 // dropped by a limit
	Failed       atomic.Uint64 // ended after failed authentication
	Accepted     atomic.Uint64 // logged in
	Sessions     atomic.Uint64 // subsystems started
	Commands     atomic.Uint64 // what sessions report to have run
	OpenConns    atomic.Int64
	OpenSessions atomic.Int64
	Received     atomic.Uint64 // bytes of connections that have ended
	Sent         atomic.Uint64
}

// Server serves SSH connections. Its states:
//
//	serving ──StopListening──► retired ──Shutdown──► draining ──────────► closed
//	   │                          └─last connection gone────────────────────►┤
//	   ├───────────────Shutdown──────────────────────►┘ last session ended,  │
//	   │                                                or time is up        │
//	   └───────────────Close────────────────────────────────────────────────►┘
//
// Retired, it accepts no connection, and those that it has go on as ever:
// another process has taken its place. While draining it accepts no channel
// either, and closes connections as soon as they have no session. Closed, it
// has no goroutine left.
type Server struct {
	config   atomic.Pointer[Config]
	startups startups
	stats    Stats

	ctx    context.Context // ends at Close; every connection's comes from it
	cancel context.CancelFunc

	mu        sync.Mutex
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	retired   bool           // accepts no connections
	drain     bool           // accepts no channels
	wg        sync.WaitGroup // connections
}

// New makes a server.
func New(cfg *Config) *Server {
	s := &Server{listeners: map[net.Listener]bool{}, conns: map[*conn]bool{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.config.Store(cfg)
	return s
}

// Reload makes cfg count for connections that come from now on.
func (s *Server) Reload(cfg *Config) { s.config.Store(cfg) }

// Stats returns the server's counters.
func (s *Server) Stats() *Stats { return &s.stats }

// Serve accepts connections from l until Shutdown or Close, or until l fails
// for good. It closes l. It may be called for several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	if !s.track(l) {
		l.Close()
		return ErrServerClosed
	}
	defer s.untrack(l)
	wait := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err != nil && (s.isRetired() || errors.Is(err, net.ErrClosed)) {
			return ErrServerClosed
		}
		if err != nil {
			// Out of descriptors, mostly: others will be closed.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			s.config.Load().Log.Error("accept", "error", err, "retry", wait.String())
			select {
			case <-time.After(wait):
			case <-s.ctx.Done():
			}
			continue
		}
		wait = 0
		s.start(nc)
	}
}

func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.retired {
		s.listeners[l] = true
	}
	return !s.retired
}

func (s *Server) untrack(l net.Listener) {
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// start serves a connection in a goroutine of its own, if the limits let it.
func (s *Server) start(nc net.Conn) {
	c := s.admit(nc)
	if c == nil {
		return
	}
	go func() {
		defer s.wg.Done()
		s.finish(c)
	}()
}

// ServeConn serves one connection and returns when it is over.
func (s *Server) ServeConn(nc net.Conn) {
	if c := s.admit(nc); c != nil {
		defer s.wg.Done()
		s.finish(c)
	}
}

// admit applies the limits. It returns nil when the connection is dropped, and
// has else counted it into the wait group.
func (s *Server) admit(nc net.Conn) *conn {
	s.stats.Connections.Add(1)
	global := &s.config.Load().Auth.Config.Global
	if tcp, ok := nc.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlive(global.TCPKeepAlive)
	}
	c := s.connOf(nc)
	victim, reason := s.startups.admit(c, global, time.Now())
	if reason != "" {
		s.stats.Refused.Add(1)
		c.log.Info("Connection refused", "reason", reason)
		c.cancel()
		c.raw.abort()
		return nil
	}
	if victim != nil {
		s.stats.Refused.Add(1)
		victim.dropped.Store(true)
		victim.raw.kill()
	}
	if !s.keep(c) {
		s.startups.leave(c)
		c.cancel()
		c.raw.abort()
		return nil
	}
	return c
}

// keep counts a connection among those that Close and Wait see. It reports
// false when the server takes no more.
func (s *Server) keep(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return false
	}
	s.conns[c] = true
	s.wg.Add(1) // under the lock that retired is set under, so before any Wait
	return true
}

func (s *Server) finish(c *conn) {
	s.stats.OpenConns.Add(1)
	defer s.stats.OpenConns.Add(-1)
	c.serve()
	s.stats.Received.Add(c.raw.read.Load())
	s.stats.Sent.Add(c.raw.wrote.Load())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *Server) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drain
}

func (s *Server) isRetired() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.retired
}

// Wait returns when no connection is left, after StopListening.
func (s *Server) Wait() { s.wg.Wait() }

// StopListening makes Serve return and keeps connections as they are. Whoever
// has taken the listeners over goes on accepting.
func (s *Server) StopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	for l := range s.listeners {
		l.Close()
	}
}

// Shutdown stops listening, closes connections without a session, and waits
// for the others until ctx ends. It then closes what is left, joins every
// goroutine and returns ctx's error if there was something left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.StopListening()
	s.mu.Lock()
	s.drain = true
	for c := range s.conns {
		if c.open.Load() == 0 {
			c.hangUp()
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Close()
	<-done
	return err
}

// Close ends everything at once and joins every goroutine.
func (s *Server) Close() {
	s.StopListening()
	s.mu.Lock()
	for c := range s.conns {
		c.hangUp()
	}
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}
