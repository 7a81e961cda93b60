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

// foresee works out what the command is likely to use: what it used when it ran
// last, or else, of a program of this machine, what its start needs, and what git
// begins with. That takes a moment, during which the way to the server is made;
// foresaw is closed at its end.
func (r *run) foresee() {
	r.foresaw = make(chan struct{})
	if r.cfg.Session.NoCache {
		close(r.foresaw)
		return
	}
	p := Around(r.cwd)
	r.cfg.Session.Prefetch = func() Prefetch {
		<-r.foresaw
		return p
	}
	env := r.cfg.Env.Environment(os.Environ())
	go func() { // ends when some files have been looked at
		defer close(r.foresaw)
		r.worksets = openWorksets()
		r.keys = worksetKeys(r.cfg.Session.View, r.cwd, r.cfg.Argv)
		r.expected = r.worksets.load(r.keys)
		if len(r.expected) == 0 {
			r.expected = fsyscall.PackUses(r.firstUses(env))
		}
		if uses, err := fsyscall.UnpackUses(r.expected); err == nil {
			p.expecting(uses)
		}
	}()
}

// firstUses is what is known of a command that has not run before.
func (r *run) firstUses(env []string) []fsyscall.PathUse {
	view, argv := r.cfg.Session.View, r.cfg.Argv
	if len(argv) == 0 {
		return nil
	}
	uses := startOf(view, argv[0], r.cwd, env)
	if runsGit(argv) && fromHere(view, r.cwd) {
		uses = append(uses, closure.Git(r.cwd, homeOf(view))...)
	}
	return uses
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
func startOf(view []fsyscall.ViewRule, program, cwd string, env []string) []fsyscall.PathUse {
	search := os.Getenv("PATH")
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			search = p
		}
	}
	if strings.Contains(program, "/") {
		if !filepath.IsAbs(program) {
			program = filepath.Join(cwd, program)
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
