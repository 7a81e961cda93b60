package closure

import (
	"bytes"
	"compress/zlib"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const (
	// maxUp bounds the directories above the working directory in which a
	// repository is looked for.
	maxUp = 64
	// maxSmall bounds what is read of HEAD, a ref and a commit, in bytes.
	maxSmall = 8 << 10
	// maxIndexed bounds the pack and the pack's index that are named: of a larger
	// one git reads a few places only.
	maxIndexed = 1 << 20
	// maxPacks bounds the packs looked at.
	maxPacks = 16
	// maxDirs and maxEntries bound the directories of the working tree and what
	// they have together, about 800 kB of answers.
	maxDirs    = 256
	maxEntries = 8 << 10
)

// Git returns what git(1) reads before it begins with its work in a directory:
// the settings, the index, and what HEAD leads to, down to the tree; and the
// directories of the working tree. Each of these tells where the next one is, so
// that a program far away would ask for one after the other. It is nil outside
// of a repository. home is the user's directory, or empty.
func Git(dir, home string) []fsyscall.PathUse {
	s := &set{uses: map[string]fsyscall.UseWhat{}}
	g := s.repository(dir)
	if g == nil {
		return nil
	}
	if home != "" {
		for _, name := range []string{".gitconfig", ".config/git/config", ".config/git/ignore", ".config/git/attributes"} {
			s.walk(path.Join(home, name), fsyscall.UseContent)
		}
	}
	for _, name := range []string{"HEAD", "index", "config.worktree", "info/sparse-checkout"} {
		s.walk(path.Join(g.own, name), fsyscall.UseContent)
	}
	for _, name := range []string{"config", "packed-refs", "info/exclude", "info/attributes", "info/grafts", "shallow", "objects/info/alternates", "objects/info/commit-graph"} {
		s.walk(path.Join(g.common, name), fsyscall.UseContent)
	}
	for _, name := range []string{"refs", "refs/tags", "refs/heads", "refs/replace", "objects"} {
		s.walk(path.Join(g.common, name), fsyscall.UseName)
	}
	s.packs(path.Join(g.common, "objects/pack"))
	s.tree(g.top)
	commit := s.ref(g, "HEAD", 0)
	text := s.object(g, commit)
	if tree, ok := strings.CutPrefix(text, "tree "); ok {
		tree, _, _ = strings.Cut(tree, "\n")
		s.object(g, tree)
	}
	return s.sorted()
}

// repository is where git keeps what: of a worktree some things are its own,
// others are common to all. top is the working tree. See
// gitrepository-layout(5).
type repository struct{ own, common, top string }

// repository looks for .git in dir and above.
func (s *set) repository(dir string) *repository {
	for range maxUp {
		p := path.Join(dir, ".git")
		st, err := os.Lstat(p)
		if err == nil {
			s.walk(p, fsyscall.UseName)
			for _, name := range []string{".gitignore", ".gitattributes"} {
				s.walk(path.Join(dir, name), fsyscall.UseContent)
			}
			if st.Mode().IsRegular() {
				return s.worktree(dir, p)
			}
			s.walk(p, fsyscall.UseListing)
			return &repository{p, p, dir}
		}
		if dir == "/" || dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
	return nil
}

// worktree follows a file .git to the repository.
func (s *set) worktree(dir, file string) *repository {
	s.walk(file, fsyscall.UseContent)
	at, ok := strings.CutPrefix(firstLine(file), "gitdir: ")
	if !ok {
		return nil
	}
	own := absolute(dir, at)
	s.walk(path.Join(own, "commondir"), fsyscall.UseContent)
	if common := firstLine(path.Join(own, "commondir")); common != "" {
		return &repository{own, absolute(own, common), dir}
	}
	return &repository{own, own, dir}
}

func absolute(dir, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(dir, p)
}

// ref returns the number of the object that a ref leads to, or nothing.
func (s *set) ref(g *repository, name string, depth int) string {
	file := path.Join(g.common, name)
	if name == "HEAD" {
		file = path.Join(g.own, name)
	}
	s.walk(file, fsyscall.UseContent)
	line := firstLine(file)
	next, symbolic := strings.CutPrefix(line, "ref: ")
	switch {
	case symbolic && depth < maxInterpreters && strings.HasPrefix(next, "refs/") && !strings.Contains(next, ".."):
		return s.ref(g, next, depth+1)
	case symbolic:
		return ""
	case line != "":
		return line
	}
	for line := range strings.Lines(beginning(path.Join(g.common, "packed-refs"), maxIndexed)) {
		if number, found := strings.CutSuffix(strings.TrimSpace(line), " "+name); found {
			return number
		}
	}
	return ""
}

// object notes an object that is a file of its own, and returns the beginning
// of its content; nothing if it is in a pack.
func (s *set) object(g *repository, number string) string {
	if len(number) < 40 || strings.Trim(number, "0123456789abcdef") != "" {
		return ""
	}
	file := path.Join(g.common, "objects", number[:2], number[2:])
	f, err := openRegular(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	s.walk(file, fsyscall.UseContent)
	z, err := zlib.NewReader(f)
	if err != nil {
		return ""
	}
	b, _ := io.ReadAll(io.LimitReader(z, maxSmall))
	_, text, _ := bytes.Cut(b, []byte{0})
	return string(text)
}

// packs notes the packs, whole if they are small.
func (s *set) packs(dir string) {
	entries, err := list(dir, maxPacks)
	if err != nil {
		return
	}
	s.walk(dir, fsyscall.UseListing)
	for _, e := range entries {
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() && st.Size() <= maxIndexed {
			s.walk(path.Join(dir, e.Name()), fsyscall.UseContent)
		}
	}
}

// tree notes the directories of a working tree, the upper ones first.
func (s *set) tree(top string) {
	entries := 0
	for todo, n := []string{top}, 0; n < len(todo) && n < maxDirs; n++ {
		found, err := list(todo[n], maxEntries+1-entries)
		if entries += len(found); err != nil || entries > maxEntries {
			return
		}
		s.walk(todo[n], fsyscall.UseListing)
		for _, e := range found {
			if e.IsDir() && e.Name() != ".git" && len(todo) < maxDirs {
				todo = append(todo, path.Join(todo[n], e.Name()))
			}
		}
	}
}

// list returns the entries of a directory, at most so many of them.
func list(dir string, most int) ([]os.DirEntry, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(most)
	if err == io.EOF {
		err = nil
	}
	return entries, err
}

// firstLine returns the first line of a small file, without its end.
func firstLine(file string) string {
	line, _, _ := strings.Cut(beginning(file, maxSmall), "\n")
	return strings.TrimSpace(line)
}

// beginning returns what a regular file begins with, at most so many bytes;
// nothing if there is none.
func beginning(file string, most int64) string {
	f, err := openRegular(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return string(b)
}
