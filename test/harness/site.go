// Package harness starts throw-away servers with throw-away keys, and clients
// of them, for the end-to-end tests, the demonstration and the measurements.
// Everything of a [Site] lives in one directory, listens on loopback on a port
// that the kernel picked, and ends with Close. Nothing reads or writes ~/.ssh.
package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Site is one client with its configuration, and the servers it knows.
type Site struct {
	// Dir holds everything of the site. Client and Server are below it, so
	// that a server in a mount namespace of its own can have Client hidden.
	Dir, Client, Server string
	// Bin has the four commands.
	Bin string
	// Home is the client's home directory, Work a directory for a test's files.
	Home, Work string
	// Config is the ssh configuration that names the servers, Key the
	// client's identity.
	Config, Key string

	servers []*Process
	hosts   strings.Builder
}

// Bin returns the directory with the commands: $NEXEC_BIN.
func Bin() (string, error) {
	bin := os.Getenv("NEXEC_BIN")
	if bin == "" {
		return "", errors.New("NEXEC_BIN is not set: run `make e2e`, or build with `make` and set it to bin/")
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"nexec", "nexecd", "nexec-server", "fslave"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return "", fmt.Errorf("%w: run `make`", err)
		}
	}
	return bin, nil
}

// NewSite makes a site in a new directory below the default directory for
// temporary files.
func NewSite() (*Site, error) {
	bin, err := Bin()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "nexec-site-")
	if err != nil {
		return nil, err
	}
	s := &Site{
		Dir: dir, Bin: bin,
		Client: filepath.Join(dir, "client"), Server: filepath.Join(dir, "server"),
		Home: filepath.Join(dir, "client/home"), Work: filepath.Join(dir, "client/work"),
		Config: filepath.Join(dir, "client/ssh_config"), Key: filepath.Join(dir, "client/id"),
	}
	if err := s.fill(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *Site) fill() error {
	// Other users log in to a root's server: they must reach Client.
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{s.Client, s.Server, s.Home, s.Work, filepath.Join(s.Server, "tmp"), s.Caches(), filepath.Join(s.Client, "tmp")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{filepath.Join(s.Server, "tmp"), s.Caches()} {
		if err := os.Chmod(d, 0o1777); err != nil {
			return err
		}
	}
	authorized, err := writeKey(s.Key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Server, "authorized_keys"), authorized, 0o644); err != nil {
		return err
	}
	if _, err := writeKey(filepath.Join(s.Server, "hostkey")); err != nil {
		return err
	}
	return s.writeConfig()
}

// writeConfig writes the client's ssh configuration anew.
func (s *Site) writeConfig() error {
	text := s.hosts.String() + fmt.Sprintf(`Host *
  IdentityFile %s
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PreferredAuthentications publickey
`, s.Key, s.KnownHosts())
	return os.WriteFile(s.Config, []byte(text), 0o600)
}

// Caches is the directory with the servers' content caches, one for each user.
func (s *Site) Caches() string { return filepath.Join(s.Server, "caches") }

// KnownHosts is the file with the servers' host keys.
func (s *Site) KnownHosts() string { return filepath.Join(s.Client, "known_hosts") }

// AddHost lets the client know a server on a loopback port by an alias, with
// further lines of ssh configuration, and the host key that it shows.
func (s *Site) AddHost(alias string, port int, lines ...string) error {
	fmt.Fprintf(&s.hosts, "Host %s\n  HostName 127.0.0.1\n  Port %d\n", alias, port)
	for _, l := range lines {
		fmt.Fprintf(&s.hosts, "  %s\n", l)
	}
	public, err := os.ReadFile(filepath.Join(s.Server, "hostkey.pub"))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.KnownHosts(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "[127.0.0.1]:%d %s", port, public)
	return errors.Join(err, f.Close(), s.writeConfig())
}

// Env is the environment of the site's client: the caller's, with HOME and
// TMPDIR of the site and without a way to the caller's agent.
func (s *Site) Env() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "SSH_"), name == "HOME", name == "TMPDIR", name == "NEXEC_BIN":
		default:
			env = append(env, kv)
		}
	}
	return append(env, "HOME="+s.Home, "TMPDIR="+filepath.Join(s.Client, "tmp"), "NEXEC_CONFIG="+s.Config)
}

// Args puts the option before args that makes nexec and ssh use the site's
// configuration.
func (s *Site) Args(args ...string) []string {
	return append([]string{"-F", s.Config}, args...)
}

// Nexec returns a command that runs nexec with the site's configuration in
// the site's working directory.
func (s *Site) Nexec(ctx context.Context, args ...string) *exec.Cmd {
	return s.Command(ctx, filepath.Join(s.Bin, "nexec"), s.Args(args...)...)
}

// SSH is like Nexec for OpenSSH's ssh.
func (s *Site) SSH(ctx context.Context, args ...string) *exec.Cmd {
	return s.Command(ctx, "ssh", s.Args(args...)...)
}

// Command returns a command with the site's environment and directory. Ending
// the context kills it; what it leaves open does not hold Wait up for long.
func (s *Site) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = s.Work
	c.Env = s.Env()
	c.WaitDelay = 5 * time.Second
	return c
}

// Close ends the servers and removes the directory.
func (s *Site) Close() error {
	var errs []error
	for i := len(s.servers) - 1; i >= 0; i-- {
		errs = append(errs, s.servers[i].Stop())
	}
	// Programs make directories without permissions, among them those that
	// RemoveAll must enter.
	exec.Command("chmod", "-R", "u+rwX", s.Dir).Run()
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}
