package closure

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// What Of names is what ldd(1) names.
func TestLibraries(t *testing.T) {
	for _, program := range []string{"python3", "git", "sqlite3", "perl", "gcc", "vim", "ssh", "tmux", "ls"} {
		p, err := exec.LookPath("/usr/bin/" + program)
		if err != nil {
			continue // what this machine lacks
		}
		t.Run(program, func(t *testing.T) {
			out, err := exec.Command("ldd", p).Output()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]fsyscall.UseWhat{}
			for _, u := range Of(p, "") {
				got[u.Path] = u.What
			}
			n := 0
			for line := range strings.Lines(string(out)) {
				for _, word := range strings.Fields(line) {
					if !strings.HasPrefix(word, "/") {
						continue
					}
					real, err := filepath.EvalSymlinks(word)
					if err != nil {
						t.Fatal(err)
					}
					if n++; got[real]&fsyscall.UseContent == 0 {
						t.Errorf("%s (%s) is missing", word, real)
					}
				}
			}
			if n < 2 {
				t.Fatalf("ldd said\n%s", out)
			}
		})
	}
}

func TestWays(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	script := write("bin/script", "#! "+dir+"/bin/link -x\n", 0o755)
	plain := write("bin/plain", "", 0o644)
	endless := write("bin/endless", "#!"+dir+"/bin/endless\n", 0o755)
	if err := os.Symlink("../lib/tool", filepath.Join(dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("round", filepath.Join(dir, "bin/round")); err != nil {
		t.Fatal(err)
	}
	tool := write("lib/tool", "neither script nor ELF", 0o755)
	uses := func(file, search string) map[string]fsyscall.UseWhat {
		got := map[string]fsyscall.UseWhat{}
		last := ""
		for _, u := range Of(file, search) {
			if u.Path <= last {
				t.Errorf("%q after %q", u.Path, last)
			}
			got[u.Path], last = u.What, u.Path
		}
		return got
	}
	const name, content = fsyscall.UseName, fsyscall.UseName | fsyscall.UseContent
	got := uses("script", "relative:/nonexistent:"+dir+"/bin")
	for p, want := range map[string]fsyscall.UseWhat{
		"/nonexistent": name, script: content, dir + "/bin/link": name, tool: content, dir: name, plain: 0,
	} {
		if got[p] != want {
			t.Errorf("%s: %b, want %b", p, got[p], want)
		}
	}
	if got := uses(endless, ""); got[endless] != content {
		t.Errorf("a script that is its own interpreter: %v", got)
	}
	uses(dir+"/bin/round", "")
	pipe := filepath.Join(dir, "bin/pipe")
	if err := unix.Mkfifo(pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := uses(pipe, ""); got[pipe] != content { // and does not wait for a writer
		t.Errorf("a pipe: %v", got)
	}
	for _, nothing := range []string{"plain", "nosuch", "relative/file", ""} {
		if got := Of(nothing, dir+"/bin"); nothing != "plain" && got != nil {
			t.Errorf("%q: %v", nothing, got)
		}
	}
}

// Whatever a file has in it, the way ends.
func FuzzProgram(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Add([]byte("#!/bin/sh\n"))
	if b, err := os.ReadFile("/bin/true"); err == nil {
		f.Add(b[:min(len(b), 4096)])
	}
	p := filepath.Join(f.TempDir(), "program")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(p, b, 0o755); err != nil {
			t.Fatal(err)
		}
		Of(p, "")
	})
}
