package dial

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

// Options say where to go and what the command line said about it.
type Options struct {
	// Destination is [user@]host[:port], [user@][v6address]:port or
	// ssh://[user@]host[:port].
	Destination string
	User        string   // -l; wins over the destination's
	Port        int      // -p; wins over the destination's
	ConfigFile  string   // -F; "none" reads no file at all
	Identities  []string // -i
	Jump        string   // -J
	Settings    []string // -o, in their order, as "Keyword=value" or "Keyword value"
	Verbose     int      // how often -v was given
	Quiet       bool     // -q

	// Prompt asks for secrets and for a yes; nil is a Terminal. It is not
	// asked when BatchMode is yes.
	Prompt Prompter
	// Stderr takes warnings, the server's banner and what the remote program
	// writes to its stderr, made printable; nil is os.Stderr.
	Stderr io.Writer

	// Home replaces the home directory of the password database, which is
	// what OpenSSH takes, whatever HOME says.
	Home string
	// SystemDir replaces /etc/ssh.
	SystemDir string

	depth int // how many jumps led here
}

// Prompter asks the user.
type Prompter interface {
	// Ask shows a question and returns the line typed. It returns
	// ErrCannotAsk when there is nobody to ask. Calls do not overlap.
	Ask(ctx context.Context, q Question) (string, error)
}

// Question is what a Prompter shows. Text ends as OpenSSH's does, so that the
// answer can be typed after it; whatever a server put into it is printable.
type Question struct {
	Text string
	Echo bool // the answer may be seen
	// Confirm: only yes or no is wanted.
	Confirm bool
}

func (o Options) stderr() io.Writer {
	if o.Stderr != nil {
		return o.Stderr
	}
	return os.Stderr
}

// Resolve reads the configuration for a destination without connecting.
func Resolve(ctx context.Context, o Options) (*Config, error) {
	t, err := parseTarget(o.Destination)
	if err == nil {
		err = t.check()
	}
	if err == nil {
		err = (target{host: "x", user: o.User}).check()
	}
	if err != nil {
		return nil, fmt.Errorf("destination %q: %w", o.Destination, err)
	}
	sysDir := o.SystemDir
	if sysDir == "" {
		sysDir = "/etc/ssh"
	}
	local, err := findLocalFacts(o.Home)
	if err != nil {
		return nil, err
	}
	newPass := func() (*resolver, error) {
		r := newResolver(local, sysDir, t.host)
		return r, r.commandLine(o, t)
	}
	r, err := newPass()
	if err != nil {
		return orAskSSH(ctx, err, o, t, newPass)
	}
	if err := r.resolve(ctx, o.ConfigFile); err != nil {
		return orAskSSH(ctx, err, o, t, newPass)
	}
	return r.buildConfig()
}

// commandLine applies what the command line said, which wins over all files.
func (r *resolver) commandLine(o Options, t target) error {
	b := &block{file: "command line", user: true, active: true}
	quoted := func(keyword, value string) error {
		if value == "" {
			return nil
		}
		return r.readLine(keyword+` "`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value)+`"`, b)
	}
	if o.Port != 0 {
		if err := quoted("port", fmt.Sprint(o.Port)); err != nil {
			return err
		}
	}
	if err := quoted("user", o.User); err != nil {
		return err
	}
	for _, file := range o.Identities {
		path, err := r.local.expandTilde(file)
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			fmt.Fprintf(o.stderr(), "Warning: Identity file %s not accessible: %v.\n", printable(file), reason(err))
			continue
		}
		if err := quoted(identityFileName, path); err != nil {
			return err
		}
	}
	if o.Jump != "" {
		if err := r.readLine("proxyjump "+o.Jump, b); err != nil {
			return fmt.Errorf("-J: %w", err)
		}
	}
	for _, s := range o.Settings {
		if err := r.setting(s); err != nil {
			return err
		}
	}
	if o.Verbose > 0 {
		r.set("loglevel", []string{"", "DEBUG", "DEBUG2", "DEBUG3"}[min(o.Verbose, 3)])
	}
	if o.Quiet {
		r.set("loglevel", "QUIET")
	}
	if err := quoted("user", t.user); err != nil {
		return err
	}
	if t.port != 0 {
		return quoted("port", fmt.Sprint(t.port))
	}
	return nil
}
