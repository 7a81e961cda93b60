package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/dial"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/view"
)

// This file owns everything that nexec says to its user: one line each, lower
// case, no full stop, what happened and what to do next. Text that another
// machine supplied passes through printable first.

// Exit statuses of nexec's own; doc/nexec.1 lists them.
const (
	statusFailure       = 255 // nexec could not do its job
	statusNotExecutable = 126
	statusNotFound      = 127
)

// voice writes to standard error. Its methods may be called concurrently.
type voice struct {
	mu    sync.Mutex
	w     *os.File
	quiet bool
}

// say writes one line.
func (v *voice) say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	end := "\n"
	if t, err := unix.IoctlGetTermios(int(v.w.Fd()), unix.TCGETS); err == nil && t.Oflag&unix.OPOST == 0 {
		end = "\r\n" // the terminal is raw
	}
	// Nothing can be done about an error in saying one.
	_, _ = io.WriteString(v.w, "nexec: "+fmt.Sprintf(format, args...)+end)
}

func (v *voice) warn(format string, args ...any) {
	if !v.quiet {
		v.say(format, args...)
	}
}

// maxShown bounds what is shown of a string that another machine supplied.
const maxShown = 512

// printable makes a string safe to show: control characters, also those of
// Unicode that change the direction of text, become escapes, and what is too
// long is cut.
func printable(s string) string {
	cut := ""
	if len(s) > maxShown {
		s, cut = s[:maxShown], "..."
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String() + cut
}

const usageText = `usage: nexec [-nqtTv] [-e NAME[=VALUE]] [-F file] [-i file] [-J jump] [-l user]
             [-o option] [-p port] [--remote PATH] [--local PATH]
             [--apps remote|local] [--export PATH[:rw|ro|hide]] [--export-only]
             [--sync] [--no-cache] [--stats] [--ssh COMMAND]
             [--persist[=TIME]] [user@]host[:port] [CMD [ARG...]]
       nexec [options] --explain PATH [host]
       nexec [options] -O check|exit|list [user@]host[:port]
       nexec -O list
       nexec --version
`

const useHelp = "try 'nexec --help'"

func unknownOption(opt string) error {
	return fmt.Errorf("unknown option %s; %s", printable(opt), useHelp)
}

func missingValue(opt string) error { return fmt.Errorf("%s needs a value; %s", opt, useHelp) }

func needlessValue(opt string) error { return fmt.Errorf("%s takes no value; %s", opt, useHelp) }

func badValue(opt, value, want string) error {
	return fmt.Errorf("%s %s: %s", opt, printable(value), want)
}

func noHost() error { return fmt.Errorf("no host given; %s", useHelp) }

func badDestination(s, why string) error {
	return fmt.Errorf("destination %s: %s", printable(s), why)
}

func sshMissing(name string, err error) error {
	var e *exec.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("--ssh: cannot run %s: %s; is it installed?", printable(name), reason(err))
}

// wayFailed says that the command of --ssh ended before the session began.
func wayFailed(name string, err error) string {
	return fmt.Sprintf("%s ended before the session began (%s); what it said above is why", printable(name), reason(err))
}

func configError(file string, line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", file, line, printable(fmt.Sprintf(format, args...)))
}

func configUnsafe(file string) error {
	return fmt.Errorf("%s: others can write to it; run chmod go-w on it", file)
}

// reason is the short cause of an error: the system's words, where it has any.
func reason(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return printable(err.Error())
}

// explain prints the answer to --explain.
func explain(w io.Writer, path string, e view.Explanation, host string) error {
	where := "this machine"
	if e.Side == view.Remote {
		where = "the server"
		if host != "" {
			where = host
		}
	}
	_, err := fmt.Fprintf(w, "%s: %s, from %s: rule %s (%s)\n", printable(path), e.Side, printable(where), printable(e.Rule), printable(e.Why))
	return err
}

// fail says why nexec could not do its job and returns the exit status.
func (v *voice) fail(err error, s speaker) int {
	status, text := s.describe(err)
	if text != "" {
		v.say("%s", text)
	}
	return status
}

// speaker knows what messages are about.
type speaker struct {
	host string // as the user typed it
	view *view.View
}

// describe turns an error of a session into an exit status and a line.
func (s speaker) describe(err error) (int, string) {
	host := printable(s.host)
	var (
		exec        *client.ExecError
		fatal       *client.FatalError
		open        *client.OpenError
		lost        *client.LostError
		files       *client.FilesError
		proto       *client.ProtocolError
		cwd         *client.CwdError
		unanswered  *client.UnansweredError
		interrupted *client.InterruptedError
	)
	switch {
	case errors.As(err, &exec):
		return s.execFailed(exec)
	case errors.As(err, &fatal):
		return statusFailure, s.fatal(fatal)
	case errors.As(err, &open):
		return statusFailure, printableLine(open.Err)
	case errors.As(err, &lost):
		return statusFailure, s.lost(lost)
	case errors.As(err, &files):
		return statusFailure, s.filesFailed(files)
	case errors.As(err, &proto):
		return statusFailure, fmt.Sprintf("%s broke the protocol (%s); install the same version of nexec on both machines", host, printable(proto.Err.Error()))
	case errors.As(err, &cwd):
		return statusFailure, fmt.Sprintf("the working directory cannot be named: %s; cd to one that exists", reason(cwd))
	case errors.As(err, &unanswered):
		return statusFailure, fmt.Sprintf("connection to %s lost: interrupted twice without an answer; what the command did since is not known", host)
	case errors.As(err, &interrupted):
		return 128 + int(interrupted.Signal), ""
	}
	return statusFailure, printableLine(err)
}

// printableLine keeps an error of this machine to one line.
func printableLine(err error) string {
	return printable(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
}

func (s speaker) execFailed(e *client.ExecError) (int, string) {
	host, name := printable(s.host), printable(e.Name)
	if e.Name == "" {
		name = "the login shell"
	}
	switch e.Stage {
	case fsyscall.ExecCwd:
		return statusFailure, fmt.Sprintf("cannot enter the working directory %s on %s: %v; %s", printable(e.Cwd), host, e.Errno, s.hint(e.Cwd))
	case fsyscall.ExecProgram:
		return s.programFailed(e, name)
	case fsyscall.ExecStdio:
		return statusFailure, fmt.Sprintf("cannot open a standard stream of the command on %s: %v; redirect it through a pipe instead", host, e.Errno)
	case fsyscall.ExecLimits:
		return statusFailure, fmt.Sprintf("cannot set the resource limits on %s: %v; lower them with ulimit first", host, e.Errno)
	case fsyscall.ExecDenied:
		return statusFailure, fmt.Sprintf("the administrator of %s does not allow %s", host, name)
	}
	return statusFailure, fmt.Sprintf("cannot start a process on %s: %v; try again when it is less busy", host, e.Errno)
}

func (s speaker) programFailed(e *client.ExecError, name string) (int, string) {
	host := printable(s.host)
	switch {
	case e.Errno == unix.ELIBACC:
		return statusNotFound, fmt.Sprintf("%s: the interpreter or dynamic loader that it names is missing on %s; install it there, or see --apps and --local", name, host)
	case e.Errno == unix.ENOENT && strings.Contains(e.Name, "/"):
		return statusNotFound, fmt.Sprintf("%s: no such command; %s", name, s.hint(e.Name))
	case e.Errno == unix.ENOENT:
		return statusNotFound, fmt.Sprintf("%s: no such command on %s; install it there, or give its path", name, host)
	case e.Errno == unix.E2BIG:
		return statusNotExecutable, fmt.Sprintf("%s: arguments and environment are too long for %s; use xargs or a file", name, host)
	case e.Errno == unix.ENOEXEC:
		return statusNotExecutable, fmt.Sprintf("%s: %s cannot run this kind of file; was it built for another machine?", name, host)
	case e.Errno == unix.EACCES:
		return statusNotExecutable, fmt.Sprintf("%s: permission denied; is it a program, and its mode executable?", name)
	}
	return statusNotExecutable, fmt.Sprintf("%s: cannot be executed on %s: %v", name, host, e.Errno)
}

// hint says what decides about a path, and how to change it.
func (s speaker) hint(path string) string {
	shown := printable(path)
	if s.view == nil || !strings.HasPrefix(path, "/") {
		return "'nexec --explain PATH HOST' says which side a path comes from"
	}
	e, err := s.view.Explain(path)
	switch {
	case err != nil:
		return "check the path"
	case e.Side == view.Remote:
		return fmt.Sprintf("it comes from the server (rule %s), use --local %s for this machine's", printable(e.Rule), shown)
	}
	return fmt.Sprintf("it comes from this machine, use --export %s if it is hidden, or --remote %s for the server's", shown, shown)
}

func (s speaker) fatal(e *client.FatalError) string {
	host, detail := printable(s.host), printable(e.Detail)
	why := ""
	if e.Errno != 0 {
		why = ": " + unix.Errno(e.Errno).Error()
	}
	switch e.Code {
	case fsyscall.FatalVersion:
		return fmt.Sprintf("%s speaks version %s of the protocol, this is version %d; install the same nexec on both machines", host, detail, fsyscall.Version)
	case fsyscall.FatalProtocol:
		return fmt.Sprintf("%s did not understand this nexec (%s); install the same version on both machines", host, detail)
	case fsyscall.FatalFUSE:
		return fmt.Sprintf("%s cannot mount the files: /dev/fuse%s; ask its administrator to load the fuse module and allow /dev/fuse", host, why)
	case fsyscall.FatalNamespaces:
		return fmt.Sprintf("%s forbids user namespaces%s; ask its administrator to allow them (kernel.unprivileged_userns_clone, AppArmor)", host, why)
	case fsyscall.FatalView:
		return fmt.Sprintf("%s cannot show %s%s; use --local or --remote for another side of it", host, detail, why)
	case fsyscall.FatalDenied:
		return fmt.Sprintf("the administrator of %s does not allow this session (%s)", host, detail)
	case fsyscall.FatalInit:
		return fmt.Sprintf("the session's first process on %s was killed%s; the command is gone, run it again", host, why)
	case fsyscall.FatalFiles:
		return fmt.Sprintf("%s lost the file service of this machine%s; run the command again", host, why)
	}
	return fmt.Sprintf("the session on %s failed%s (%s); its log may say more", host, why, detail)
}

func (s speaker) lost(e *client.LostError) string {
	host := printable(s.host)
	var noSubsystem *dial.SubsystemError
	switch {
	case errors.As(e.Err, &noSubsystem):
		return printableLine(noSubsystem)
	case errors.Is(e.Err, relay.ErrNotNexec):
		return fmt.Sprintf("%s does not answer as nexec-server (%s); is it installed there, and does the login shell print anything?", host, printable(e.Err.Error()))
	case errors.Is(e.Err, relay.ErrVersion):
		return fmt.Sprintf("%s: %s", host, printable(e.Err.Error()))
	case e.Err == nil && !e.Began:
		return fmt.Sprintf("%s ended the session before it began; is nexec-server installed there?", host)
	case e.Err == nil:
		return fmt.Sprintf("connection to %s lost: the server ended the session; the command was ended with it", host)
	}
	why := printable(strings.TrimPrefix(e.Err.Error(), relay.ErrLost.Error()+": "))
	if !e.Began {
		return fmt.Sprintf("connection to %s lost before the session began: %s; is nexec-server installed there?", host, why)
	}
	return fmt.Sprintf("connection to %s lost: %s; the command was ended with it", host, why)
}

func (s speaker) filesFailed(e *client.FilesError) string {
	switch {
	case errors.Is(e, exec.ErrNotFound) || errors.Is(e, os.ErrNotExist):
		return "cannot start the file service: no fslave beside nexec or in PATH; install it there"
	case !e.Ran:
		return fmt.Sprintf("cannot start the file service (fslave): %s; reinstall it beside nexec", reason(e.Err))
	}
	return fmt.Sprintf("the file service (fslave) failed: %s; the command on the server was ended", printable(e.Err.Error()))
}

// lostWrites names the changes that did not reach this machine's disk.
func (v *voice) lostWrites(lost []fsyscall.LostWrite, count uint32) {
	for _, l := range lost {
		v.say("%s: a change by the command was lost: %v; the file is not what the command made it", printable(l.Path), unix.Errno(l.Errno))
	}
	if rest := int64(count) - int64(len(lost)); rest > 0 {
		v.say("%d more changes were lost", rest)
	}
}

// outputLost says that output did not get to where it was to go.
func (v *voice) outputLost(err error) {
	var e *client.StreamError
	if !errors.As(err, &e) {
		v.say("output was lost: %s", reason(err))
		return
	}
	name := "the terminal"
	if e.Slot < 3 {
		name = [...]string{"standard input", "standard output", "standard error"}[e.Slot]
	}
	v.say("cannot %s %s: %s; output of the command was lost", e.Op, name, reason(e.Err))
}

// stats prints --stats.
func (v *voice) stats(st client.Stats) {
	for line := range strings.SplitSeq(strings.TrimRight(st.Server, "\n"), "\n") {
		if line != "" {
			v.say("server: %s", printable(line))
		}
	}
	if st.Joined {
		v.say("the server's numbers are those of the time that the command took; the client's end at the session's process")
	}
	v.say("client: connected after %v, %v in all, round trip %v", st.Connected.Round(time.Microsecond), st.Total.Round(time.Microsecond), st.RTT.Round(time.Microsecond))
	v.say("client: %d bytes in %d frames received, %d before compression", st.BytesIn, st.FramesIn, st.PlainIn)
	v.say("client: %d bytes in %d frames sent, %d before compression", st.BytesOut, st.FramesOut, st.PlainOut)
}

// listSessions prints -O list.
func listSessions(w io.Writer, all []client.Status) error {
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	// An error of writing to it comes out of Flush.
	fmt.Fprintln(t, "HOST\tPID\tAGE\tRUNNING\tCOMMANDS")
	for _, st := range all {
		fmt.Fprintf(t, "%s\t%d\t%v\t%d\t%d\n", printable(st.Host), st.PID, st.Age.Round(time.Second), st.Commands, st.Ran)
	}
	return t.Flush()
}

func configUnreadable(file string, err error) error {
	return fmt.Errorf("%s: cannot be read: %s", file, reason(err))
}
