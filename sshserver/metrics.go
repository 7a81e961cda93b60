package sshserver

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics returns a handler that answers with the server's counters.
func (s *Server) Metrics() http.Handler {
	r := prometheus.NewRegistry()
	count := func(name, help string, value func() uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "nexecd_" + name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge := func(name, help string, value func() int64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "nexecd_" + name, Help: help}, func() float64 { return float64(value()) }))
	}
	st := &s.stats
	count("connections_total", "Connections accepted from the network.", st.Connections.Load)
	count("connections_refused_total", "Connections dropped by a limit.", st.Refused.Load)
	count("authentication_failures_total", "Connections that ended after failed authentication.", st.Failed.Load)
	count("logins_total", "Connections that logged in.", st.Accepted.Load)
	count("sessions_total", "Sessions started.", st.Sessions.Load)
	count("commands_total", "Commands that sessions have reported.", st.Commands.Load)
	count("received_bytes_total", "Bytes received on connections that have ended.", st.Received.Load)
	count("sent_bytes_total", "Bytes sent on connections that have ended.", st.Sent.Load)
	gauge("connections", "Connections at present.", st.OpenConns.Load)
	gauge("sessions", "Sessions at present.", st.OpenSessions.Load)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
