package client

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client/startup"
	"github.com/SumiTomohiko/nexec/fsyscall"
)

// self is what a command inherits from this process.
type self struct {
	umask   uint32
	ignored uint64 // bit N-1 for signal N
}

// inspectSelf must be called before any signal is caught or ignored.
func inspectSelf() (self, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return self{}, fmt.Errorf("cannot read the umask: %w", err)
	}
	s, err := parseSelf(b)
	if startup.Entered() {
		s.ignored = startup.Ignored()
	}
	return s, err
}

// parseSelf reads /proc/self/status. The set of ignored signals there lacks
// those that Go's runtime caught before main ran; HUP and INT, which nohup and
// shells ignore, are not among them. [startup.Ignored] knows all of them.
func parseSelf(status []byte) (self, error) {
	var s self
	found := 0
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Umask":
			u, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return s, fmt.Errorf("umask in /proc/self/status: %w", err)
			}
			s.umask = uint32(u) & 0o777
			found++
		case "SigIgn":
			u, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return s, fmt.Errorf("signals in /proc/self/status: %w", err)
			}
			s.ignored = u
			found++
		}
	}
	if found != 2 {
		return s, fmt.Errorf("/proc/self/status has no umask or signals: is /proc mounted?")
	}
	return s, nil
}

// ignores tells whether sig was ignored when the process started.
func (s self) ignores(sig unix.Signal) bool {
	return s.ignored&(1<<(sig-1)) != 0 || signal.Ignored(sig)
}

// sentLimits are the resource limits that go with a command: those that bound
// what one process does. Left out are those that count what the server's
// machine has (NPROC, MEMLOCK, SIGPENDING, MSGQUEUE) and its priorities (NICE,
// RTPRIO, RTTIME), which mean nothing from here, and LOCKS and RSS, which do
// nothing.
var sentLimits = [...]uint8{
	unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_STACK,
	unix.RLIMIT_CORE, unix.RLIMIT_NOFILE, unix.RLIMIT_AS,
}

func limits() []fsyscall.Rlimit {
	var ls []fsyscall.Rlimit
	for _, r := range sentLimits {
		var l unix.Rlimit
		if unix.Getrlimit(int(r), &l) != nil {
			continue
		}
		if r == unix.RLIMIT_NOFILE {
			// Go raised the soft limit for itself.
			if cur, max, ok := startup.Nofile(); ok {
				l.Cur, l.Max = cur, max
			}
		}
		ls = append(ls, fsyscall.Rlimit{Resource: r, Cur: l.Cur, Max: l.Max})
	}
	return ls
}
