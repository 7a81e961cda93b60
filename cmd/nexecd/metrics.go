package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/sshserver"
)

// metrics serves counters in Prometheus' text format on a unix socket. Eight
// numbers do not need a client library in a program that runs as root.
type metrics struct {
	path   string
	server *http.Server
	done   sync.WaitGroup
}

// serveMetrics listens at path; an empty one is for no metrics.
func serveMetrics(path string, stats *sshserver.Stats) (*metrics, error) {
	m := &metrics{}
	if path == "" {
		return m, nil
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path) // of a former process
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("MetricsSocket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("MetricsSocket: %w", err)
	}
	// After an upgrade the name is our successor's.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	m.path = path
	m.server = &http.Server{
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeMetrics(w, stats) }),
	}
	m.done.Go(func() {
		if err := m.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			l.Close()
		}
	})
	return m, nil
}

// close stops serving. It may be called twice.
func (m *metrics) close() {
	if m.server != nil {
		_ = m.server.Close()
	}
	m.done.Wait()
}

// remove removes the socket.
func (m *metrics) remove() {
	if m.path != "" {
		_ = os.Remove(m.path)
	}
}

func writeMetrics(w http.ResponseWriter, s *sshserver.Stats) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	for _, m := range []struct {
		name, kind, help string
		value            uint64
	}{
		{"nexecd_connections_total", "counter", "Connections accepted from the network.", s.Connections.Load()},
		{"nexecd_connections_refused_total", "counter", "Connections dropped by a limit.", s.Refused.Load()},
		{"nexecd_authentication_failures_total", "counter", "Connections that ended after failed authentication.", s.Failed.Load()},
		{"nexecd_logins_total", "counter", "Connections that logged in.", s.Accepted.Load()},
		{"nexecd_sessions_total", "counter", "Sessions started.", s.Sessions.Load()},
		{"nexecd_connections", "gauge", "Connections at present.", uint64(max(s.OpenConns.Load(), 0))},
		{"nexecd_sessions", "gauge", "Sessions at present.", uint64(max(s.OpenSessions.Load(), 0))},
		{"nexecd_received_bytes_total", "counter", "Bytes received on connections that have ended.", s.Received.Load()},
		{"nexecd_sent_bytes_total", "counter", "Bytes sent on connections that have ended.", s.Sent.Load()},
	} {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %d\n", m.name, m.help, m.name, m.kind, m.name, m.value)
	}
}
