package fslave

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Mode is what the export policy lets the server do with a path.
type Mode uint8

const (
	// ModeHide: the path does not exist as far as the server can tell.
	ModeHide Mode = iota
	// ModeBare: a directory that only leads to exports. It can be listed, and
	// what it shows are the names on the way to them.
	ModeBare
	// ModeReadOnly: everything but changes.
	ModeReadOnly
	// ModeReadWrite: whatever the user may do.
	ModeReadWrite
)

func (m Mode) String() string {
	switch m {
	case ModeHide:
		return "hide"
	case ModeBare:
		return "bare"
	case ModeReadOnly:
		return "ro"
	case ModeReadWrite:
		return "rw"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Rule gives a mode to a path and all below it that no longer rule covers.
// Paths are compared byte by byte.
type Rule struct {
	Path   string // absolute and clean
	Mode   Mode   // hide, ro or rw
	Reason string // one line, for --explain
	// User: the rule was given by the user and beats a default for the same
	// path.
	User bool
}

func (r Rule) String() string { return r.Path + ":" + r.Mode.String() }

// ErrRule is wrapped by every error that ParseRule returns.
var ErrRule = errors.New("bad export rule")

// ParseRule reads PATH[:rw|ro|hide], the argument of --export. A relative
// path is taken from cwd, "~" from home; without a mode it is rw.
func ParseRule(s, home, cwd string) (Rule, error) {
	path, mode := s, ModeReadWrite
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		switch s[i+1:] {
		case "rw":
			path = s[:i]
		case "ro":
			path, mode = s[:i], ModeReadOnly
		case "hide":
			path, mode = s[:i], ModeHide
		default:
			if !strings.Contains(s[i:], "/") {
				return Rule{}, fmt.Errorf("%w %q: the mode must be rw, ro or hide (write PATH:rw for a path with a colon)", ErrRule, s)
			}
		}
	}
	switch {
	case path == "":
		return Rule{}, fmt.Errorf("%w %q: no path", ErrRule, s)
	case strings.IndexByte(path, 0) >= 0:
		return Rule{}, fmt.Errorf("%w %q: NUL in the path", ErrRule, s)
	case path == "~" || strings.HasPrefix(path, "~/"):
		path = home + path[1:]
	case path[0] != '/' && filepath.IsAbs(cwd):
		path = cwd + "/" + path
	}
	if !filepath.IsAbs(path) {
		return Rule{}, fmt.Errorf("%w %q: no absolute path to take it from", ErrRule, s)
	}
	return Rule{Path: filepath.Clean(path), Mode: mode, Reason: "given with --export", User: true}, nil
}

// Policy is a compiled set of rules. It is immutable and safe for concurrent
// use.
type Policy struct {
	root      *ruleNode
	rules     []Rule // by path
	protected map[inode]protection
	// narrow has the paths of rules that take away from what their
	// surroundings allow, for the scan of hard links.
	narrow []Rule
}

// ruleNode is a component on the way to a rule.
type ruleNode struct {
	rule *Rule
	kids map[string]*ruleNode
	// exposes: a rule below it is not hide. narrows: a rule below it is not rw.
	exposes, narrows bool
}

type inode struct{ dev, ino uint64 }

// protection is the mode that an inode has wherever it is found. btime is its
// time of birth, which tells it from a later inode with the same number.
type protection struct {
	mode  Mode
	btime unix.StatxTimestamp
	rule  Rule
}

// NewPolicy compiles rules. Of two rules for one path the user's wins, then
// the later one of the user's, or the stricter one of the defaults. A rule for
// a path that leads through symbolic links holds for the place they lead to as
// well. root is the directory that the paths start at, normally "/".
func NewPolicy(root string, rules []Rule) (*Policy, error) {
	byPath := map[string]Rule{}
	for _, r := range rules {
		if !filepath.IsAbs(r.Path) || filepath.Clean(r.Path) != r.Path || r.Mode == ModeBare || r.Mode > ModeReadWrite {
			return nil, fmt.Errorf("%w %q: not an absolute, clean path with a mode", ErrRule, r.Path)
		}
		if len(r.Path) > unix.PathMax {
			return nil, fmt.Errorf("%w: a path of %d bytes", ErrRule, len(r.Path))
		}
		merge(byPath, r, r.User)
	}
	for _, r := range sortedRules(byPath) {
		real, ok := realPath(root, r.Path)
		if ok && real != r.Path {
			d := r
			d.Path, d.Reason = real, fmt.Sprintf("%s leads here: %s", r.Path, r.Reason)
			merge(byPath, d, false)
		}
	}
	if _, ok := byPath["/"]; !ok {
		byPath["/"] = Rule{Path: "/", Mode: ModeHide, Reason: "nothing else is exported"}
	}
	p := &Policy{root: &ruleNode{}, rules: sortedRules(byPath), protected: map[inode]protection{}}
	for i := range p.rules {
		p.insert(&p.rules[i])
	}
	p.record(root)
	return p, nil
}

func sortedRules(byPath map[string]Rule) []Rule {
	out := make([]Rule, 0, len(byPath))
	for _, r := range byPath {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Rule) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

// merge adds r unless a rule for its path beats it.
func merge(byPath map[string]Rule, r Rule, wins bool) {
	old, ok := byPath[r.Path]
	if !ok || wins || (!old.User && r.Mode < old.Mode) {
		byPath[r.Path] = r
	}
}

// realPath resolves symbolic links below root.
func realPath(root, path string) (string, bool) {
	if root != "/" {
		// A root of its own is for tests; links in it are not followed
		// beyond what the kernel does inside it.
		fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", false
		}
		defer unix.Close(fd)
		how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		found, err := unix.Openat2(fd, path, how)
		if err != nil {
			return "", false
		}
		defer unix.Close(found)
		real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", found))
		if err != nil || (real != root && !strings.HasPrefix(real, root+"/")) {
			return "", false
		}
		return filepath.Clean("/" + strings.TrimPrefix(real, root)), true
	}
	real, err := filepath.EvalSymlinks(path)
	return real, err == nil
}

func (p *Policy) insert(r *Rule) {
	n := p.root
	for _, name := range components(r.Path) {
		n.exposes = n.exposes || r.Mode > ModeHide
		n.narrows = n.narrows || r.Mode < ModeReadWrite
		kid := n.kids[name]
		if kid == nil {
			kid = &ruleNode{}
			if n.kids == nil {
				n.kids = map[string]*ruleNode{}
			}
			n.kids[name] = kid
		}
		n = kid
	}
	n.rule = r
}

func components(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// record notes the inodes of rules that take something away, so that another
// name of the same inode (a hard link, a bind mount, a renamed parent) does not
// give it back.
func (p *Policy) record(root string) {
	for _, r := range p.rules {
		if r.Path == "/" || r.Mode >= p.above(r.Path) {
			continue
		}
		p.narrow = append(p.narrow, r)
		st, ok := statBelow(root, r.Path)
		if !ok {
			continue
		}
		id := inode{statDev(&st), st.Ino}
		if old, seen := p.protected[id]; !seen || r.Mode < old.mode {
			p.protected[id] = protection{mode: r.Mode, btime: st.Btime, rule: r}
		}
	}
}

// above returns the mode that path would have without its own rule.
func (p *Policy) above(path string) Mode {
	pos := p.top()
	names := components(path)
	for _, name := range names[:len(names)-1] {
		pos = pos.child(name)
	}
	return pos.mode
}

// statBelow stats path without following a link in any component.
func statBelow(root, path string) (st unix.Statx_t, ok bool) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, false
	}
	for _, name := range components(path) {
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return st, false
		}
		fd = next
	}
	defer unix.Close(fd)
	return st, unix.Statx(fd, "", unix.AT_EMPTY_PATH, statMask, &st) == nil
}

// position is a place in the tree as the rules see it.
type position struct {
	mode Mode // of the longest rule so far
	n    *ruleNode
	rule *Rule
}

func (p *Policy) top() position {
	return position{mode: p.root.rule.Mode, n: p.root, rule: p.root.rule}
}

func (pos position) child(name string) position {
	if pos.n == nil {
		return pos
	}
	pos.n = pos.n.kids[name]
	if pos.n != nil && pos.n.rule != nil {
		pos.mode, pos.rule = pos.n.rule.Mode, pos.n.rule
	}
	return pos
}

// effective is the mode of the place, which is bare where it is hidden but
// leads to something that is not.
func (pos position) effective() Mode {
	if pos.mode == ModeHide && pos.n != nil && pos.n.exposes {
		return ModeBare
	}
	return pos.mode
}

// anchor tells whether the place leads to a rule that takes something away.
// Such a place stays a directory and stays where it is: moving it, or
// putting a link in its place, would take what the rule protects out of the
// rule, or put something else where the rule's path leads.
func (pos position) anchor() bool { return pos.n != nil && pos.n.narrows }

// qualify marks the attributes of a directory that leads to such a rule.
func (pos position) qualify(a *fsyscall.Attr) {
	if pos.anchor() && a.Mode&unix.S_IFMT == unix.S_IFDIR {
		a.Flags |= fsyscall.AttrRuled
	}
}

// ruledNames returns the names in a directory that lead to such rules, by name;
// none if there are more than a message may have.
func (pos position) ruledNames() []string {
	if !pos.anchor() {
		return nil
	}
	var names []string
	for name, n := range pos.n.kids {
		if (n.narrows || n.rule != nil && n.rule.Mode < ModeReadWrite) && fsyscall.ValidName(name) {
			names = append(names, name)
		}
	}
	if len(names) > fsyscall.MaxRuled {
		return nil
	}
	slices.Sort(names)
	return names
}

// ruled tells whether a rule is for exactly this place.
func (pos position) ruled() bool { return pos.n != nil && pos.n.rule != nil }

// limit returns the mode that an inode is limited to wherever it is found.
func (p *Policy) limit(st *unix.Statx_t) Mode {
	if len(p.protected) == 0 {
		return ModeReadWrite
	}
	return p.limitOf(inode{statDev(st), st.Ino}, st.Btime)
}

func (p *Policy) limitOf(id inode, btime unix.StatxTimestamp) Mode {
	prot, ok := p.protected[id]
	if !ok || prot.btime.Sec != btime.Sec || prot.btime.Nsec != btime.Nsec {
		return ModeReadWrite
	}
	return prot.mode
}

// Explain says which mode a path has and why. The path must be absolute; it is
// taken as it stands, without following links.
func (p *Policy) Explain(path string) (Mode, Rule, string) {
	pos := p.top()
	for _, name := range components(filepath.Clean("/" + path)) {
		pos = pos.child(name)
	}
	mode := pos.effective()
	if mode == ModeBare {
		return mode, *pos.rule, "leads to an export"
	}
	return mode, *pos.rule, pos.rule.Reason
}

// Rules returns the rules in force, by path, those that follow from symbolic
// links included.
func (p *Policy) Rules() []Rule { return slices.Clone(p.rules) }
