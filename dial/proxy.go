package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// proxyEndTime is how long a ProxyCommand may take to end after its input has
// been closed and it has been sent SIGHUP, before it is killed.
const proxyEndTime = 2 * time.Second

// proxyCommand is a running ProxyCommand with a stream over its standard
// input and output.
type proxyCommand struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	once   sync.Once
	exited chan struct{}
}

// reachCommand starts the ProxyCommand by the user's shell, which OpenSSH does
// with "exec" before it, so that the command itself is what is ended.
func reachCommand(ctx context.Context, cfg *Config, u *ui) (*link, error) {
	tokens := map[byte]string{'h': cfg.HostName, 'n': cfg.Typed, 'p': strconv.Itoa(cfg.Port), 'r': cfg.User}
	for _, name := range []string{cfg.HostName, cfg.User} {
		if err := (target{user: name, host: "x"}).check(); err != nil {
			return nil, fmt.Errorf("ProxyCommand: %w", err)
		}
	}
	text, err := expandPercent(cfg.ProxyCommand, tokens, false)
	if err != nil {
		return nil, fmt.Errorf("ProxyCommand: %w", err)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	u.verbose(1, "Executing proxy command: %s", text)
	p := &proxyCommand{exited: make(chan struct{})}
	p.cmd = exec.Command(userShell(), "-c", "exec "+text)
	p.cmd.Stderr = os.Stderr
	// A process group of its own: Ctrl-C at the terminal is for the remote
	// command, and ending it reaches what the shell has started.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.in, err = p.cmd.StdinPipe(); err == nil {
		p.out, err = p.cmd.StdoutPipe()
	}
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("ProxyCommand %q: %w", text, err)
	}
	addr := viaAddr(joinHostPort(cfg.HostName, cfg.Port))
	return &link{wire: newWire(p, viaAddr("proxy"), addr), proxy: p}, nil
}

func (p *proxyCommand) Read(b []byte) (int, error)  { return p.out.Read(b) }
func (p *proxyCommand) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close closes both pipes; the command is ended by end.
func (p *proxyCommand) Close() error {
	return ignoreClosed(errors.Join(p.in.Close(), p.out.Close()))
}

// end ends the command and reaps it.
func (p *proxyCommand) end() {
	p.once.Do(func() {
		_ = p.Close()
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGHUP)
		go func() {
			_ = p.cmd.Wait() // how it ended says nothing: it was told to
			close(p.exited)
		}()
		select {
		case <-p.exited:
		case <-time.After(proxyEndTime):
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.exited
		}
	})
}
