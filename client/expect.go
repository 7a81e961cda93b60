package client

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/SumiTomohiko/nexec/client/closure"
	"github.com/SumiTomohiko/nexec/fsyscall"
)

// expect fills in what the command is likely to use: what it used when it ran
// last, or else, of a program of this machine, what its start needs.
func (r *run) expect(e *fsyscall.Exec) {
	if r.cfg.Session.NoCache {
		return
	}
	view := r.cfg.Session.View
	r.worksets = openWorksets()
	r.keys = worksetKeys(view, r.cwd, r.cfg.Argv)
	e.Expected = r.worksets.load(r.keys)
	r.expected = e.Expected
	if len(e.Expected) == 0 && len(e.Argv) > 0 {
		uses := startOf(view, e)
		if runsGit(e.Argv) && fromHere(view, e.Cwd) {
			uses = append(uses, closure.Git(e.Cwd, homeOf(view))...)
		}
		e.Expected = fsyscall.PackUses(uses)
	}
}

// runsGit tells whether a command is git, or a script for a shell with git in it.
func runsGit(argv []string) bool {
	if path.Base(argv[0]) == "git" {
		return true
	}
	return len(argv) > 2 && gitWord.MatchString(strings.Join(argv[1:], " "))
}

var gitWord = regexp.MustCompile(`(^|[\s;&|({/])git\s`)

// homeOf is the user's directory if the view takes it from this machine.
func homeOf(view []fsyscall.ViewRule) string {
	if home := os.Getenv("HOME"); filepath.IsAbs(home) && fromHere(view, home) {
		return home
	}
	return ""
}

// remember keeps what the command used for the next time.
func (r *run) remember() {
	if r.exit != nil {
		r.worksets.store(r.keys, r.exit.Used, r.expected)
	}
}

// startOf returns what the start of a program needs that the view takes from
// this machine.
func startOf(view []fsyscall.ViewRule, e *fsyscall.Exec) []fsyscall.PathUse {
	program, search := e.Argv[0], os.Getenv("PATH")
	for _, v := range e.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			search = p
		}
	}
	if strings.Contains(program, "/") {
		if !filepath.IsAbs(program) {
			program = filepath.Join(e.Cwd, program)
		}
		if !fromHere(view, filepath.Clean(program)) {
			return nil
		}
	} else if !fromHere(view, "/usr") {
		return nil
	}
	return closure.Of(program, search)
}

// fromHere tells whether the view takes p from this machine.
func fromHere(view []fsyscall.ViewRule, p string) bool {
	var best fsyscall.ViewRule
	for _, r := range view {
		if len(r.Path) >= len(best.Path) && (r.Path == "/" || p == r.Path || strings.HasPrefix(p, r.Path+"/")) {
			best = r
		}
	}
	return best.Path != "" && !best.Remote
}
