package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestWorksets(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	w := openWorksets()
	view := []fsyscall.ViewRule{{Path: "/"}}
	uses := fsyscall.PackUses([]fsyscall.PathUse{{Path: "/home", What: fsyscall.UseListing}})
	keys := worksetKeys(view, "/home", []string{"git", "status"})
	if got := w.load(keys); got != nil {
		t.Errorf("before anything ran: %v", got)
	}
	w.store(keys, uses, nil)
	for _, c := range []struct {
		cwd  string
		argv []string
		want bool
	}{
		{"/home", []string{"git", "status"}, true},
		{"/home", []string{"git", "log"}, true}, // by the program
		{"/home", []string{"git"}, true},
		{"/", []string{"git", "status"}, false},
		{"/home", []string{"ls"}, false},
		{"/home", nil, false},
	} {
		if got := w.load(worksetKeys(view, c.cwd, c.argv)); slices.Equal(got, uses) != c.want || !c.want && got != nil {
			t.Errorf("%s %q: %v", c.cwd, c.argv, got)
		}
	}
	if got := w.load(worksetKeys(nil, "/home", []string{"git", "status"})); got != nil {
		t.Errorf("another view: %v", got)
	}
	// What is damaged is no hint, and does not stay.
	path := filepath.Join(w.dir, keys[0])
	if err := os.WriteFile(path, []byte("\x03\x07 damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.load(keys[:1]); got != nil {
		t.Errorf("from a damaged file: %v", got)
	}
	w.store(keys, uses, nil)
	if got := w.load(keys); !slices.Equal(got, uses) {
		t.Errorf("after it was written again: %v", got)
	}
	for name, make := range map[string]func(string) error{
		"a pipe":    func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a large":   func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 1<<40)) },
		"a link":    func(p string) error { return os.Symlink("/dev/zero", p) },
		"a dir":     func(p string) error { return os.Mkdir(p, 0o700) },
		"an absent": func(string) error { return nil },
	} {
		p := filepath.Join(w.dir, "other")
		if err := make(p); err != nil {
			t.Fatal(err)
		}
		if got := w.load([]string{"other"}); got != nil {
			t.Errorf("from %s one: %v", name, got)
		}
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestWorksetsAreBounded(t *testing.T) {
	w := &worksets{t.TempDir()}
	now := time.Now()
	for i := range maxWorksets + 10 {
		path := filepath.Join(w.dir, fmt.Sprint(i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := now.Add(-time.Duration(i) * time.Minute)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	left := filepath.Join(w.dir, ".new-1")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, now, now.Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.prune()
	entries, err := os.ReadDir(w.dir)
	if err != nil || len(entries) != maxWorksets {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, fmt.Sprint(maxWorksets))); err == nil {
		t.Error("the one used longest ago is still there")
	}
}
