package subsystem

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Policy is what the front door, having authenticated the user, allows the
// session. It arrives as one JSON object on an inherited descriptor. The zero
// value allows what the user's account can do.
//
// A policy that restricts the commands makes the session a restricted one:
// applications must come from the server, without exception, and of the
// client's environment only what names a terminal, a language and a time zone
// is kept. Otherwise the client could put its own programs, libraries or
// settings in place of those the administrator chose.
type Policy struct {
	// ForcedCommand is run by the login shell with -c, whatever was asked
	// for; the request is in SSH_ORIGINAL_COMMAND. It is a command line for
	// the server, and so all that it can name is the server's: the directories
	// of the server's root cover the client's, and it runs in the account's
	// home. Only its standard streams are the client's.
	ForcedCommand string `json:"forced_command,omitempty"`
	// Allowed maps the only names that may be run to programs of the server.
	// Present but empty, it allows none.
	Allowed map[string]string `json:"allowed,omitempty"`
	// Environment is set for every command, over the client's.
	Environment map[string]string `json:"environment,omitempty"`
	// NoPTY refuses commands that want a terminal.
	NoPTY bool `json:"no_pty,omitempty"`
}

// maxPolicy bounds the document: a few hundred commands.
const maxPolicy = 1 << 20

// ReadPolicy reads a policy. What it does not understand is an error: an
// option that is not enforced must not pass for one that is.
func ReadPolicy(r io.Reader) (*Policy, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPolicy+1))
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	if len(b) > maxPolicy {
		return nil, fmt.Errorf("the policy is larger than %d bytes", maxPolicy)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	p := &Policy{}
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("read the policy: something follows the JSON object")
	}
	return p, p.check()
}

func (p *Policy) check() error {
	for name, path := range p.Allowed {
		if name == "" || strings.Contains(name, "/") || !strings.HasPrefix(path, "/") {
			return fmt.Errorf("the policy allows %q as %q: a name without slash and an absolute path are needed", name, path)
		}
	}
	for name, value := range p.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return fmt.Errorf("the policy sets the variable %q, which cannot be", name)
		}
	}
	return nil
}

// restricts tells whether the session's commands are the administrator's.
func (p *Policy) restricts() bool { return p.ForcedCommand != "" || p.Allowed != nil }

// applicationTrees are those that a restricted session needs from the server.
var applicationTrees = [...]string{"/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr"}

// checkView returns what is wrong with the client's view under this policy,
// empty if nothing.
func (p *Policy) checkView(rules []fsyscall.ViewRule) string {
	if !p.restricts() {
		return ""
	}
	for _, r := range rules {
		if !r.Remote && r.Path != "/" {
			return "this account's commands are fixed, so --local and --apps local are not allowed: " + r.Path
		}
	}
	for _, tree := range applicationTrees {
		if !slices.Contains(rules, fsyscall.ViewRule{Path: tree, Remote: true}) {
			return "this account's commands are fixed, so applications must be the server's (--apps remote): " + tree
		}
	}
	return ""
}

// forcedView is the view of a forced command: every directory of the server's
// root, also those with homes and temporary files.
func forcedView() ([]fsyscall.ViewRule, error) {
	entries, err := os.ReadDir("/")
	if err != nil {
		return nil, err
	}
	rules := []fsyscall.ViewRule{{Path: "/"}}
	for _, e := range entries {
		if e.IsDir() || e.Type() == os.ModeSymlink {
			rules = append(rules, fsyscall.ViewRule{Path: "/" + e.Name(), Remote: true})
		}
	}
	return rules, nil
}

// maxLinks is how many symbolic links the kernel follows.
const maxLinks = 40

// onServer tells whether a program is the server's in a view, and so is every
// symbolic link on the way to it. Whole directories of the root must be: what
// a program needs lies beside it.
func onServer(program string, remote func(string) bool) bool {
	p := filepath.Clean(program)
	for range maxLinks {
		end := strings.IndexByte(p[1:], '/') + 1
		if end == 0 || !remote(p[:end]) {
			return false
		}
		next, err := firstLink(p)
		if next == "" || err != nil {
			return err == nil
		}
		p = next
	}
	return false
}

// firstLink replaces the first symbolic link in an absolute path by what it
// leads to. It returns nothing when there is none.
func firstLink(p string) (string, error) {
	for at := 1; at <= len(p); at++ {
		if at < len(p) && p[at] != '/' {
			continue
		}
		st, err := os.Lstat(p[:at])
		if err != nil {
			return "", err
		}
		if st.Mode().Type() != os.ModeSymlink {
			continue
		}
		to, err := os.Readlink(p[:at])
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(p[:at]), to)
		}
		return filepath.Join(to, p[at:]), nil
	}
	return "", nil
}

// apply turns the request into what is run, or refuses it with an errno.
// remote tells which paths of the view are the server's.
func (p *Policy) apply(x *fsyscall.Exec, l login, remote func(string) bool) fsyscall.Errno {
	const eperm = 1
	if p.NoPTY && x.HasTerminal {
		return eperm
	}
	if p.ForcedCommand != "" {
		x.Argv, x.Cwd = []string{l.shell, "-c", p.ForcedCommand}, "/"
		if unix.Access(l.home, unix.X_OK) == nil { // as sshd, which stays in / without it
			x.Cwd = l.home
		}
		return 0
	}
	if p.Allowed == nil {
		return 0
	}
	if len(x.Argv) == 0 {
		return eperm
	}
	path, ok := p.Allowed[x.Argv[0]]
	if !ok || !onServer(path, remote) { // else the client could bring its own
		return eperm
	}
	x.Argv = append([]string{path}, x.Argv[1:]...)
	return 0
}
