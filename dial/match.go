package dial

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/keys"
)

// hostLine reads a Host line: the block applies when a pattern matches and no
// negated one does.
func (r *resolver) hostLine(l *line) error {
	l.active = false
	for l.used < len(l.args) {
		pattern, err := l.next()
		if err != nil {
			return err
		}
		if l.never {
			l.used = len(l.args)
			return nil
		}
		negated := strings.HasPrefix(pattern, "!")
		if !keys.MatchPattern(r.host, strings.TrimPrefix(pattern, "!")) {
			continue
		}
		l.active = !negated
		if negated {
			l.used = len(l.args)
			return nil
		}
	}
	return nil
}

// matchLine reads a Match line. Every criterion is checked for being one,
// also after one has failed.
func (r *resolver) matchLine(l *line) error {
	l.used = len(l.args)
	matched, rest, criteria := true, l.rest, 0
	for {
		word, after, ok := nextDelim(rest)
		if !ok && rest != "" {
			return l.at(0).errorf("invalid quotes: close the quote")
		}
		if !ok || word == "" || strings.HasPrefix(word, "#") {
			break
		}
		rest = after
		name := strings.ToLower(strings.TrimPrefix(word, "!"))
		negated := strings.HasPrefix(word, "!")
		if name == "all" {
			if next, _, _ := nextDelim(rest); criteria > 1 || (next != "" && !strings.HasPrefix(next, "#")) {
				return l.at(0).errorf("Match all cannot be combined with other criteria: remove it or them")
			}
			l.active = matched && !negated && !l.never
			return nil
		}
		criteria++
		if name == "canonical" || name == "final" {
			r.again = r.again || name == "final"
			matched = matched && r.final != negated
			continue
		}
		arg, after, ok := nextDelim(rest)
		if !ok || arg == "" || strings.HasPrefix(arg, "#") {
			return l.at(0).errorf("Match %s has no argument: say what to match", name)
		}
		rest = after
		hit, err := r.criterion(l, name, arg, matched && !l.never)
		if err != nil {
			return err
		}
		matched = matched && hit != negated
	}
	if criteria == 0 {
		return l.at(0).errorf("Match has no criteria: use Match all")
	}
	l.active = matched && !l.never
	return nil
}

// criterion evaluates one Match criterion; exec runs only if live.
func (r *resolver) criterion(l *line, name, arg string, live bool) (bool, error) {
	switch name {
	case "host":
		return keys.MatchList(strings.ToLower(r.hostNow()), arg, true) > 0, nil
	case "originalhost":
		return keys.MatchList(strings.ToLower(r.typed), arg, true) > 0, nil
	case "user":
		return keys.MatchList(r.userNow(), arg, false) > 0, nil
	case "localuser":
		return keys.MatchList(r.local.user, arg, false) > 0, nil
	case "exec":
		return r.execCriterion(l, arg, live)
	}
	err := l.at(0).errorf("Match %s is not understood without OpenSSH's client: install it, or use Host, or Match with all, host, originalhost, user, localuser, exec, canonical or final", name)
	err.beyond = true
	return false, err
}

// hostNow and userNow are the host and user as far as the files have said.
func (r *resolver) hostNow() string {
	name := r.first("hostname")
	switch {
	case name == "":
		return r.host
	case r.final:
		return name
	}
	if s, err := expandPercent(name, map[byte]string{'h': r.host}, false); err == nil {
		return s
	}
	return name
}

func (r *resolver) userNow() string {
	if u := r.first("user"); u != "" {
		return u
	}
	return r.local.user
}

func (r *resolver) execCriterion(l *line, arg string, live bool) (bool, error) {
	host := r.hostNow()
	port := r.first("port")
	if port == "" {
		port = "22"
	}
	alias := r.first("hostkeyalias")
	if alias == "" {
		alias = host
	}
	jump := ""
	if j := r.values["proxyjump"]; len(j) > 0 && j[0] != "none" {
		jump = j[0]
	}
	tokens := r.local.tokens(connFacts{host: host, typed: r.typed, port: port, user: r.userNow(), keyAlias: alias, jump: jump})
	command, err := expandPercent(arg, tokens, false)
	if err != nil {
		return false, l.at(0).errorf("Match exec: %v", err)
	}
	if !live {
		return false, nil
	}
	status, err := r.execs(command)
	if err != nil {
		return false, l.at(0).errorf("Match exec %q: %v", command, err)
	}
	return status == 0, nil
}

// execTimeout ends a Match exec command that does not end. OpenSSH would wait
// for ever.
const execTimeout = 5 * time.Minute

// runExec runs a Match exec command as OpenSSH does: by the user's shell,
// with no input and no output but stderr.
func (r *resolver) runExec(command string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, userShell(), "-c", command)
	cmd.Stderr = os.Stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 0, err
	}
	if !cmd.ProcessState.Exited() {
		return 0, fmt.Errorf("the command ended abnormally: %v: correct it", cmd.ProcessState)
	}
	return cmd.ProcessState.ExitCode(), nil
}

func userShell() string {
	if sh := os.Getenv("SHELL"); sh != "" {
		return sh
	}
	return "/bin/sh"
}
