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
	port, user := o.dest.port, o.dest.user
	if o.port != 0 {
		port = o.port
	}
	if o.user != "" {
		user = o.user
	}
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
	add("-F", o.configFile)
	add("-J", o.jump)
	for _, v := range o.identities {
		add("-i", v)
	}
	for _, v := range o.settings {
		add("-o", v)
	}
	if port != 0 {
		add("-p", strconv.Itoa(port))
	}
	add("-l", user)
	return append(args, "-s", o.dest.host, "nexec"), nil
}

// sshCommand is an ssh-like command whose standard input and output are the
// byte stream.
type sshCommand struct {
	args []string
	// background: it outlives the command that it was started for, and so can
	// neither ask at its terminal nor write there.
	background bool
	cmd        *exec.Cmd // nil until it runs
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

func (c *sshCommand) config() *dial.Config { return nil }

// refine: an ssh-like command keeps its configuration to itself.
func (c *sshCommand) refine(*client.Config) {}

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
