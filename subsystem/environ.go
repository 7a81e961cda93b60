package subsystem

import (
	"os"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// searchPath returns where commands are looked for: the server's PATH.
func searchPath(environ []string, root bool) string {
	if p := lookup(environ, "PATH"); p != "" {
		return p
	}
	if root {
		return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return "/usr/local/bin:/usr/bin:/bin"
}

func lookup(env []string, name string) string {
	for _, e := range env {
		if n, v, ok := strings.Cut(e, "="); ok && n == name {
			return v
		}
	}
	return ""
}

// login is the account that the session runs as.
type login struct {
	uid, gid uint32
	name     string // login name on the server
	shell    string
	home     string // on the server
	path     string
}

// environment returns a command's environment: the client's, with what belongs
// to the server put in its place.
//
//   - PATH is the server's, unless the client sends one: it does so where
//     applications are its own, or where its user asked for that with -e;
//   - USER and LOGNAME name the account that the command runs as, and so agree
//     with id(1) and /etc/passwd; HOME stays the client's, where its files are;
//   - SHELL stays the client's where the view has that program, else it is the
//     account's;
//   - SSH_AUTH_SOCK is where the view has a forwarded agent, if there is one;
//   - what the policy sets comes last.
func (s *session) environment(x *fsyscall.Exec, requested []string) []string {
	env := x.Env
	if s.policy.restricts() {
		env = harmless(env)
	}
	own := map[string]string{"USER": s.login.name, "LOGNAME": s.login.name}
	if lookup(env, "PATH") == "" {
		own["PATH"] = s.login.path
	}
	switch {
	case s.policy.ForcedCommand != "":
		own["HOME"] = s.login.home
		if len(requested) > 0 {
			own["SSH_ORIGINAL_COMMAND"] = quoted(requested)
		}
	case lookup(env, "HOME") == "":
		own["HOME"] = s.hello.Home
	}
	if shell := lookup(env, "SHELL"); shell == "" || s.plan.Remote(shell) && !executable(shell) {
		own["SHELL"] = s.login.shell
	}
	if lookup(s.opts.Environ, agentVariable) != "" {
		own[agentVariable] = namespace.AgentPath
	}
	for n, v := range s.policy.Environment {
		own[n] = v
	}
	return override(env, own)
}

// agentVariable names the socket of an agent that the client forwards to the
// front door.
const agentVariable = "SSH_AUTH_SOCK"

// override replaces and adds variables; added ones come sorted.
func override(env []string, own map[string]string) []string {
	var out []string
	for _, e := range env {
		n, _, _ := strings.Cut(e, "=")
		if _, replaced := own[n]; !replaced {
			out = append(out, e)
		}
	}
	var names []string
	for n := range own {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		out = append(out, n+"="+own[n])
	}
	return out
}

// harmless keeps the variables that cannot make a program run or read
// something else than it would.
func harmless(env []string) []string {
	var out []string
	for _, e := range env {
		n, v, ok := strings.Cut(e, "=")
		switch {
		case !ok || strings.ContainsAny(v, "/%\n") && n != "TERM" && n != "TZ":
			// Terminal, locale and time zone names may be paths of files to load.
		case strings.ContainsAny(v, "/"):
			if n == "TZ" && !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, ":") && !strings.Contains(v, "..") {
				out = append(out, e) // Europe/Berlin
			}
		case n == "TERM", n == "COLORTERM", n == "LANG", n == "LANGUAGE", n == "TZ", n == "NO_COLOR", strings.HasPrefix(n, "LC_"):
			out = append(out, e)
		}
	}
	return out
}

// quoted joins words so that a shell would split them again, as
// SSH_ORIGINAL_COMMAND is read.
func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		safe := w != "" && !strings.ContainsFunc(w, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-+=./,:@%^", r))
		})
		if out[i] = w; !safe {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}
