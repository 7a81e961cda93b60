package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/view"
)

// hostConfig is what the configuration file says about one host. The file is
// written in ssh_config's manner: lines of a keyword and its values, sections
// begun by Host with patterns, # for comments, "quotes" around a value with
// spaces. Before the first Host lines hold for every host. Of a keyword with
// one value the first one counts; those of Remote, Local, Export and Env add up.
type hostConfig struct {
	apps       string
	moves      []view.Move
	exports    []string
	exportOnly string // "yes", "no" or not said
	sync       string
	cache      string
	env        []string
	ssh        string
	persist    persistence
}

// maxConfig bounds the file; a longer one was not written by hand.
const maxConfig = 1 << 20

// configPath returns the file's path, or "" without a home directory.
func configPath() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "nexec", "config")
}

// loadConfig reads what file says about host. A file that is not there says
// nothing.
func loadConfig(file, host string) (hostConfig, error) {
	if file == "" {
		return hostConfig{}, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return hostConfig{}, nil
	}
	if err != nil {
		return hostConfig{}, configUnreadable(file, err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return hostConfig{}, configUnreadable(file, err)
	case st.Mode().Perm()&0o022 != 0:
		return hostConfig{}, configUnsafe(file)
	case !st.Mode().IsRegular() || st.Size() > maxConfig:
		return hostConfig{}, configUnreadable(file, unix.EINVAL)
	}
	text := make([]byte, st.Size())
	n, err := f.ReadAt(text, 0)
	if n < len(text) && err != nil {
		return hostConfig{}, configUnreadable(file, err)
	}
	return parseConfig(file, text, host)
}

// parseConfig reads the whole file, so that an error in another host's section
// is found today and not when it is needed.
func parseConfig(file string, text []byte, host string) (hostConfig, error) {
	var c, discard hostConfig
	active := true
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxConfig)
	for n := 1; lines.Scan(); n++ {
		keyword, values, err := splitLine(lines.Text())
		if err != nil {
			return c, configError(file, n, "%v", err)
		}
		if keyword == "" {
			continue
		}
		if strings.EqualFold(keyword, "Host") {
			if active, err = hostMatches(values, host); err != nil {
				return c, configError(file, n, "%v", err)
			}
			continue
		}
		into := &discard
		if active {
			into = &c
		}
		if err := into.set(keyword, values, fmt.Sprintf("%s:%d", filepath.Base(file), n)); err != nil {
			return c, configError(file, n, "%v", err)
		}
	}
	if err := lines.Err(); err != nil {
		return c, configUnreadable(file, err)
	}
	return c, nil
}

// splitLine splits a line into its keyword and values. The keyword may be
// followed by = instead of space.
func splitLine(line string) (keyword string, values []string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", nil, nil
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return line, nil, nil
	}
	keyword = line[:end]
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	for rest != "" {
		var v string
		switch {
		case rest[0] == '#':
			return keyword, values, nil
		case rest[0] == '"':
			var ok bool
			if v, rest, ok = strings.Cut(rest[1:], `"`); !ok {
				return "", nil, errors.New("a quote is not closed")
			}
		default:
			v, rest, _ = strings.Cut(strings.ReplaceAll(rest, "\t", " "), " ")
		}
		values = append(values, v)
		rest = strings.TrimLeft(rest, " \t")
	}
	return keyword, values, nil
}

// hostMatches applies Host's patterns as ssh does: one must match, and none of
// those with ! before them.
func hostMatches(patterns []string, host string) (bool, error) {
	if len(patterns) == 0 {
		return false, errors.New("Host needs a pattern")
	}
	matched := false
	for _, p := range patterns {
		pattern, negated := strings.CutPrefix(p, "!")
		// A host's name holds no slash, so path.Match's stars match all of it.
		ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(host))
		if err != nil || pattern == "" {
			return false, fmt.Errorf("%q is not a pattern", p)
		}
		if ok && negated {
			return false, nil
		}
		matched = matched || ok
	}
	return matched, nil
}

// set applies one line. where is its place, for --explain.
func (c *hostConfig) set(keyword string, values []string, where string) error {
	k := strings.ToLower(keyword)
	switch k {
	case "remote", "local", "export", "env":
		if len(values) == 0 {
			return fmt.Errorf("%s needs a value", keyword)
		}
		return c.add(k, values, where)
	case "apps", "exportonly", "sync", "cache", "ssh", "persist":
		if len(values) != 1 {
			return fmt.Errorf("%s takes one value", keyword)
		}
		return c.setOne(k, keyword, values[0])
	}
	return fmt.Errorf("unknown keyword %s", keyword)
}

func (c *hostConfig) add(k string, values []string, where string) error {
	for _, v := range values {
		v, err := expandHome(v)
		if err != nil {
			return err
		}
		switch k {
		case "env":
			if n, _, _ := strings.Cut(v, "="); n == "" {
				return fmt.Errorf("%q has no name", v)
			}
			c.env = append(c.env, v)
		case "export":
			if !strings.HasPrefix(v, "/") {
				return fmt.Errorf("%q is not an absolute path", v)
			}
			e, err := exportRule("Export", v)
			if err != nil {
				return err
			}
			c.exports = append(c.exports, e)
		default:
			m := view.Move{Path: v, Side: view.Local, Origin: where}
			if k == "remote" {
				m.Side = view.Remote
			}
			if _, err := view.New(view.AppsRemote, []view.Move{m}); err != nil {
				return errors.New(strings.TrimPrefix(err.Error(), where+": "))
			}
			c.moves = append(c.moves, m)
		}
	}
	return nil
}

func (c *hostConfig) setOne(k, keyword, v string) error {
	first := func(p *string) {
		if *p == "" {
			*p = v
		}
	}
	switch k {
	case "apps":
		if _, err := view.ParseApps(v); err != nil {
			return fmt.Errorf("%s %w", keyword, err)
		}
		first(&c.apps)
		return nil
	case "ssh":
		if _, err := splitCommand(v); err != nil {
			return fmt.Errorf("%s %w", keyword, err)
		}
		first(&c.ssh)
		return nil
	}
	if k == "persist" {
		p, err := parsePersist(v)
		if err != nil || v == "" {
			return fmt.Errorf("%s is yes, no or a time such as 10m, not %q", keyword, v)
		}
		if !c.persist.said {
			c.persist = p
		}
		return nil
	}
	if v != "yes" && v != "no" {
		return fmt.Errorf("%s is yes or no, not %q", keyword, v)
	}
	first(map[string]*string{"exportonly": &c.exportOnly, "sync": &c.sync, "cache": &c.cache}[k])
	return nil
}

// expandHome replaces a leading ~/.
func expandHome(v string) (string, error) {
	rest, ok := strings.CutPrefix(v, "~")
	if !ok || rest != "" && rest[0] != '/' && rest[0] != ':' {
		return v, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("%q: no home directory: set HOME", v)
	}
	return home + rest, nil
}
