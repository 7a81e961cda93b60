// Package view decides which side each path of a session comes from: the
// client, whose files the command works on, or the server, whose machine and
// applications it uses. It only computes: nothing here looks at a disk, so a
// path that is missing on the side it comes from stays missing.
package view

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Side is the machine that a path comes from.
type Side uint8

const (
	Local  Side = iota // the client: the machine nexec was typed on
	Remote             // the server
)

func (s Side) String() string {
	if s == Remote {
		return "remote"
	}
	return "local"
}

// Apps says which side applications come from.
type Apps uint8

const (
	AppsRemote Apps = iota // the server's /usr, /bin, /etc and so on
	AppsLocal              // the client's
)

// ParseApps reads the value of --apps.
func ParseApps(s string) (Apps, error) {
	switch s {
	case "remote":
		return AppsRemote, nil
	case "local":
		return AppsLocal, nil
	}
	return 0, fmt.Errorf("%q is neither remote nor local", s)
}

// kernelTrees come from the server whatever --apps says: what they show is
// the machine that the command runs on. /proc is made anew for each session.
var kernelTrees = [...]string{"/dev", "/proc", "/run", "/sys"}

// appTrees are where applications and their configuration live.
var appTrees = [...]string{
	"/bin", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/sbin", "/usr", "/var",
}

// Move takes one tree from the side named, as --remote and --local do.
type Move struct {
	Path   string // absolute; cleaned by New
	Side   Side
	Origin string // what asked for it, for Explain: "--remote", "config:12"
}

// View is a complete set of rules. It is immutable.
type View struct {
	rules []rule // sorted by path; the root first
}

type rule struct {
	path string
	side Side
	why  string
}

// ErrBadTree is wrapped by errors about a tree that cannot be moved.
var ErrBadTree = errors.New("cannot be moved")

// maxMoves keeps the rules within what a Hello message may carry.
const maxMoves = 512

// New builds a view. Where two moves name the same path the first one counts,
// so the command line comes before a configuration file.
func New(apps Apps, moves []Move) (*View, error) {
	if len(moves) > maxMoves {
		return nil, fmt.Errorf("%d trees %w: at most %d are allowed", len(moves), ErrBadTree, maxMoves)
	}
	byPath := map[string]rule{}
	for _, m := range moves {
		r, err := m.rule()
		if err != nil {
			return nil, err
		}
		if _, ok := byPath[r.path]; !ok {
			byPath[r.path] = r
		}
	}
	for _, r := range defaults(apps) {
		if _, ok := byPath[r.path]; !ok {
			byPath[r.path] = r
		}
	}
	v := &View{}
	for _, r := range byPath {
		v.rules = append(v.rules, r)
	}
	slices.SortFunc(v.rules, func(a, b rule) int { return cmp.Compare(a.path, b.path) })
	return v, nil
}

func defaults(apps Apps) []rule {
	rules := []rule{{"/", Local, "default: the root is this machine's"}}
	for _, t := range kernelTrees {
		why := "default: shows the machine that the command runs on"
		if t == "/proc" {
			why = "default: made for each session, shows its processes"
		}
		rules = append(rules, rule{t, Remote, why})
	}
	if apps == AppsRemote {
		for _, t := range appTrees {
			rules = append(rules, rule{t, Remote, "default: applications are the server's (--apps remote)"})
		}
	}
	return rules
}

func (m Move) rule() (rule, error) {
	if !path.IsAbs(m.Path) || len(m.Path) > fsyscall.MaxTarget || strings.IndexByte(m.Path, 0) >= 0 {
		return rule{}, fmt.Errorf("%s: %q %w: not an absolute path", m.Origin, m.Path, ErrBadTree)
	}
	p := path.Clean(m.Path)
	switch {
	case p == "/":
		return rule{}, fmt.Errorf("%s: / %w: the root of the view is this machine's, name single trees", m.Origin, ErrBadTree)
	case under(p, "/proc"):
		return rule{}, fmt.Errorf("%s: %s %w: /proc is made anew for each session", m.Origin, p, ErrBadTree)
	case m.Side == Local && (under(p, "/dev") || under(p, "/sys")):
		return rule{}, fmt.Errorf("%s: %s %w: devices are always the server's", m.Origin, p, ErrBadTree)
	}
	return rule{p, m.Side, fmt.Sprintf("%s %s", m.Origin, p)}, nil
}

// under tells whether p is tree or lies below it.
func under(p, tree string) bool {
	return p == tree || tree == "/" || strings.HasPrefix(p, tree) && p[len(tree)] == '/'
}

// Rules returns every rule for a Hello message, the root first.
func (v *View) Rules() []fsyscall.ViewRule {
	rules := make([]fsyscall.ViewRule, len(v.rules))
	for i, r := range v.rules {
		rules[i] = fsyscall.ViewRule{Path: r.path, Remote: r.side == Remote}
	}
	return rules
}

// Explanation tells where a path comes from.
type Explanation struct {
	Side Side
	Rule string // the path of the deciding rule
	Why  string // what made that rule
}

// Explain tells which side an absolute path comes from: the longest rule that
// is the path or lies above it decides. Symbolic links are not followed.
func (v *View) Explain(p string) (Explanation, error) {
	if !path.IsAbs(p) {
		return Explanation{}, fmt.Errorf("%q is not an absolute path", p)
	}
	p = path.Clean(p)
	var best rule
	for _, r := range v.rules {
		// Sorted by path, so of two rules above p the later one is longer.
		if under(p, r.path) {
			best = r
		}
	}
	return Explanation{best.side, best.path, best.why}, nil
}
