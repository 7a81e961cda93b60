package sshserver

import (
	"bufio"
	"time"
)

const (
	// reportVariable tells a program where to report.
	reportVariable = "NEXECD_REPORT_FD"
	// maxReport bounds a line: what a pipe keeps together.
	maxReport = 4 << 10
	// reportBurst lines are read as they come, and then reportRate in a second,
	// so that nobody fills the log. Who reports more finds the pipe full.
	reportBurst = 1000
	reportRate  = 50
)

// readReports hands on what the program reports, until its end.
func (r *running) readReports() {
	lines := bufio.NewScanner(r.reports)
	lines.Buffer(make([]byte, 0, maxReport), maxReport)
	tokens, last := float64(reportBurst), time.Now()
	for lines.Scan() {
		now := time.Now()
		tokens = min(reportBurst, tokens+reportRate*now.Sub(last).Seconds())
		last = now
		if tokens--; tokens < 0 {
			select {
			case <-time.After(time.Second / reportRate):
			case <-r.exited: // what is in the pipe is bounded
			}
		}
		r.program.Report(r.session, lines.Bytes())
	}
	if err := lines.Err(); err == bufio.ErrTooLong {
		r.session.Log.Info("reports: the rest is dropped", "limit", maxReport)
	}
}
