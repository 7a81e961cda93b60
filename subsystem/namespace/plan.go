package namespace

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Tree is one tree of the view that is not from the side of what is above it.
type Tree struct {
	Path string // in the view, and on the side it comes from
	// Remote: the server's tree over the client's. Otherwise the client's
	// over the server's.
	Remote bool
	// Dir and Missing describe a remote tree on the server. A tree that is
	// missing still is a tree where a local one lies below it.
	Dir, Missing bool
}

// Plan says what to mount to make a view. Trees are sorted by path, so what is
// above comes first.
type Plan struct {
	Trees []Tree

	rules  []fsyscall.ViewRule
	hidden []string
	links  map[string]string
}

// Remote tells whether a path of the view comes from the server.
func (p *Plan) Remote(path string) bool { return sideOf(p.rules, path) }

// ErrBadRules is wrapped by NewPlan's errors: the peer sent rules that no view
// can have.
var ErrBadRules = errors.New("unusable view")

// NewPlan compares the client's rules with what exists on the server. /proc
// and the trees below it are left to the session's own /proc.
func NewPlan(rules []fsyscall.ViewRule) (*Plan, error) {
	rules, err := checkRules(rules)
	if err != nil {
		return nil, err
	}
	p := &Plan{rules: rules, links: make(map[string]string)}
	for _, r := range rules[1:] {
		if below(r.Path, "/proc") || sideOf(rules, path.Dir(r.Path)) == r.Remote {
			continue
		}
		t := Tree{Path: r.Path, Remote: r.Remote}
		if r.Remote {
			if text, ok := linkTo(rules, r.Path); ok {
				p.links[r.Path] = text
				continue
			}
			st, err := os.Stat(r.Path)
			switch {
			case err == nil:
				t.Dir = st.IsDir()
			case hasLocalBelow(rules, r.Path):
				t.Missing, t.Dir = true, true
			default: // whatever the reason, there is nothing to mount
				p.hidden = append(p.hidden, r.Path)
				continue
			}
		}
		p.Trees = append(p.Trees, t)
	}
	return p, nil
}

// linkTo returns the text of the server's symbolic link at the path of a tree,
// such as /bin on a system with a merged /usr. It is not ok where the tree has
// to be mounted instead: it is no link, what the view has at the other end is
// not, or not wholly, the server's, or the session mounts something below.
func linkTo(rules []fsyscall.ViewRule, tree string) (text string, ok bool) {
	text, err := os.Readlink(tree)
	if err != nil || below(tree, "/dev") || below(tree, "/etc") || hasLocalBelow(rules, tree) {
		return "", false
	}
	end, err := filepath.EvalSymlinks(tree)
	if err != nil {
		return "", false
	}
	next := text
	if !path.IsAbs(next) {
		next = path.Join(path.Dir(tree), next)
	}
	for _, p := range []string{path.Clean(next), end} {
		if !sideOf(rules, p) || hasLocalBelow(rules, p) || below(p, "/proc") {
			return "", false
		}
	}
	return text, true
}

func checkRules(rules []fsyscall.ViewRule) ([]fsyscall.ViewRule, error) {
	rules = slices.Clone(rules)
	slices.SortFunc(rules, func(a, b fsyscall.ViewRule) int { return strings.Compare(a.Path, b.Path) })
	if len(rules) == 0 || rules[0].Path != "/" || rules[0].Remote {
		return nil, fmt.Errorf("%w: the root is not the client's", ErrBadRules)
	}
	for i, r := range rules {
		if !path.IsAbs(r.Path) || path.Clean(r.Path) != r.Path || strings.IndexByte(r.Path, 0) >= 0 {
			return nil, fmt.Errorf("%w: %q is not a clean absolute path", ErrBadRules, r.Path)
		}
		if i > 0 && rules[i-1].Path == r.Path {
			return nil, fmt.Errorf("%w: two rules for %q", ErrBadRules, r.Path)
		}
	}
	return rules, nil
}

// sideOf tells whether p is the server's: the longest rule that is p or above
// it decides.
func sideOf(rules []fsyscall.ViewRule, p string) (remote bool) {
	best := -1
	for _, r := range rules {
		if below(p, r.Path) && len(r.Path) > best {
			best, remote = len(r.Path), r.Remote
		}
	}
	return remote
}

func hasLocalBelow(rules []fsyscall.ViewRule, p string) bool {
	return slices.ContainsFunc(rules, func(r fsyscall.ViewRule) bool { return !r.Remote && r.Path != p && below(r.Path, p) })
}

// below tells whether p is tree or lies below it.
func below(p, tree string) bool {
	return p == tree || tree == "/" || strings.HasPrefix(p, tree) && p[len(tree)] == '/'
}

// Mountpoints returns the paths of the view that fmaster must have for the
// plan; the value tells whether the path is a directory. All that is below
// such a path is the server's. A tree that has one of the client's below it
// therefore is not named itself, but as the directory above another mount
// point: it exists then, and what the client has in it can be reached.
func (p *Plan) Mountpoints() map[string]bool {
	m := map[string]bool{"/proc": true}
	for _, t := range p.Trees {
		switch {
		case !t.Remote:
		case hasLocalBelow(p.rules, t.Path):
			m[t.Path+"/"+placeholder] = true
		default:
			m[t.Path] = t.Dir
		}
	}
	return m
}

// Hidden returns the trees that the view takes from the server and that the
// server does not have. Nothing is mounted there: fmaster must answer ENOENT.
func (p *Plan) Hidden() []string { return p.hidden }

// Links returns the trees that are symbolic links on the server and can be so in
// the view, with their texts. Nothing is mounted there: fmaster must have them.
func (p *Plan) Links() map[string]string { return p.links }

// placeholder is a name in a directory that will be covered.
const placeholder = ".nexec-mounts"

func (p *Plan) encode(e *encoder) {
	e.u32(uint32(len(p.Trees)))
	for _, t := range p.Trees {
		e.string(t.Path)
		e.bool(t.Remote)
		e.bool(t.Dir)
		e.bool(t.Missing)
	}
}

func decodePlan(d *decoder) *Plan {
	p := &Plan{}
	n := int(d.u32())
	for range min(n, len(d.b)) {
		p.Trees = append(p.Trees, Tree{Path: d.string(), Remote: d.bool(), Dir: d.bool(), Missing: d.bool()})
	}
	return p
}
