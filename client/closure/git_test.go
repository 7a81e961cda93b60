package closure

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// gitRepository makes one with a commit, with git itself.
func gitRepository(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	git(t, dir, `git init -q -b main . && mkdir -p a/b && echo text >a/b/file && echo '*.o' >.gitignore && git add . && git commit -qm one`)
	return dir
}

func git(t *testing.T, dir, script string) string {
	t.Helper()
	c := exec.Command("sh", "-ec", script)
	c.Dir = dir
	c.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func gitUses(t *testing.T, dir, home string) map[string]fsyscall.UseWhat {
	t.Helper()
	got, last := map[string]fsyscall.UseWhat{}, ""
	for _, u := range Git(dir, home) {
		if u.Path <= last || !strings.HasPrefix(u.Path, "/") {
			t.Errorf("%q after %q", u.Path, last)
		}
		got[u.Path], last = u.What, u.Path
	}
	return got
}

func wantUses(t *testing.T, got map[string]fsyscall.UseWhat, what fsyscall.UseWhat, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if got[p]&what != what {
			t.Errorf("%s: %d, want %d", p, got[p], what)
		}
	}
}

func TestGit(t *testing.T) {
	top := gitRepository(t)
	dot := filepath.Join(top, ".git")
	object := func(name string) string {
		number := git(t, top, "git rev-parse "+name)
		return filepath.Join(dot, "objects", number[:2], number[2:])
	}
	for _, dir := range []string{top, filepath.Join(top, "a/b")} {
		got := gitUses(t, dir, top)
		wantUses(t, got, fsyscall.UseContent, dot+"/HEAD", dot+"/config", dot+"/index", dot+"/info/exclude", dot+"/refs/heads/main",
			top+"/.gitignore", object("HEAD"), object("HEAD^{tree}"))
		wantUses(t, got, fsyscall.UseName, dot+"/packed-refs", dot+"/objects", top+"/.gitconfig", top+"/.gitattributes")
		wantUses(t, got, fsyscall.UseListing, dot, top, top+"/a", top+"/a/b")
		if what := got[dot+"/refs"]; what&fsyscall.UseListing != 0 {
			t.Errorf("the working tree has .git in it: %d", what)
		}
	}

	t.Run("packed", func(t *testing.T) {
		git(t, top, "git gc -q && git pack-refs --all")
		got := gitUses(t, top, "")
		packs, err := filepath.Glob(dot + "/objects/pack/*.pack")
		if err != nil || len(packs) != 1 {
			t.Fatal(packs, err)
		}
		wantUses(t, got, fsyscall.UseContent, packs[0], strings.TrimSuffix(packs[0], "pack")+"idx", dot+"/packed-refs")
		wantUses(t, got, fsyscall.UseListing, dot+"/objects/pack")
	})
	t.Run("worktree", func(t *testing.T) {
		other := filepath.Join(top, "other")
		git(t, top, "git worktree add -q other -b side && cd other && echo x >new && git add new && git commit -qm two")
		got := gitUses(t, other, "")
		wantUses(t, got, fsyscall.UseContent, other+"/.git", dot+"/worktrees/other/HEAD", dot+"/worktrees/other/index",
			dot+"/worktrees/other/commondir", dot+"/config", dot+"/refs/heads/side", object("side"))
		wantUses(t, got, fsyscall.UseListing, other)
	})
}

// TestGitOddities: what is no repository, or a broken one, is no trouble.
func TestGitOddities(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("out/.git", "gitdir: nowhere/../../at/all\n")
	write("file/.git", "nothing of the kind")
	write("endless/.git/HEAD", "ref: refs/heads/a")
	write("endless/.git/refs/heads/a", "ref: refs/heads/b")
	write("endless/.git/refs/heads/b", "ref: refs/heads/a")
	write("up/.git/HEAD", "ref: refs/../../../etc/passwd")
	write("text/.git/HEAD", strings.Repeat("../", 20)+"etc/passwd")
	write("pipes/.git/HEAD", "ref: refs/heads/a")
	for _, name := range []string{"pipes/.git/packed-refs", "pipes/.git/objects/pack", "pipes/.git/config", "pipe/.git"} { // a read would wait for ever
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), unix.Mkfifo(p, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"out", "file", "endless", "up", "text", "pipes", "pipe", "missing"} {
		for p := range gitUses(t, filepath.Join(dir, name), "") {
			if strings.Contains(p, "passwd") || strings.Contains(p, "..") {
				t.Errorf("%s: %s", name, p)
			}
		}
	}
}

// TestGitBounded: of a large tree a part is named.
func TestGitBounded(t *testing.T) {
	top := gitRepository(t)
	git(t, top, "for i in $(seq 300); do mkdir -p many/d$i; done; mkdir zz; cd zz; seq 9000 | xargs touch")
	listings := 0
	for _, what := range gitUses(t, top, "") {
		if what&fsyscall.UseListing != 0 {
			listings++
		}
	}
	if listings < 3 || listings > maxDirs+2 {
		t.Errorf("%d listings", listings)
	}
}
