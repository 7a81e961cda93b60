package sshdconfig

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

const (
	// maxIncludeDepth is OpenSSH's limit.
	maxIncludeDepth = 16
	// maxFile bounds one file. A configuration is a few KiB.
	maxFile = 1 << 20
	// maxFiles bounds all files that Include brings in.
	maxFiles = 256
)

// Config is a configuration that has been read. It is not changed after that
// and may be used by several goroutines.
type Config struct {
	// Global has the settings outside of Match blocks.
	Global Settings
	// Warnings are places, FILE:LINE: …, where a keyword does less than its
	// author may have expected, and nothing that it forbids is permitted.
	Warnings []string

	blocks []*block
}

// block is a Match block: directives that hold when all criteria do.
type block struct {
	criteria   []criterion
	directives []directive
}

// directive is a keyword with arguments, already known to be valid.
type directive struct {
	key  *keyword
	args []string
}

// Read reads a configuration: overrides (such as "Port 22"), which come from
// the command line and win, and then the file at path unless it is empty.
func Read(path string, overrides []string) (*Config, error) {
	p := newParser(filepath.Dir(path))
	for _, o := range overrides {
		if err := p.line("command-line", 1, o); err != nil {
			return nil, err
		}
	}
	if path != "" {
		if err := p.file(path, 0); err != nil {
			return nil, err
		}
	}
	return p.cfg, nil
}

// Parse reads a configuration from text called name.
func Parse(name string, text []byte) (*Config, error) {
	p := newParser(".")
	if err := p.text(name, text, 0); err != nil {
		return nil, err
	}
	return p.cfg, nil
}

type parser struct {
	cfg   *Config
	dir   string          // what relative names in Include are below
	seen  map[string]bool // global keywords that have their value
	match *block          // nil outside of Match blocks
	base  []criterion     // of the Match block that the Include we are in stands in
	files int
	depth int
	where string // FILE:LINE of the line that is read
}

func newParser(dir string) *parser {
	return &parser{cfg: &Config{Global: Defaults()}, dir: dir, seen: map[string]bool{}}
}

func (p *parser) file(path string, depth int) error {
	if p.files++; p.files > maxFiles {
		return fmt.Errorf("%s: more than %d configuration files", path, maxFiles)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > maxFile || info.IsDir() {
		return fmt.Errorf("configuration %s: not a file of at most %d bytes", path, maxFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return p.text(path, text, depth)
}

func (p *parser) text(name string, text []byte, depth int) error {
	outer := p.depth
	p.depth = depth
	defer func() { p.depth = outer }()
	n := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		n++
		if err := p.line(name, n, line); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) line(name string, n int, text string) error {
	words, lexErr := split(text)
	if lexErr != nil {
		lexErr.File, lexErr.Line = name, n
		return lexErr
	}
	if len(words) == 0 {
		return nil
	}
	p.where = fmt.Sprintf("%s:%d", name, n)
	at, err := p.words(words, text)
	if err == nil {
		return nil
	}
	var placed *Error
	if errors.As(err, &placed) {
		return err // from an included file
	}
	return &Error{File: name, Line: n, Column: words[at].column, Text: err.Error()}
}

// words acts on one line. An error comes with the number of the word it is about.
func (p *parser) words(words []word, text string) (int, error) {
	lower := strings.ToLower(words[0].text)
	args := make([]string, 0, len(words)-1)
	for _, w := range words[1:] {
		args = append(args, w.text)
	}
	switch lower {
	case "include":
		return p.include(args)
	case "match":
		return p.startMatch(args)
	}
	key := keywords[lower]
	if key == nil {
		return 0, fmt.Errorf("unknown keyword %s", words[0].text)
	}
	if len(args) == 0 {
		return 0, fmt.Errorf("%s: missing argument", key.Name)
	}
	if p.match != nil && !key.Match {
		return 0, fmt.Errorf("%s is not allowed in a Match block", key.Name)
	}
	if key.Max > 0 && len(args) > key.Max {
		return key.Max + 1, fmt.Errorf("%s: %q is one argument too many", key.Name, args[key.Max])
	}
	if key.raw {
		args = []string{strings.TrimRight(text[words[1].column-1:], " \t\r\n\f")}
	}
	return p.apply(key, args)
}

// apply checks a directive and makes it count: at once outside of Match blocks.
func (p *parser) apply(key *keyword, args []string) (int, error) {
	if key.set == nil {
		if key.Use == Refused {
			return 0, fmt.Errorf("%s: %s", key.Name, key.Why)
		}
		return 0, nil
	}
	probe := Defaults()
	bad, err := key.set(&probe, args)
	if err != nil {
		return bad + 1, fmt.Errorf("%s: %w", key.Name, err)
	}
	if p.match != nil {
		p.match.directives = append(p.match.directives, directive{key, args})
		p.warn(key, args)
		return 0, nil
	}
	if p.seen[key.Name] && !key.Many {
		return 0, nil // the first value counts
	}
	p.warn(key, args)
	if !p.seen[key.Name] && key.clear != nil {
		key.clear(&p.cfg.Global)
	}
	p.seen[key.Name] = true
	if bad, err := key.set(&p.cfg.Global, args); err != nil {
		return bad + 1, fmt.Errorf("%s: %w", key.Name, err)
	}
	return 0, nil
}

func (p *parser) warn(key *keyword, args []string) {
	if key.warn == nil {
		return
	}
	if text := key.warn(args); text != "" {
		p.cfg.Warnings = append(p.cfg.Warnings, fmt.Sprintf("%s: %s: %s", p.where, key.Name, text))
	}
}

// include reads files by pattern. What they have of Match blocks ends with
// each of them; inside of a Match block they belong to it.
func (p *parser) include(args []string) (int, error) {
	if len(args) == 0 {
		return 0, errors.New("Include: missing argument")
	}
	if p.depth >= maxIncludeDepth {
		return 0, fmt.Errorf("Include: nested more than %d deep", maxIncludeDepth)
	}
	outer, base := p.match, p.base
	if outer != nil {
		p.base = outer.criteria
	}
	defer func() { p.base = base }()
	for i, pattern := range args {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(p.dir, pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			return i + 1, fmt.Errorf("Include: %q: %w", pattern, err)
		}
		sort.Strings(files)
		for _, f := range files {
			if err := p.file(f, p.depth+1); err != nil {
				return i + 1, err
			}
			p.restore(outer)
		}
	}
	return 0, nil
}

// restore goes back to the Match block that an Include stands in. When the
// included file had blocks of its own, a further block with the same criteria
// takes what follows, so that the order of directives stays that of the text.
func (p *parser) restore(outer *block) {
	if p.match == outer {
		return
	}
	p.match = nil
	if outer != nil {
		p.open(outer.criteria)
	}
}

func (p *parser) open(c []criterion) {
	p.match = &block{criteria: c}
	p.cfg.blocks = append(p.cfg.blocks, p.match)
}

func (p *parser) startMatch(args []string) (int, error) {
	criteria, bad, err := parseCriteria(args)
	if err != nil {
		return bad, fmt.Errorf("Match: %w", err)
	}
	p.open(append(append([]criterion{}, p.base...), criteria...))
	return 0, nil
}

// For returns the settings for a connection: those of the first block that
// matches and sets a keyword, and the global ones for all other keywords.
func (c *Config) For(conn *Conn) *Settings {
	s := c.Global
	seen := map[string]bool{}
	for _, b := range c.blocks {
		if !conn.matchesAll(b.criteria) {
			continue
		}
		mine := map[string]bool{}
		for _, d := range b.directives {
			if seen[d.key.Name] && !(d.key.Many && mine[d.key.Name]) {
				continue
			}
			if !mine[d.key.Name] && d.key.clear != nil {
				d.key.clear(&s)
			}
			seen[d.key.Name], mine[d.key.Name] = true, true
			_, _ = d.key.set(&s, d.args) // it passed when it was read
		}
	}
	return &s
}

// MostAuthTries is the highest MaxAuthTries that any connection can have.
func (c *Config) MostAuthTries() int {
	most := c.Global.MaxAuthTries
	c.each("MaxAuthTries", func(s *Settings) { most = max(most, s.MaxAuthTries) })
	return most
}

// cipherLimit is the least after which any cipher's keys are renewed anyway.
const cipherLimit = 1 << 30

// LeastRekeyLimit is the lowest RekeyLimit that any connection can have; 0 is
// the cipher's own.
func (c *Config) LeastRekeyLimit() uint64 {
	least := c.Global.RekeyLimit
	c.each("RekeyLimit", func(s *Settings) {
		if s.RekeyLimit != 0 && (s.RekeyLimit < least || least == 0 && s.RekeyLimit < cipherLimit) {
			least = s.RekeyLimit
		}
	})
	return least
}

// each calls f with what every Match block says of one keyword.
func (c *Config) each(name string, f func(*Settings)) {
	for _, b := range c.blocks {
		for _, d := range b.directives {
			if d.key.Name == name {
				s := Settings{}
				_, _ = d.key.set(&s, d.args) // it passed when it was read
				f(&s)
			}
		}
	}
}
