package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// metrics serves counters for Prometheus on a unix socket.
type metrics struct {
	path   string
	server *http.Server
	done   sync.WaitGroup
}

// serveMetrics listens at path; an empty one is for no metrics.
func serveMetrics(path string, handler http.Handler) (*metrics, error) {
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
		Handler: handler,
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
