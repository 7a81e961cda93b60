package dial

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/SumiTomohiko/nexec/keys"
)

// Bounds of reading configuration files.
const (
	maxIncludeDepth = 16      // OpenSSH's READCONF_MAX_DEPTH
	maxConfigLine   = 1 << 20 // OpenSSH has none; a line of a megabyte is no configuration
	maxIncluded     = 4096    // files in all, against include patterns over a huge tree
)

// resolver reads configuration files for one destination. Values are kept by
// keyword as the arguments that set them; the first one wins.
type resolver struct {
	table  map[string]keyword
	alias  map[string]string
	local  localFacts
	sysDir string // relative includes of the system's file, and the file itself
	host   string // what Host matches: canonical in the final pass
	typed  string // the host as typed
	final  bool   // the final pass
	again  bool   // a final pass is wanted
	values map[string][]string
	files  int
	execs  func(command string) (int, error) // runs Match exec
	lookup func(ctx context.Context, network, name string) (cname string, err error)
}

// block is where in the files the reader is.
type block struct {
	file   string
	line   int
	user   bool // the user's file rather than the system's
	check  bool // its owner and mode are checked
	never  bool // included from a block that does not apply
	active bool
	depth  int
}

// configError is a mistake in a configuration file.
type configError struct {
	File   string
	Line   int
	Column int // of the argument it is about; zero when it is about the line
	What   string
	// beyond: OpenSSH of some version may know what this is; ask `ssh -G`.
	beyond bool
}

func (e *configError) Error() string {
	switch {
	case e.Line == 0:
		return e.File + ": " + e.What
	case e.Column == 0:
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.What)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.What)
}

func newResolver(local localFacts, sysDir, typed string) *resolver {
	r := &resolver{
		table: map[string]keyword{}, alias: aliases(), local: local, sysDir: sysDir,
		host: typed, typed: typed, values: map[string][]string{},
		lookup: lookupDNS,
	}
	for _, kw := range keywords() {
		r.table[strings.ToLower(kw.name)] = kw
	}
	r.execs = r.runExec
	return r
}

// set stores the value of a keyword, unless it has one.
func (r *resolver) set(name string, vals ...string) {
	if _, ok := r.values[name]; !ok {
		r.values[name] = vals
	}
}

// first is the first argument of a keyword's value, or "".
func (r *resolver) first(name string) string {
	if v := r.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// setting applies one -o argument.
func (r *resolver) setting(s string) error {
	b := &block{file: "-o " + s, user: true, active: true}
	if kw, _ := splitKeyword(s); kw == "host" || kw == "match" || kw == "include" {
		return b.errorf("%s cannot be given as an option: write it into a configuration file", kw)
	}
	return r.readLine(s, b)
}

// readFiles reads the user's and the system's file, or the one given with -F.
func (r *resolver) readFiles(configFile string) error {
	if strings.EqualFold(configFile, "none") {
		return nil
	}
	if configFile != "" {
		err := r.readFile(configFile, &block{user: true, active: true})
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("can't open configuration file %s: no such file or directory: check the path given with -F", configFile)
		}
		return err
	}
	user := filepath.Join(r.local.home, ".ssh", "config")
	if err := ignoreUnreadable(r.readFile(user, &block{user: true, check: true, active: true})); err != nil {
		return err
	}
	return ignoreUnreadable(r.readFile(filepath.Join(r.sysDir, "ssh_config"), &block{active: true}))
}

// ignoreUnreadable drops the error of a default file that cannot be opened:
// OpenSSH goes on without it.
func ignoreUnreadable(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && path.Op == "open" {
		return nil
	}
	return err
}

func (r *resolver) readFile(name string, b *block) error {
	if b.depth > maxIncludeDepth {
		return fmt.Errorf("%s: too many nested Include lines (%d): break the circle", name, maxIncludeDepth)
	}
	if r.files++; r.files > maxIncluded {
		return fmt.Errorf("%s: Include lines name more than %d files: narrow their patterns", name, maxIncluded)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if b.check {
		if err := checkOwner(f); err != nil {
			return err
		}
	}
	b.file = name
	return r.read(f, b)
}

// checkOwner refuses a configuration that others could have written.
func checkOwner(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || (sys.Uid != 0 && int(sys.Uid) != os.Getuid()) || st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("bad owner or permissions on %s: make it yours (chown) and writable by nobody else (chmod go-w)", f.Name())
	}
	return nil
}

func (r *resolver) read(src io.Reader, b *block) error {
	sc := bufio.NewScanner(src)
	sc.Buffer(make([]byte, 0, 4096), maxConfigLine)
	for sc.Scan() {
		b.line++
		if err := r.readLine(sc.Text(), b); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		b.line++
		if errors.Is(err, bufio.ErrTooLong) {
			return b.errorf("line longer than %d bytes: split or remove it", maxConfigLine)
		}
		return fmt.Errorf("%s: %w", b.file, err)
	}
	return nil
}

func (b *block) errorf(format string, args ...any) *configError {
	return &configError{File: b.file, Line: b.line, What: fmt.Sprintf(format, args...)}
}

// line is one line being read.
type line struct {
	*block
	kw   keyword
	key  string // kw.name in lower case
	text string // the line
	rest string // after the keyword, as written
	args []string
	used int // arguments read so far
}

// next returns the next argument; there must be one and it must not be empty.
func (l *line) next() (string, error) {
	if l.used >= len(l.args) || l.args[l.used] == "" {
		return "", l.at(l.used).errorf("%s has no argument: give it a value or remove the line", l.kw.name)
	}
	l.used++
	return l.args[l.used-1], nil
}

// at is the line with the column of argument i for an error message.
type at struct {
	l      *line
	column int
}

func (l *line) at(i int) at { return at{l, l.column(i)} }

// errorf makes an error about the last argument read.
func (l *line) errorf(format string, args ...any) *configError {
	return l.at(max(l.used-1, 0)).errorf(format, args...)
}

func (a at) errorf(format string, args ...any) *configError {
	err := a.l.block.errorf(format, args...)
	if err.Line > 0 {
		err.Column = a.column
	}
	return err
}

// column finds where argument i begins, counted from 1. It looks the words up
// again, which only an error pays for.
func (l *line) column(i int) int {
	off := len(l.text) - len(strings.TrimLeft(l.text, configSpace))
	if l.rest != "" {
		off = strings.LastIndex(l.text, l.rest)
	}
	rest := l.text[off:]
	for n := 0; rest != ""; n++ {
		skipped := strings.TrimLeft(rest, " \t")
		off += len(rest) - len(skipped)
		_, width, err := splitWord(skipped)
		if n == i || err != nil {
			break
		}
		off += width
		rest = skipped[width:]
	}
	return off + 1
}

func (r *resolver) readLine(text string, b *block) error {
	key, rest := splitKeyword(text)
	if key == "" {
		return nil
	}
	l := &line{block: b, key: key, text: strings.TrimRight(text, configSpace+"\f"), rest: rest}
	l.kw.name = key
	if rest == "" {
		return b.errorf("no argument after keyword %q: give it a value or remove the line", key)
	}
	if name, ok := r.alias[key]; ok {
		l.key = name
	}
	var err error
	if l.args, err = splitArgs(rest); err != nil {
		return l.at(len(l.args)).errorf("invalid quotes: close the quote")
	}
	if l.key == "-" {
		return nil
	}
	kw, ok := r.table[l.key]
	if !ok {
		if keys.MatchList(key, r.first("ignoreunknown"), true) > 0 {
			return nil
		}
		err := b.errorf("bad configuration option %q: correct it, or name it in IgnoreUnknown", key)
		err.beyond = true
		return err
	}
	l.kw = kw
	if err := r.readKeyword(l); err != nil {
		return err
	}
	if l.used < len(l.args) {
		return l.at(l.used).errorf("%s has extra arguments at the end of the line: quote or remove %q", kw.name, l.args[l.used])
	}
	return nil
}

// include reads the files that an Include line names.
func (r *resolver) include(l *line) error {
	for l.used < len(l.args) {
		pattern, err := l.next()
		if err != nil {
			return err
		}
		if strings.HasPrefix(pattern, "~") {
			if !l.user {
				return l.errorf("bad include path %q: the system's configuration cannot name home directories", pattern)
			}
			if pattern, err = r.local.expandTilde(pattern); err != nil {
				return l.errorf("%v", err)
			}
		} else if !filepath.IsAbs(pattern) {
			dir := r.sysDir
			if l.user {
				dir = filepath.Join(r.local.home, ".ssh")
			}
			pattern = filepath.Join(escapeGlob(dir), pattern)
		}
		if err := r.includeGlob(l, pattern); err != nil {
			return err
		}
	}
	return nil
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

func (r *resolver) includeGlob(l *line, pattern string) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return l.errorf("include pattern %q: %v: correct the brackets", pattern, err)
	}
	for _, name := range names {
		b := &block{user: l.user, check: true, never: l.never || !l.active, active: l.active, depth: l.depth + 1}
		err := r.readFile(name, b)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EISDIR) {
			continue // a dangling link, or gone since; a directory is empty to ssh
		}
		var path *fs.PathError
		if errors.As(err, &path) {
			return l.errorf("can't read included file: %v", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
