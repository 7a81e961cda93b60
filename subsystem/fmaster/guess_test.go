package fmaster_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// write makes files of the client, each with its name as content.
func (w *world) write(names ...string) {
	w.t.Helper()
	for _, name := range names {
		p := filepath.Join(w.client, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(name), 0o666); err != nil {
			w.t.Fatal(err)
		}
	}
}

// stat returns the number that --stats has by a name.
func (w *world) stat(name string) int {
	w.t.Helper()
	text := w.srv.Stats()
	m := regexp.MustCompile(`\b` + name + `:? (\d+)`).FindSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// settled waits until the client is asked nothing more.
func (w *world) settled() {
	w.t.Helper()
	for last, same := "", 0; same < 3; time.Sleep(20 * time.Millisecond) {
		now := fmt.Sprint(w.stat("list"), w.stat("fetch"))
		if now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
}

// A path of several directories is known before it is walked, and the first
// file of a group of settings brings the others.
func TestNeighbours(t *testing.T) {
	w := newWorld(t)
	w.write("repo/.tool/HEAD", "repo/.tool/config", "repo/.tool/refs/heads/main", "repo/file")
	w.srv.Prepare("/repo", true)
	w.settled()
	before := w.stat("waited")
	if got := w.sh("cd repo; cat .tool/HEAD .tool/config .tool/refs/heads/main"); got != "repo/.tool/HEADrepo/.tool/configrepo/.tool/refs/heads/main" {
		t.Fatal(got)
	}
	if n := w.stat("waited") - before; n > 2 {
		t.Errorf("%d round trips were waited for; those for the first content were expected\n%s", n, w.srv.Stats())
	}
}

// In a store of many directories only what is not named like the rest is
// guessed, and to use some of what it stores starts no walk.
func TestStore(t *testing.T) {
	w := newWorld(t)
	for i := range 200 {
		w.write(fmt.Sprintf("repo/store/%02x/object%d", i, i))
	}
	w.write("repo/store/info/alternates", "repo/store/pack/index", "repo/.a", "repo/.b", "repo/.c")
	w.srv.Prepare("/repo", true)
	w.settled()
	w.sh("cd repo; cat .a .b .c >/dev/null; cd store; cat 55/object85 20/object32 a1/object161 info/alternates pack/index >/dev/null")
	w.settled()
	if n := w.stat("list"); n > 12 {
		t.Errorf("%d listings\n%s", n, w.srv.Stats())
	}
	if n := w.stat("fetch"); n > 12 {
		t.Errorf("%d contents were guessed\n%s", n, w.srv.Stats())
	}
}

// Guesses that are of no use stop.
func TestUnluckyNeighbours(t *testing.T) {
	w := newWorld(t)
	const dirs = 100
	for i := range dirs {
		for j := range 4 {
			p := fmt.Sprintf("repo/%02d/f%d", i, j)
			w.write(p)
			if err := os.Truncate(filepath.Join(w.client, p), 8<<10); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Every third directory, from the last: no order that a walk has.
	for i := dirs - 1; i >= 0; i -= 3 {
		w.sh(fmt.Sprintf("cat repo/%02d/f1 >/dev/null", i))
	}
	w.settled()
	if n := w.stat("fetch"); n > 2*64/8 {
		t.Errorf("%d contents of 8 KiB were fetched for nothing\n%s", n, w.srv.Stats())
	}
}

// A walk that the budget interrupts goes on when there is room again.
func TestWalkGoesOn(t *testing.T) {
	w := newWorld(t)
	const dirs = 600
	for i := range dirs {
		w.write(fmt.Sprintf("repo/%03d/f", i))
	}
	w.sh("ls repo/000 repo/001 repo >/dev/null; ls repo/* >/dev/null")
	w.settled()
	before := w.stat("waited")
	if n := w.sh("find repo -type f | wc -l"); n != strconv.Itoa(dirs) {
		t.Fatal(n)
	}
	if n := w.stat("waited") - before; n > 10 {
		t.Errorf("%d round trips were waited for\n%s", n, w.srv.Stats())
	}
}

// An archive's files come out with their contents, modes and times, whatever
// calls were made one.
func TestUnpack(t *testing.T) {
	w := newWorld(t)
	const files = 200
	src := t.TempDir()
	for i := range files {
		p := filepath.Join(src, fmt.Sprintf("f%03d", i))
		if err := os.WriteFile(p, bytes.Repeat([]byte{byte(i)}, 100*i), 0o600); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o600 | i%8<<3 | i%8)
		if i%5 == 0 {
			mode |= os.ModeSetuid
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1e9+i), int64(i))
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	// Records of 512 bytes make several writes of a file.
	w.sh("mkdir out; tar c -b1 --format=posix -C " + src + " . | tar xp -b1 -C out")
	if _, _, err := w.srv.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("diff", "-r", src, filepath.Join(w.client, "out")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for i := range files {
		name := fmt.Sprintf("f%03d", i)
		var want, got os.FileInfo
		want, err := os.Stat(filepath.Join(src, name))
		if err == nil {
			got, err = os.Stat(filepath.Join(w.client, "out", name))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) {
			t.Errorf("%s: %v %v, want %v %v", name, got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
		}
	}
}
