package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/dial"
)

// splitCommand splits the value of --ssh into words as rsync splits its -e:
// at spaces, except within quotes of either kind.
func splitCommand(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, within := rune(0), false
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, within = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if within {
				words = append(words, word.String())
				word.Reset()
			}
			within = false
		default:
			word.WriteRune(r)
			within = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if within {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("the command is empty")
	}
	return words, nil
}

// sshArguments is the ssh-like command that reaches the subsystem.
func (o *options) sshArguments() ([]string, error) {
	args, err := splitCommand(o.ssh)
	if err != nil {
		return nil, badValue("--ssh", o.ssh, err.Error())
	}
	return o.sshOptions(args), nil
}

// clockSSH is the ssh that carries a session for which the configuration has
// keys renewed by the clock, which x/crypto cannot do: OpenSSH's, doing
// nothing that nexec itself would not do with the same configuration. It is
// nil where that is not so, or there is none to run.
func (o *options) clockSSH(cfg *dial.Config) []string {
	if cfg.RekeyInterval == 0 {
		return nil
	}
	path, err := exec.LookPath("ssh")
	if err != nil {
		return nil
	}
	args := []string{path, "-T"}
	for _, s := range []string{"ControlMaster=no", "ClearAllForwardings=yes", "ForwardX11=no", "Tunnel=no", "PermitLocalCommand=no"} {
		args = append(args, "-o", s)
	}
	// Not every ssh knows these, but one that is told them does.
	for _, s := range []string{"RemoteCommand=none", "StdinNull=no", "ForkAfterAuthentication=no"} {
		if name, _, _ := strings.Cut(s, "="); cfg.Value(name) != nil {
			args = append(args, "-o", s)
		}
	}
	return o.sshOptions(args)
}

// sshOptions adds to an ssh-like command what was said on the command line.
// ssh goes by the order; that of dial's own reader is -l and -p first, and
// what stands in the destination last.
func (o *options) sshOptions(args []string) []string {
	add := func(option, value string) {
		if value != "" {
			args = append(args, option, value)
		}
	}
	for range o.verbose {
		args = append(args, "-v")
	}
	if o.quiet {
		args = append(args, "-q")
	}
	addPort := func(n int) {
		if n != 0 {
			add("-p", strconv.Itoa(n))
		}
	}
	add("-F", o.configFile)
	addPort(o.port)
	add("-l", o.user)
	add("-J", o.jump)
	for _, v := range o.identities {
		add("-i", v)
	}
	for _, v := range o.settings {
		add("-o", v)
	}
	if o.port == 0 {
		addPort(o.dest.port)
	}
	if o.user == "" {
		add("-l", o.dest.user)
	}
	return append(args, "-s", o.dest.host, "nexec")
}

// sshCommand is an ssh-like command whose standard input and output are the
// byte stream.
type sshCommand struct {
	args []string
	// background: it outlives the command that it was started for, and so can
	// neither ask at its terminal nor write there.
	background bool
	settings   *sshSettings // nil: the command keeps its configuration to itself
	cmd        *exec.Cmd    // nil until it runs
}

// sshGrace is how long the command may take to end when its streams have: it
// has nothing left to do that anybody waits for.
const sshGrace = 100 * time.Millisecond

// open starts the command. It is a client.Opener.
func (c *sshCommand) open(context.Context) (io.ReadWriteCloser, error) {
	if _, err := exec.LookPath(c.args[0]); err != nil {
		return nil, sshMissing(c.args[0], err)
	}
	// Keys typed at the terminal are for the command on the server and must
	// not end the connection to it. What a process ignores its children
	// ignore as well, but Go resets what it caught before.
	shield := []string{"-c", `trap "" INT QUIT TSTP; exec "$@"`, "sh"}
	cmd := exec.Command("/bin/sh", append(shield, c.args...)...)
	if c.background {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		cmd.Stderr = os.Stderr
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, sshMissing(c.args[0], err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, sshMissing(c.args[0], err)
	}
	if err := cmd.Start(); err != nil {
		return nil, sshMissing(c.args[0], err)
	}
	c.cmd = cmd
	return &sshStream{in, out}, nil
}

// further: an ssh that was started for one subsystem carries nothing else.
func (c *sshCommand) further() client.Opener { return nil }

func (c *sshCommand) name() string { return c.args[0] }

func (c *sshCommand) config() *dial.Config { return c.settings.config() }

func (c *sshCommand) refine(cfg *client.Config) { c.settings.refine(cfg) }

// wait ends the command, whose byte stream must be closed, and returns how it
// ended.
func (c *sshCommand) wait() error {
	if c.cmd == nil {
		return nil
	}
	term := time.AfterFunc(sshGrace, func() { _ = c.cmd.Process.Signal(unix.SIGTERM) })
	kill := time.AfterFunc(20*sshGrace, func() { _ = c.cmd.Process.Kill() })
	defer term.Stop()
	defer kill.Stop()
	return c.cmd.Wait()
}

// sshStream is the byte stream of an ssh-like command.
type sshStream struct {
	io.WriteCloser
	io.Reader
}

func (s *sshStream) Close() error {
	return errors.Join(s.WriteCloser.Close(), s.Reader.(io.Closer).Close())
}
