package fmaster_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/fslave"
	"github.com/SumiTomohiko/nexec/fsyscall"
)

// workScript uses what a program can use of files: names that are there and
// not, links, listings, small content and large.
const workScript = `cd home/u; cat repo/conf repo/link; ls repo/src; cat repo/src/*.c; test ! -e repo/none; test ! -e nowhere/at/all
cksum <large; cat up/conf`

// workTree makes the files of workScript and returns the client's root.
func workTree(t *testing.T) string {
	w := &world{t: t, client: t.TempDir()}
	w.write("home/u/repo/conf", "home/u/repo/src/a.c", "home/u/repo/src/b.c", "home/u/repo/unused", "home/u/other/unused")
	for name, target := range map[string]string{"home/u/repo/link": "src/a.c", "home/u/up": "../u/repo"} {
		if err := os.Symlink(target, filepath.Join(w.client, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(w.client, "home/u/large"), bytes.Repeat([]byte("large\n"), 1<<19), 0o600); err != nil {
		t.Fatal(err)
	}
	return w.client
}

// workedOn runs workScript in a session of its own and returns its output and
// what it used.
func workedOn(t *testing.T, client string) (out string, uses []fsyscall.PathUse) {
	t.Run("first", func(t *testing.T) {
		w := showWorld(t, client, fslave.Config{})
		out, uses = w.sh(workScript), w.srv.Used()
		if again := w.srv.Used(); again != nil {
			t.Errorf("given twice: %v", again)
		}
	})
	return out, uses
}

// What a command used is all there when it is expected, and nothing else was
// asked for.
func TestWorkingSet(t *testing.T) {
	client := workTree(t)
	want, uses := workedOn(t, client)
	what := map[string]fsyscall.UseWhat{}
	for _, u := range uses {
		what[u.Path] = u.What
	}
	for p, want := range map[string]fsyscall.UseWhat{
		"/home/u/repo/conf": fsyscall.UseContent, "/home/u/repo/src": fsyscall.UseListing, "/home/u/large": fsyscall.UseContent,
	} {
		if what[p]&want == 0 {
			t.Errorf("%s: %b of %v", p, what[p], uses)
		}
	}
	for _, p := range []string{"/home/u/repo/unused", "/home/u/other", "/home/u/other/unused"} {
		if what[p]&^fsyscall.UseName != 0 {
			t.Errorf("%s: %b", p, what[p])
		}
	}
	if src := "/home/u/repo/src"; what[src]&fsyscall.UseContent == 0 || what[src+"/a.c"] != 0 {
		t.Errorf("all files of %s were read: %v", src, uses)
	}
	if packed, err := fsyscall.UnpackUses(fsyscall.PackUses(uses)); err != nil || !slices.Equal(packed, uses) {
		t.Errorf("%v, %v", packed, err)
	}
	t.Run("expected", func(t *testing.T) { useAgain(t, client, want, uses, false) })
	t.Run("listed already", func(t *testing.T) { useAgain(t, client, want, uses, true) })
}

// useAgain runs workScript in a session that expects uses, and that may be
// about to list the working directory anyway, as for a client's first flight.
func useAgain(t *testing.T, client, want string, uses []fsyscall.PathUse, listed bool) {
	next := showWorld(t, client, fslave.Config{})
	if listed {
		next.srv.Prepare("/home/u/repo/src", false)
	}
	next.srv.Expect(uses)
	next.srv.Prepare("/home/u", false) // as for every command
	for deadline := time.Now().Add(20 * time.Second); next.stat("release") == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // until the large file has come
	}
	next.settled()
	before := next.stat("waited")
	if got := next.sh(workScript); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if n := next.stat("waited") - before; n > 0 {
		t.Errorf("%d round trips were waited for\n%s", n, next.srv.Stats())
	}
	if n := next.stat("fetch") + next.stat("open"); n > 5 {
		t.Errorf("%d files were read\n%s", n, next.srv.Stats())
	}
}

// A working set of another time, or one that means something else, does no
// harm.
func TestWrongWorkingSet(t *testing.T) {
	const look = `cd home/u; find . -printf '%p %y %s %l\n' | sort; find . -type f -size -100k | sort | xargs cat`
	_, uses := workedOn(t, workTree(t))
	uses = append(uses, fsyscall.PathUse{Path: "/no/such/dir", What: fsyscall.UseListing},
		fsyscall.PathUse{Path: "/no/such/file", What: fsyscall.UseContent}, fsyscall.PathUse{Path: "/home/u/repo/conf", What: fsyscall.UseListing},
		fsyscall.PathUse{Path: "/home/u", What: fsyscall.UseContent}, fsyscall.PathUse{Path: "/", What: fsyscall.UseContent})
	for _, change := range []string{
		`rm -r repo; mkdir repo; echo new >repo/conf`,
		`rm -r repo/src repo/link; echo file >repo/src; mkdir repo/link; echo x >repo/none`,
		`mv repo old; ln -s old repo; echo more >>old/conf; echo cut >large`,
	} {
		t.Run(change, func(t *testing.T) {
			client := workTree(t)
			w := showWorld(t, client, fslave.Config{})
			w.onClientRun("cd home/u; " + change)
			w.srv.Expect(uses)
			if got, want := w.sh(look), w.onClientRun(look); got != want {
				t.Errorf("%s\nwant\n%s", got, want)
			}
			w.srv.Expect(uses)
			w.onClientRun("echo changed >>home/u/large") // while it may be on its way
			w.soon("changed", "tail -n 1 home/u/large")
		})
	}
}

// onClientRun runs a script in the client's directory and returns its output.
func (w *world) onClientRun(script string) string {
	w.t.Helper()
	c := exec.Command("sh", "-ec", script)
	c.Dir = w.client
	out, err := c.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}
