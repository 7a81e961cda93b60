package fmaster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What a program has used and a local one changes is there when it is used again.
func TestChangedIsAskedForAgain(t *testing.T) {
	w := newWorld(t)
	in := func(name string) string { return filepath.Join(w.client, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(in(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	over := func(name, text string) {
		t.Helper()
		write(name+".new", text)
		if err := os.Rename(in(name+".new"), in(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(in("d/e"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("d/f", "one")
	write("d/e/g", "gee")
	write("d/unused", "0")
	const script = "cat d/f d/e/g; ls d; stat -c %a d/e/g; test -e d/none || echo none"
	w.sh(script)
	for _, c := range []struct {
		name   string
		change func()
		want   string
	}{
		{"content", func() { write("d/f", "three") }, "threegeee\nf\nunused\n644\nnone"},
		{"rename over", func() { over("d/f", "over") }, "overgeee\nf\nunused\n644\nnone"},
		{"both", func() { over("d/f", "x"); write("d/e/g", "yy") }, "xyye\nf\nunused\n644\nnone"},
		{"mode", func() { os.Chmod(in("d/e/g"), 0o600) }, "xyye\nf\nunused\n600\nnone"},
		{"new file", func() { write("d/new", "n") }, "xyye\nf\nnew\nunused\n600\nnone"},
		{"what was absent", func() { write("d/none", "n") }, "xyye\nf\nnew\nnone\nunused\n600"},
		{"removed", func() { os.Remove(in("d/none")) }, "xyye\nf\nnew\nunused\n600\nnone"},
		{"saved often", func() {
			for i := range 20 {
				over("d/f", fmt.Sprint(i))
				time.Sleep(5 * time.Millisecond)
			}
		}, "19yye\nf\nnew\nunused\n600\nnone"},
	} {
		c.change()
		time.Sleep(400 * time.Millisecond) // until all is at rest
		w.settled()
		before := w.stat("waited")
		if got := w.sh(script); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if n := w.stat("waited") - before; n > 0 {
			t.Errorf("%s: %d round trips were waited for\n%s", c.name, n, w.srv.Stats())
		}
	}
}

// What nobody uses any more is asked for once, and what changes by the hundred is
// not asked for at all.
func TestAskedForAgainIsBounded(t *testing.T) {
	w := newWorld(t)
	in := func(i int) string { return filepath.Join(w.client, fmt.Sprint("d/", i)) }
	os.Mkdir(filepath.Join(w.client, "d"), 0o755)
	const files = 400
	writeAll := func(text string) {
		for i := range files {
			if err := os.WriteFile(in(i), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	calls := func() int { return w.stat("lookup") + w.stat("list") + w.stat("fetch") }
	writeAll("one")
	w.sh("cat d/*")
	w.settled()

	before := calls()
	for i := range 5 {
		os.WriteFile(in(7), fmt.Append(nil, "again ", i), 0o644)
		time.Sleep(400 * time.Millisecond)
	}
	w.settled()
	if n := calls() - before; n > 3 {
		t.Errorf("%d calls for a file that was used once", n)
	}

	before = calls()
	writeAll("three")
	time.Sleep(400 * time.Millisecond)
	w.settled()
	if n := calls() - before; n > 3 {
		t.Errorf("%d calls when everything changed", n)
	}
	if got := w.sh("cat d/7 d/399"); got != "threethree" {
		t.Errorf("%q", got)
	}
}

// TestDirectoryStays: a directory that is looked at again and again is asked about
// once, though nobody wants to know what is in it, and this costs little.
func TestDirectoryStays(t *testing.T) {
	w := newWorld(t)
	for i := range 200 { // none of which is guessed
		if err := os.MkdirAll(filepath.Join(w.client, "a/b", fmt.Sprintf("d%03d/x", i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const script = "cd a/b; for i in 1 2 3; do stat -c %a d050; sleep 1.2; done"
	w.sh("cd a/b; stat d050")
	before := w.stat("waited")
	if got := w.sh(script); got != "755\n755\n755" {
		t.Errorf("%q", got)
	}
	if n := w.stat("waited") - before; n > 0 {
		t.Errorf("%d round trips were waited for\n%s", n, w.srv.Stats())
	}
	before = w.stat("list")
	w.sh("cd a/b; stat -c %a d*")
	w.settled()
	if n := w.stat("list") - before; n > 70 {
		t.Errorf("%d directories were listed that nobody has entered", n)
	}
	os.Chmod(filepath.Join(w.client, "a/b/d050"), 0o700)
	w.soon("700", "stat -c %a a/b/d050")
}
