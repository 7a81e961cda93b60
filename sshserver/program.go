package sshserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/rawio"
)

const (
	// copyBuffer is how much one copy moves at a time.
	copyBuffer = 256 << 10
	// maxStderr bounds what a program's messages put into the log and send to
	// the client, each session.
	maxStderr = 64 << 10
	// termAfter and killAfter are how long a program may go on after its client
	// is gone: first it sees the end of its input, then SIGTERM, then SIGKILL.
	// Together with lingerTime they are well below 5 s.
	termAfter = time.Second
	killAfter = time.Second
	// lingerTime is how long a program's descendants may keep its output open.
	lingerTime = 500 * time.Millisecond
)

// PolicyDescriptor is the descriptor on which a program gets its policy.
const PolicyDescriptor = 3

// Program is a Handler that runs a program as the login's user, with standard
// input and output on one socket. The program leads a session and a process
// group of its own; it is gone, with its group, when ServeSSH returns. Should
// the server be killed, the program sees the end of its input.
type Program struct {
	// Path is the program, Args its arguments without its name.
	Path string
	Args []string
	// Policy makes a document that the program gets on descriptor 3, which an
	// additional argument "--policy-fd 3" tells it of. No document, no argument.
	Policy func(*Session) ([]byte, error)
	// Report is called with each line that the program writes to the
	// descriptor that the variable NEXECD_REPORT_FD names, without the line's
	// end. What a program reports it may have made up: it runs as the user.
	Report func(s *Session, line []byte)
}

// ServeSSH runs the program.
func (p *Program) ServeSSH(s *Session) Exit {
	if msg := nologin(s.Grant.Account); msg != "" {
		fmt.Fprintln(s.Stderr(), msg)
		s.Log.Info("refused", "reason", "/etc/nologin")
		return Exit{Code: 254}
	}
	r := &running{session: s, program: p}
	if s.agent {
		agent, err := listenAgent(s)
		if err != nil {
			s.Log.Error("no agent for the session", "error", err)
		} else {
			defer agent.close()
			r.agent = agent.path
		}
	}
	if err := r.start(p); err != nil {
		s.Log.Error("cannot start", "program", p.Path, "error", err)
		fmt.Fprintf(s.Stderr(), "nexecd: cannot start the session: %v\r\n", err)
		return Exit{Code: 255}
	}
	return r.wait()
}

// nologin returns what to tell a user who is kept out by /etc/nologin.
func nologin(a *Account) string {
	if a.UID == 0 {
		return ""
	}
	f, err := os.Open("/etc/nologin")
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 4096))
	return "nexecd: no logins at present: " + printable(string(text))
}

// running is a program that has been started.
type running struct {
	session *Session
	program *Program
	cmd     *exec.Cmd
	socket  *net.UnixConn // our end
	errors  *os.File      // the program's standard error
	reports *os.File      // what the program reports, or nil
	agent   string        // the socket of the client's agent, or empty
	exited  chan struct{} // it is a zombie
	copies  sync.WaitGroup
}

func (r *running) start(p *Program) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	errOurs, errTheirs, err := os.Pipe()
	if err != nil {
		ours.Close()
		return err
	}
	defer errTheirs.Close()
	r.socket, r.errors = ours, errOurs
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Dir = "/"
	cmd.Env = environment(r.session)
	if r.agent != "" {
		cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+r.agent)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, errTheirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential(r.session.Grant.Account)}
	policy, err := p.policyFile(r.session)
	var reports *os.File
	if err == nil && p.Report != nil {
		r.reports, reports, err = os.Pipe()
	}
	if err == nil {
		if policy != nil {
			defer policy.Close()
			cmd.ExtraFiles = []*os.File{policy}
			cmd.Args = append(cmd.Args, "--policy-fd", fmt.Sprint(PolicyDescriptor))
		}
		if reports != nil {
			defer reports.Close()
			cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", reportVariable, 3+len(cmd.ExtraFiles)))
			cmd.ExtraFiles = append(cmd.ExtraFiles, reports)
		}
		err = cmd.Start()
	}
	if err != nil {
		ours.Close()
		errOurs.Close()
		if r.reports != nil {
			r.reports.Close()
		}
		return err
	}
	r.cmd = cmd
	return nil
}

// policyFile is a file in memory with the policy, or nil when there is none.
func (p *Program) policyFile(s *Session) (*os.File, error) {
	if p.Policy == nil {
		return nil, nil
	}
	doc, err := p.Policy(s)
	if err != nil || doc == nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("policy", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	f := os.NewFile(uintptr(fd), "policy")
	if _, err := f.Write(doc); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// socketPair returns a connected pair, with buffers large enough that a
// program can answer a burst without a change of context for each packet.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	for _, fd := range fds {
		for _, opt := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1<<20) // a wish
		}
	}
	ours := os.NewFile(uintptr(fds[0]), "session")
	theirs := os.NewFile(uintptr(fds[1]), "session")
	defer ours.Close() // FileConn has its own descriptor
	nc, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return nc.(*net.UnixConn), theirs, nil
}

// wait moves data until the program has ended, ends it when the client is gone,
// and reaps it.
func (r *running) wait() Exit {
	r.exited = make(chan struct{})
	input := make(chan struct{})
	go func() { // ends when the client's channel does, which may be after us
		defer close(input)
		r.copyIn()
	}()
	r.copies.Go(r.copyOut)
	r.copies.Go(r.copyErrors)
	if r.reports != nil {
		r.copies.Go(r.readReports)
	}
	go func() {
		defer close(r.exited)
		waitZombie(r.cmd.Process.Pid)
	}()
	r.superviseUntilExit()
	// What is left of the group goes before the leader is reaped, as long as
	// its number cannot be anybody else's.
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	err := r.cmd.Wait()
	_ = r.socket.SetReadDeadline(time.Now().Add(lingerTime))
	_ = r.errors.SetReadDeadline(time.Now().Add(lingerTime))
	if r.reports != nil {
		_ = r.reports.SetReadDeadline(time.Now().Add(lingerTime))
	}
	r.copies.Wait()
	r.socket.Close()
	r.errors.Close()
	if r.reports != nil {
		r.reports.Close()
	}
	return exitOf(err)
}

// superviseUntilExit returns when the program has exited. Once the client is
// gone that is a matter of time.
func (r *running) superviseUntilExit() {
	select {
	case <-r.exited:
		return
	case <-r.session.ctx.Done():
	}
	_ = r.socket.CloseWrite()
	pid := r.cmd.Process.Pid
	for _, step := range []struct {
		after time.Duration
		sig   syscall.Signal
	}{{termAfter, syscall.SIGTERM}, {killAfter, syscall.SIGKILL}} {
		select {
		case <-r.exited:
			return
		case <-time.After(step.after):
			_ = syscall.Kill(-pid, step.sig)
		}
	}
	<-r.exited
}

// waitZombie waits for a child's end without reaping it.
func waitZombie(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// copyIn moves the client's data to the program.
func (r *running) copyIn() {
	_, err := copyAll(rawio.NewConn(r.socket), r.session)
	if err == nil {
		_ = r.socket.CloseWrite()
	}
}

// copyOut moves the program's data to the client.
func (r *running) copyOut() {
	_, _ = copyAll(r.session, rawio.NewConn(r.socket))
}

// copyAll copies with a large buffer, past ReadFrom and WriteTo, which would
// choose a small one.
func copyAll(w io.Writer, rd io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{rd}, make([]byte, copyBuffer))
}

// copyErrors puts the program's messages into the log and sends them to the
// client, up to a bound; the rest is read and dropped, so that the program
// does not stop.
func (r *running) copyErrors() {
	left := maxStderr
	buf := make([]byte, 4096)
	for {
		n, err := r.errors.Read(buf)
		if k := min(n, left); k > 0 {
			left -= k
			r.session.Log.Info("stderr", "text", Printable(string(buf[:k])))
			_, _ = r.session.Stderr().Write(buf[:k])
			if left == 0 {
				r.session.Log.Info("stderr: the rest is dropped", "limit", maxStderr)
			}
		}
		if err != nil {
			return
		}
	}
}

func exitOf(err error) Exit {
	var exit *exec.ExitError
	if err == nil {
		return Exit{}
	}
	if !errors.As(err, &exit) {
		return Exit{Code: 255}
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return Exit{Code: exit.ExitCode()}
	}
	name := unix.SignalName(status.Signal())
	if len(name) < 4 {
		return Exit{Code: 255}
	}
	return Exit{Signal: name[len("SIG"):], Core: status.CoreDump()}
}

// environment is what sshd gives a session that has no shell. What key and
// configuration set cannot change the first ones.
func environment(s *Session) []string {
	a := s.Grant.Account
	path := defaultPath
	if a.UID == 0 {
		path = rootPath
	}
	env := append([]string{}, s.Env...)
	env = append(env, s.Grant.Environment()...)
	env = append(env,
		"USER="+a.Name, "LOGNAME="+a.Name, "HOME="+a.Home, "PATH="+path, "SHELL="+a.Shell,
		"SSH_CONNECTION="+s.End.connectionVariable(),
		fmt.Sprintf("SSH_CLIENT=%s %d %d", s.End.Addr, s.End.Port, s.End.LocalPort))
	if _, forced := s.Grant.ForcedCommand(); forced {
		env = append(env, "SSH_ORIGINAL_COMMAND="+s.Subsystem)
	}
	return env
}
