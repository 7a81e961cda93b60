// Package closure says what the start of a program needs of this machine's
// files, by looking at the program: its interpreter, its libraries as ldd(1)
// would name them, and what python and perl read before the first line of a
// script. It reads and runs nothing else.
//
// It is for a program that runs elsewhere with the files of this machine, so
// that all of it can be asked for at once. What it leaves out is only asked for
// later, and what it names in vain is only asked for in vain.
package closure

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const (
	// maxFiles bounds the programs and libraries looked at; a web browser has
	// some two hundred.
	maxFiles = 512
	// maxLinks bounds the symbolic links on the way to one file, as the kernel
	// does.
	maxLinks = 40
	// maxInterpreters bounds the scripts that are each other's interpreters,
	// as the kernel does.
	maxInterpreters = 5
	// maxConf bounds what is read of one ld.so.conf(5), in bytes.
	maxConf = 64 << 10
)

// accounts are read wherever a program is started.
var accounts = []string{"/etc/passwd", "/etc/group"}

// Of returns what the program named file needs, parents before what is in them;
// nil if there is no such program. A file without a slash is looked for in
// searchPath, of the form of $PATH.
func Of(file, searchPath string) []fsyscall.PathUse {
	s := &set{uses: map[string]fsyscall.UseWhat{}}
	program := s.find(file, searchPath)
	if program == "" {
		return nil
	}
	s.program(program, 0)
	for _, p := range accounts {
		s.walk(p, fsyscall.UseContent)
	}
	return s.sorted()
}

// set gathers uses.
type set struct {
	uses  map[string]fsyscall.UseWhat
	files int
	dirs  []string // where libraries are looked for, once asked for
}

func (s *set) sorted() []fsyscall.PathUse {
	uses := make([]fsyscall.PathUse, 0, len(s.uses))
	for p, what := range s.uses {
		uses = append(uses, fsyscall.PathUse{Path: p, What: what})
	}
	slices.SortFunc(uses, func(a, b fsyscall.PathUse) int { return strings.Compare(a.Path, b.Path) })
	return uses
}

// find returns the path of the program, and notes where it was looked for.
func (s *set) find(file, searchPath string) string {
	if strings.Contains(file, "/") {
		if path.IsAbs(file) {
			return path.Clean(file)
		}
		return ""
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		p := path.Join(dir, file)
		if !path.IsAbs(p) {
			continue
		}
		real := s.walk(p, fsyscall.UseName)
		if st, err := os.Stat(real); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// walk follows p as the kernel would, notes every name on the way, and what of
// the last one. It returns the path without links; empty: there is nothing.
func (s *set) walk(p string, what fsyscall.UseWhat) string {
	at, rest := "", strings.Trim(path.Clean(p), "/")
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next := at + "/" + name
		s.uses[next] |= fsyscall.UseName
		st, err := os.Lstat(next)
		if err != nil {
			return ""
		}
		if st.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return ""
		}
		if !path.IsAbs(target) {
			target = at + "/" + target
		}
		at, rest = "", strings.Trim(path.Join(target, rest), "/")
	}
	s.uses[at] |= what
	return at
}

// program notes what executing p needs.
func (s *set) program(p string, depth int) {
	real := s.walk(p, fsyscall.UseContent)
	if real == "" || depth > maxInterpreters {
		return
	}
	f, err := openRegular(real)
	if err != nil {
		return
	}
	defer f.Close()
	var head [256]byte
	n, _ := f.ReadAt(head[:], 0)
	if line, ok := strings.CutPrefix(string(head[:n]), "#!"); ok {
		line, _, _ = strings.Cut(line, "\n")
		if words := strings.Fields(line); len(words) > 0 {
			s.program(words[0], depth+1)
		}
		return
	}
	image, err := elf.NewFile(f)
	if err != nil {
		return
	}
	if s.linked(image, real) {
		s.walk("/etc/ld.so.cache", fsyscall.UseContent)
		s.walk("/etc/ld.so.preload", fsyscall.UseName)
	}
	s.companions(real)
}

// linked notes the dynamic linker of an image, and the libraries that it will
// load. It tells whether there is a linker.
func (s *set) linked(image *elf.File, real string) bool {
	linker := interpreter(image)
	if linker == "" {
		return false
	}
	s.walk(linker, fsyscall.UseContent)
	type object struct {
		image *elf.File
		path  string
	}
	todo, seen := []object{{image, real}}, map[string]bool{}
	for len(todo) > 0 && s.files < maxFiles {
		o := todo[0]
		todo = todo[1:]
		needed, err := o.image.ImportedLibraries()
		if err != nil {
			continue
		}
		for _, name := range needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			s.files++
			p := s.library(name, o.image, o.path)
			if p == "" {
				continue
			}
			f, err := openRegular(p)
			if err != nil {
				continue
			}
			defer f.Close() // some dozens, until all is known
			if lib, err := elf.NewFile(f); err == nil {
				todo = append(todo, object{lib, p})
			}
		}
	}
	return true
}

// interpreter returns the dynamic linker that an image names.
func interpreter(image *elf.File) string {
	for _, p := range image.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > fsyscall.MaxTarget {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return ""
		}
		return strings.TrimRight(string(b), "\x00")
	}
	return ""
}

// library finds a library for an image as ld.so(8) does, but for the cache, of
// which it takes the directories that the cache is made from. It returns the
// path without links.
func (s *set) library(name string, image *elf.File, of string) string {
	if strings.Contains(name, "/") {
		return s.walk(name, fsyscall.UseContent)
	}
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		lists, err := image.DynString(tag)
		if err != nil {
			continue
		}
		for _, list := range lists {
			list = strings.NewReplacer("$ORIGIN", path.Dir(of), "${ORIGIN}", path.Dir(of)).Replace(list)
			dirs = append(dirs, strings.Split(list, ":")...)
		}
	}
	for _, dir := range append(dirs, s.libraryDirs()...) {
		p := path.Join(dir, name)
		if !path.IsAbs(p) {
			continue
		}
		if matches(p, image) {
			return s.walk(p, fsyscall.UseContent)
		}
	}
	return ""
}

// matches tells whether the file at p is for the same machine as image.
func matches(p string, image *elf.File) bool {
	f, err := openRegular(p)
	if err != nil {
		return false
	}
	defer f.Close()
	lib, err := elf.NewFile(f)
	return err == nil && lib.Class == image.Class && lib.Machine == image.Machine
}

// openRegular opens a file to be read, and nothing that would make it wait.
func openRegular(p string) (*os.File, error) {
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is no file", p)
	}
	return f, nil
}

// libraryDirs returns the directories of ld.so.conf(5) and the built-in ones.
func (s *set) libraryDirs() []string {
	if s.dirs == nil {
		s.dirs = append(configured("/etc/ld.so.conf", 0), "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	}
	return s.dirs
}

func configured(file string, depth int) []string {
	f, err := openRegular(file)
	if err != nil || depth > maxInterpreters {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConf))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "include":
			for _, name := range globbed(words[1], path.Dir(file)) {
				dirs = append(dirs, configured(name, depth+1)...)
			}
		case len(words) == 1:
			dirs = append(dirs, words[0])
		}
	}
	return dirs
}
