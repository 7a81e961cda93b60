package closure

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// globbed returns the files that a pattern of ld.so.conf(5) names, by name.
func globbed(pattern, dir string) []string {
	if !path.IsAbs(pattern) {
		pattern = path.Join(dir, pattern)
	}
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	return names
}

// companion is what a kind of program reads when it starts, by the path of the
// program: prefix/bin/name. V stands for its version, N for the same without
// the dot, * for anything; what has no slash before it is below the prefix.
type companion struct {
	program                  *regexp.Regexp // the version is what its parentheses match
	names, listings, content []string
}

var companionsOf = []companion{{
	// See getpath.py and site.py of CPython, and Debian's for dist-packages.
	program: regexp.MustCompile(`^python(3\.\d+)$`),
	names: []string{
		"bin/pyvenv.cfg", "pyvenv.cfg", "bin/pybuilddir.txt", "bin/pythonV._pth", "bin/python3._pth", "bin/python._pth",
		"bin/Modules", "bin/lib", "lib/pythonN.zip", "lib/locale/locale-archive",
	},
	listings: []string{
		"lib/pythonV", "lib/pythonV/__pycache__", "lib/pythonV/encodings", "lib/pythonV/encodings/__pycache__", "lib/pythonV/lib-dynload",
		"lib/python3/dist-packages", "lib/python3/dist-packages/_distutils_hack/__pycache__", "local/lib/pythonV/dist-packages",
		"lib/pythonV/site-packages", "lib/locale/C.utf8", "/etc/pythonV/__pycache__", "/etc/pythonV",
	},
	content: []string{
		"lib/pythonV/encodings/__pycache__/__init__.cpython-N.pyc", "lib/pythonV/encodings/__pycache__/aliases.cpython-N.pyc",
		"lib/pythonV/encodings/__pycache__/utf_8.cpython-N.pyc", "lib/locale/C.utf8/LC_CTYPE", "lib/*-linux-gnu/gconv/gconv-modules.cache",
		"lib/python3/dist-packages/*.pth", "lib/python3/dist-packages/_distutils_hack/__pycache__/__init__.cpython-N.pyc",
		"lib/pythonV/sitecustomize.py", "lib/pythonV/__pycache__/sitecustomize.cpython-N.pyc", "share/locale/locale.alias", "/etc/localtime",
		"/etc/pythonV/__pycache__/sitecustomize.cpython-N.pyc",
	},
}, {
	program: regexp.MustCompile(`^perl(\d\.\d+)?(?:\.\d+)?$`),
	names:   []string{"lib/locale/locale-archive"},
	listings: []string{
		"lib/*-linux-gnu/perl-base", "lib/*-linux-gnu/perl/5.*", "lib/*-linux-gnu/perl5/5.*", "share/perl/5.*", "share/perl5",
		"local/share/perl/5.*", "local/lib/*-linux-gnu/perl/5.*",
	},
	content: []string{"lib/*-linux-gnu/perl-base/strict.pm", "lib/*-linux-gnu/perl-base/warnings.pm"},
}}

// companions notes what the program at the path without links reads.
func (s *set) companions(real string) {
	for _, c := range companionsOf {
		m := c.program.FindStringSubmatch(path.Base(real))
		if m == nil || path.Base(path.Dir(real)) != "bin" {
			continue
		}
		prefix := path.Dir(path.Dir(real))
		version := strings.NewReplacer("V", m[1], "N", strings.ReplaceAll(m[1], ".", ""))
		for _, p := range c.names {
			s.walk(path.Join(prefix, version.Replace(p)), fsyscall.UseName)
		}
		for _, p := range c.listings {
			for _, p := range globbed(version.Replace(p), prefix) {
				s.walk(p, fsyscall.UseListing)
			}
		}
		for _, p := range c.content {
			for _, p := range globbed(version.Replace(p), prefix) {
				s.walk(p, fsyscall.UseContent)
			}
		}
	}
}
