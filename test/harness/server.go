package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a server that was started.
type Process struct {
	Port int
	PID  int
	Log  *Buffer // what it wrote to its standard error

	cmd  *exec.Cmd
	done chan struct{}
	once sync.Once
}

// Buffer is a bytes.Buffer for several goroutines.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// ServerOptions says how a server is started.
type ServerOptions struct {
	// Alias is the host's name in the client's configuration.
	Alias string
	// Config has further lines of the server's configuration.
	Config []string
	// Host has further lines of the client's configuration for this host.
	Host []string
	// Script, if not empty, makes the server run in a mount namespace of its
	// own, which the script (sh) prepares. This needs root.
	Script string
	// Attr, if not nil, is how the process (of the script, if there is one)
	// is made: in which new namespaces.
	Attr *syscall.SysProcAttr
}

// StartNexecd starts an nexecd with the site's host key and authorized keys.
func (s *Site) StartNexecd(o ServerOptions) (*Process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	lines := append([]string{
		"ListenAddress 127.0.0.1",
		fmt.Sprintf("Port %d", port),
		"HostKey " + filepath.Join(s.Server, "hostkey"),
		"AuthorizedKeysFile " + filepath.Join(s.Server, "authorized_keys"),
		// The site lies below /tmp, which everybody may write.
		"StrictModes no",
		"PermitRootLogin prohibit-password",
		// Tests open many connections at once, and some are cut.
		"MaxStartups 200:30:400",
		"PerSourcePenalties no",
		"Subsystem nexec " + s.subsystem(),
	}, o.Config...)
	config, err := s.writeServerConfig("nexecd-"+o.Alias, lines)
	if err != nil {
		return nil, err
	}
	return s.startServer(o, port, filepath.Join(s.Bin, "nexecd"), "-D", "-e", "-f", config)
}

// subsystem is the command for a session, with the caches of all users in the
// site's directory.
func (s *Site) subsystem() string {
	return filepath.Join(s.Bin, "nexec-server") + " --cache-dir " + s.Caches()
}

// NoProfile keeps a login shell that is bash from reading ~/.bashrc, as it does
// for sshd's commands unless it is another shell's: whatever the account that the
// tests run in has there, it is not what they are about, and it may take a
// second. It is a variable for SetEnv, of which sshd takes the first line only.
const NoProfile = "SHLVL=1"

// StartSSHD starts OpenSSH's sshd with a `Subsystem nexec` line. A SetEnv in
// o.Config replaces that with NoProfile.
func (s *Site) StartSSHD(o ServerOptions) (*Process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		// Where sshd separates privileges; Debian's unit file makes it.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	lines := append([]string{
		"ListenAddress 127.0.0.1",
		fmt.Sprintf("Port %d", port),
		"HostKey " + filepath.Join(s.Server, "hostkey"),
		"AuthorizedKeysFile " + filepath.Join(s.Server, "authorized_keys"),
		"PidFile none",
		"StrictModes no",
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password",
		"MaxStartups 200:30:400",
		"Subsystem nexec " + s.subsystem(),
	}, o.Config...)
	lines = append(lines, "SetEnv "+NoProfile)
	config, err := s.writeServerConfig("sshd-"+o.Alias, lines)
	if err != nil {
		return nil, err
	}
	return s.startServer(o, port, "/usr/sbin/sshd", "-D", "-e", "-f", config)
}

func (s *Site) writeServerConfig(name string, lines []string) (string, error) {
	var text bytes.Buffer
	for _, l := range lines {
		fmt.Fprintln(&text, l)
	}
	path := filepath.Join(s.Server, name+".conf")
	return path, os.WriteFile(path, text.Bytes(), 0o644)
}

func (s *Site) startServer(o ServerOptions, port int, argv ...string) (*Process, error) {
	if o.Script != "" {
		argv = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", o.Script + "\nexec \"$@\"", "sh"}, argv...)
	}
	p := &Process{Port: port, Log: &Buffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(s.Env(), "TMPDIR="+filepath.Join(s.Server, "tmp"), "XDG_RUNTIME_DIR=", "XDG_STATE_HOME="+s.Server, "XDG_CACHE_HOME="+s.Server)
	p.cmd.Dir = s.Server
	p.cmd.Stderr = p.Log
	p.cmd.Stdout = p.Log
	p.cmd.SysProcAttr = o.Attr
	p.cmd.WaitDelay = 2 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	if err := p.waitForPort(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w; it said:\n%s", argv[0], err, p.Log), p.Stop())
	}
	s.servers = append(s.servers, p)
	return p, s.AddHost(o.Alias, port, o.Host...)
}

func (p *Process) waitForPort() error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		select {
		case <-p.done:
			return errors.New("it ended at once")
		default:
		}
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Port))
		if err == nil {
			return c.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("it does not listen after 10 s")
}

// Stop ends the server, hard if it does not obey, and waits for it.
func (p *Process) Stop() error {
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			p.cmd.Process.Kill()
			<-p.done
		}
	})
	<-p.done
	return nil
}

// Kill ends the server with SIGKILL and waits for it.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Done is closed when the server has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// freePort returns a TCP port of loopback that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// Logs returns what each server wrote.
func (s *Site) Logs() []string {
	var logs []string
	for _, p := range s.servers {
		logs = append(logs, p.Log.String())
	}
	return logs
}
