package subsystem

import (
	"encoding/json"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// Report is an event of a session for the front door's log.
type Report struct {
	Event string `json:"event"` // ReportStart, ReportEnd, ReportRefused
	Cmd   uint32 `json:"cmd"`
	// Command is what is run, with quotes where a shell would need them, and
	// Requested what was asked for when that is something else. They are cut
	// to MaxReported bytes together. No command is the login shell.
	Command   string `json:"command,omitempty"`
	Requested string `json:"requested,omitempty"`
	Terminal  bool   `json:"terminal,omitempty"`
	// Status or Signal say how the command ended, Errno why it was not started.
	Status uint8  `json:"status,omitempty"`
	Signal uint8  `json:"signal,omitempty"`
	Errno  uint32 `json:"errno,omitempty"`
	// Lost is how many reports before this one could not be written.
	Lost uint64 `json:"lost,omitempty"`
}

// Events of a Report.
const (
	ReportStart   = "start"
	ReportEnd     = "end"
	ReportRefused = "refused"
)

// MaxReported bounds a report's texts, so that the whole of it, with six bytes
// for each character at worst, is written at once: a pipe keeps what is no
// longer than 4 KiB together.
const MaxReported = 640

// Reporter writes reports, one JSON object a line, to a pipe. It never waits:
// what the pipe does not take is counted and left out. A nil Reporter reports
// nothing.
type Reporter struct {
	fd   int
	mu   sync.Mutex
	lost uint64
}

// NewReporter writes to a descriptor, which becomes non-blocking and is not
// passed on to programs.
func NewReporter(fd int) (*Reporter, error) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, err
	}
	return &Reporter{fd: fd}, unix.SetNonblock(fd, true)
}

func (r *Reporter) report(x Report) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	x.Lost = r.lost
	b, err := json.Marshal(x)
	if err == nil {
		_, err = unix.Write(r.fd, append(b, '\n'))
	}
	if r.lost++; err == nil {
		r.lost = 0
	}
}

// reported is a command line as reports have it, of at most limit bytes.
func reported(argv []string, limit int) string {
	s := quoted(argv[:min(len(argv), limit)])
	if len(s) > limit {
		s = s[:limit-3] + "..."
	}
	return s
}

func (c *command) reportStart() {
	x := Report{Event: ReportStart, Cmd: c.num, Terminal: c.exec.HasTerminal}
	if slices.Equal(c.requested, c.exec.Argv) {
		x.Command = reported(c.exec.Argv, MaxReported)
	} else {
		x.Command, x.Requested = reported(c.exec.Argv, MaxReported/2), reported(c.requested, MaxReported/2)
	}
	c.s.opts.Reporter.report(x)
}

func (c *command) reportRefused(errno fsyscall.Errno) {
	c.s.opts.Reporter.report(Report{Event: ReportRefused, Cmd: c.num, Command: reported(c.requested, MaxReported), Terminal: c.exec.HasTerminal, Errno: uint32(errno)})
}

func (c *command) reportEnd(ev namespace.Event) {
	c.s.opts.Reporter.report(Report{Event: ReportEnd, Cmd: c.num, Status: ev.Code, Signal: ev.Signal})
}
