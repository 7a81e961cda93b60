package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sshTimeout bounds `ssh -G`, which may run Match exec commands.
const sshTimeout = execTimeout + 30*time.Second

// orAskSSH is for configurations that say something this package does not
// know: an OpenSSH client, if there is one, resolves them. Other mistakes in
// a configuration stay errors.
func orAskSSH(ctx context.Context, err error, o Options, t target, newPass func() (*resolver, error)) (*Config, error) {
	var bad *configError
	if !errors.As(err, &bad) || !bad.beyond {
		return nil, err
	}
	if o.SystemDir != "" || o.Home != "" {
		return nil, err // ssh would read other files
	}
	path, lookErr := exec.LookPath("ssh")
	if lookErr != nil {
		return nil, fmt.Errorf("%w (an OpenSSH client, were it installed, would be asked)", err)
	}
	out, err := runSSHG(ctx, path, o)
	if err != nil {
		return nil, err
	}
	local, err := findLocalFacts("")
	if err != nil {
		return nil, err
	}
	r := newResolver(local, "/etc/ssh", t.host)
	if err := r.readSSHG(out); err != nil {
		return nil, fmt.Errorf("output of ssh -G: %w", err)
	}
	return r.buildConfig()
}

// runSSHG runs `ssh -G` with the same command line.
func runSSHG(ctx context.Context, path string, o Options) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sshTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, sshArgs(o)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
		return nil, fmt.Errorf("ssh -G: %s: correct the configuration", printable(strings.TrimSpace(first)))
	}
	return out.Bytes(), nil
}

// sshArgs are the arguments with which ssh resolves the same destination.
func sshArgs(o Options) []string {
	args := []string{"-G"}
	add := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	add("-F", o.ConfigFile)
	if o.Port != 0 {
		add("-p", strconv.Itoa(o.Port))
	}
	add("-l", o.User)
	for _, i := range o.Identities {
		add("-i", i)
	}
	add("-J", o.Jump)
	for _, s := range o.Settings {
		add("-o", s)
	}
	for range min(o.Verbose, 3) {
		args = append(args, "-v")
	}
	if o.Quiet {
		args = append(args, "-q")
	}
	dest := o.Destination
	if t, err := parseTarget(dest); err == nil && !strings.HasPrefix(dest, "ssh://") {
		if o.Port == 0 && t.port != 0 { // ssh reads no port there
			args = append(args, "-p", strconv.Itoa(t.port))
		}
		t.port = 0
		if dest = t.host; t.user != "" {
			dest = t.user + "@" + t.host
		}
	}
	return append(args, "--", dest)
}

// readSSHG reads what ssh -G printed. Its lines are configuration lines, but
// unquoted; the host is resolved already. Keywords that are new to this
// package stand there with defaults too and cannot be told from those set, so
// they are passed over.
func (r *resolver) readSSHG(out []byte) error {
	b := &block{file: "ssh -G", user: true, active: true}
	for text := range strings.Lines(string(out)) {
		b.line++
		key, rest := splitKeyword(text)
		kw, ok := r.table[key]
		if !ok || key == "host" || strings.HasPrefix(key, "gssapi") {
			continue
		}
		switch {
		case key == "hostname":
			r.host = rest
			continue
		case key == "setenv": // one to a line, where a configuration has one line
			r.values[key] = append(r.values[key], rest)
			continue
		case already(key):
			rest = strings.ReplaceAll(rest, "%", "%%")
		}
		if kw.kind == kindString || kw.kind == kindAppend || key == "identityagent" {
			rest = quoteArg(rest)
		}
		if err := r.readLine(key+" "+rest, b); err != nil {
			return err
		}
	}
	r.dropDefaults()
	return nil
}

// dropDefaults takes the identity files that ssh tries by default for what
// they are: not named by the user.
func (r *resolver) dropDefaults() {
	def := append(defaultIdentities(), "~/.ssh/id_xmss", "~/.ssh/id_dsa")
	for _, file := range r.values[identityFileName] {
		if !slices.Contains(def, file) {
			return
		}
	}
	delete(r.values, identityFileName)
}

// already reports whether ssh -G prints a keyword with its tokens replaced.
func already(key string) bool {
	switch key {
	case "userknownhostsfile", "controlpath", "identityagent":
		return true
	}
	return false
}

func quoteArg(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
