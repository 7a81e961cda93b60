// Command nexec-server is one nexec session on its standard input and output,
// or hands them over to one that runs already.
// nexecd starts it, or OpenSSH's sshd by "Subsystem nexec /usr/lib/nexec/nexec-server".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/cmd/tuning"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem"
	"github.com/SumiTomohiko/nexec/subsystem/fmaster"
	"github.com/SumiTomohiko/nexec/subsystem/handover"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// version is set by the linker.
var version = "devel"

const (
	statusFailed = 1
	statusUsage  = 2
)

func main() {
	namespace.Main()
	tuning.Tune()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run does everything but exit. What it has to say is one line on stderr.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, os.Geteuid())
	if err != nil {
		fmt.Fprintln(stderr, "nexec-server:", err)
		return statusUsage
	}
	if o.version {
		fmt.Fprintln(stdout, "nexec-server", versionText())
		return 0
	}
	if err := serve(o); err != nil {
		fmt.Fprintf(stderr, "nexec-server: %v\n", err)
		return statusFailed
	}
	return 0
}

func versionText() string {
	if version == "devel" {
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			return info.Main.Version
		}
	}
	return version
}

func serve(o *options) error {
	policy, err := readPolicy(o.policyFD)
	if err != nil {
		return err
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if err := checkStream(f); err != nil {
			return err
		}
	}
	rw, err := relay.NewPipes(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	// A front door that is gone is found out by reading, not by dying.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	opening, err := relay.ReadOpening(ctx, rw, subsystem.OpeningTimeout)
	if err != nil {
		return errors.Join(err, rw.Close())
	}
	if opening.Joins {
		return handover.Send(ctx, os.Environ(), opening.Secret, rw)
	}
	reporter, err := newReporter()
	if err != nil {
		return err
	}
	return subsystem.Serve(rw, subsystem.Options{
		NewFiles: newFiles, Policy: policy, Reporter: reporter, Environ: os.Environ(), Context: ctx,
		Cache: o.cache, Relay: relay.Config{Compress: true},
	})
}

func newFiles(c subsystem.FilesConfig) subsystem.Files {
	return fmaster.New(fmaster.Config{
		Link: c.Link, Hello: c.Hello, UID: c.UID, GID: c.GID, MappedIDs: c.MappedIDs, Mountpoints: c.Mountpoints,
		Hidden: c.Hidden, Links: c.Links, Cache: c.Cache, Pinned: accounts(c.Hello),
	})
}

// readPolicy reads what the front door allows. Without --policy-fd nothing is
// read: a descriptor that happens to be open is nobody's policy.
func readPolicy(fd int) (*subsystem.Policy, error) {
	if fd < 0 {
		return nil, nil
	}
	if fd < 3 {
		return nil, fmt.Errorf("--policy-fd %d: descriptors below 3 are the session's own", fd)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("--policy-fd %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(fd), "policy")
	defer f.Close()
	return subsystem.ReadPolicy(f)
}

// reportVariable names the descriptor that nexecd reads its log's events from.
// It is no flag, because sshd, and any other program in our place, knows none.
const reportVariable = "NEXECD_REPORT_FD"

func newReporter() (*subsystem.Reporter, error) {
	v := os.Getenv(reportVariable)
	if v == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(v)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%s: not a descriptor of the front door's", reportVariable, v)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, fmt.Errorf("%s=%s: not a pipe", reportVariable, v)
	}
	return subsystem.NewReporter(fd)
}

// checkStream refuses to speak the protocol to a terminal or a file.
func checkStream(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if st.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return errors.New("this program is started by nexecd, or by sshd with the line \"Subsystem nexec " + os.Args[0] + "\"")
	}
	return nil
}

// accounts are the client's files that generated ones are mounted over where
// the view takes /etc from the client.
func accounts(h *fsyscall.Hello) []string {
	for _, r := range h.View {
		if r.Path == "/etc" && r.Remote {
			return nil
		}
	}
	return []string{"/etc/passwd", "/etc/group"}
}
