package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"syscall"

	"github.com/SumiTomohiko/nexec/sshserver"
	"golang.org/x/sys/unix"
)

// report is what nexec-server tells of a command: subsystem.Report.
type report struct {
	Event     string `json:"event"`
	Cmd       uint32 `json:"cmd"`
	Command   string `json:"command"`
	Requested string `json:"requested"`
	Terminal  bool   `json:"terminal"`
	Status    uint8  `json:"status"`
	Signal    uint8  `json:"signal"`
	Errno     uint32 `json:"errno"`
	Lost      uint64 `json:"lost"`
}

// logReport puts a line of nexec-server's into the log. The text in it is the
// user's: it is quoted, so that one event stays one line and shows as it is.
func logReport(s *sshserver.Session, line []byte) {
	var x report
	if err := json.Unmarshal(line, &x); err != nil {
		s.Log.Info("report of the session cannot be read", "error", sshserver.Printable(err.Error()))
		return
	}
	if x.Lost > 0 {
		s.Log.Info("reports of the session were lost", "count", x.Lost)
	}
	who := fmt.Sprintf("%s from %s port %d", sshserver.Printable(s.User), s.End.Addr, s.End.Port)
	command := sshserver.Printable(x.Command)
	if command == "" {
		command = "(login shell)"
	}
	switch x.Event {
	case "start":
		s.CountCommand()
		attrs := []any{"number", x.Cmd, "command", command, "tty", x.Terminal}
		if x.Requested != "" {
			attrs = append(attrs, "requested", sshserver.Printable(x.Requested))
		}
		s.Log.Info("Starting command for "+who+": "+command, attrs...)
	case "refused":
		s.Log.Info("Refused command for "+who+": "+command, "number", x.Cmd, "command", command, "tty", x.Terminal,
			"reason", syscall.Errno(x.Errno).Error())
	case "end":
		received, sent := s.Bytes()
		s.Log.Info("Command ended for "+who, "number", x.Cmd, "status", x.Status, "signal", signalName(x.Signal),
			"session_received", received, "session_sent", sent)
	}
}

func signalName(n uint8) string {
	if n == 0 {
		return ""
	}
	if name := unix.SignalName(syscall.Signal(n)); name != "" {
		return name[len("SIG"):]
	}
	return strconv.Itoa(int(n))
}
