package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gitEnv lets git work without the user's configuration, which a session may
// not write anyway.
const gitEnv = `export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@x GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@x GIT_CONFIG_NOSYSTEM=1
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=init.defaultBranch GIT_CONFIG_VALUE_0=main
`

// TestGit makes, clones, changes and collects a repository on the server, and
// holds what is then on the client to be sound.
func TestGit(t *testing.T) {
	needProgram(t, "git")
	s := newSite(t)
	s.sh(t, gitEnv+`
mkdir repo && cd repo && git init -q
for d in 1 2 3 4 5; do mkdir d$d; for f in $(seq 40); do echo "file $d $f" >d$d/f$f; done; done
git add . && git commit -qm first
echo changed >>d1/f1; git mv d2/f2 d2/moved; git rm -q d3/f3; git commit -qam second
git branch side HEAD~1 && git checkout -q side && echo side >s && git add s && git commit -qm side && git checkout -q main && git merge -q -m merged side
git gc -q --aggressive --prune=now && cd .. && git clone -q repo copy && git -C copy log --oneline | wc -l`)
	out := s.local(t, gitEnv+`cd copy && git fsck --strict 2>&1; git status --porcelain; git -C ../repo fsck --strict 2>&1; git -C ../repo status --porcelain; git log --oneline | wc -l`)
	if strings.TrimSpace(out) != "4" {
		t.Errorf("on the client: %q", out)
	}
	// The index that the client wrote is valid on the server: nothing is read
	// again, because attributes are the client's own.
	s.local(t, gitEnv+`cd repo && git status >/dev/null && echo local >>d1/f2`)
	if out := s.sh(t, gitEnv+`cd repo && git status --porcelain && git diff --stat | tail -n 1`); !strings.HasPrefix(out, " M d1/f2\n 1 file changed") {
		t.Errorf("git status on the server: %q", out)
	}
	s.sh(t, gitEnv+`cd repo && git stash -q && git worktree add -q ../tree side && git -C ../tree grep -q side`)
}

// TestSQLite uses one database from both sides at once, in both journal modes.
func TestSQLite(t *testing.T) {
	needProgram(t, "sqlite3")
	for _, mode := range []string{"delete", "truncate", "wal"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			db := mode + ".db"
			if out := s.ok(t, "sqlite3", db, "pragma journal_mode="+mode+"; create table t(side text, i integer);"); strings.TrimSpace(out) != mode {
				t.Errorf("journal mode %q", out)
			}
			insert := `for i in $(seq 50); do echo "pragma busy_timeout=20000; insert into t values('$S',$i);"; done | sqlite3 ` + db + ` >/dev/null`
			// WAL needs memory shared by all its processes, which two machines
			// do not have: SQLite itself forbids it over a network. There the
			// sides take turns.
			if mode == "wal" {
				s.sh(t, "S=server; "+insert)
				s.sh(t, "S=server2; ("+insert+") & S=server3; ("+insert+") & wait")
				s.local(t, "S=client; "+insert)
			} else {
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.local(t, "S=client; "+insert)
				}()
				s.sh(t, "S=server; "+insert)
				<-done
			}
			want := "100"
			if mode == "wal" {
				want = "200"
			}
			for side, out := range map[string]string{
				"client": s.local(t, "sqlite3 "+db+" 'select count(*) from t; pragma integrity_check'"),
				"server": s.ok(t, "sqlite3", db, "select count(*) from t; pragma integrity_check"),
			} {
				if out != want+"\nok\n" {
					t.Errorf("on the %s: %q", side, out)
				}
			}
		})
	}
}

// TestCompile compiles Lua on the server, in the client's tree, runs the
// result on both sides, and checks that make agrees on what is up to date.
func TestCompile(t *testing.T) {
	needProgram(t, "gcc", "make", "tar")
	archive, err := filepath.Abs(".cache/lua.tar.gz")
	if err == nil {
		_, err = os.Stat(archive)
	}
	need(t, err == nil, "test/.cache/lua.tar.gz (test/lua.sh fetches it)")
	s := newSite(t)
	s.local(t, "cp "+archive+" lua.tar.gz")
	out := s.sh(t, `tar xf lua.tar.gz && cd lua-*/src && make -s -j2 MYCFLAGS=-DLUA_USE_POSIX AR='ar rc' all SYSLIBS= 2>&1 && ./lua -e 'print(6*7)' && ls liblua.a`)
	if out != "42\nliblua.a\n" {
		t.Errorf("on the server: %q", short(out))
	}
	out = s.local(t, `cd lua-*/src && ./lua -e 'print(6*7)' && make -q all && echo current; touch lstate.h`)
	if out != "42\ncurrent\n" {
		t.Errorf("on the client: %q", short(out))
	}
	// The header that was touched on the client makes the server rebuild.
	out = s.sh(t, `cd lua-*/src && make -q all || echo $?; make -s clean; make -q all || echo $?`)
	if out != "1\n1\n" {
		t.Errorf("after touching a header: %q", short(out))
	}
}

// TestArchives packs and unpacks trees with tar and rsync.
func TestArchives(t *testing.T) {
	needProgram(t, "tar", "rsync")
	s := newSite(t)
	s.local(t, `mkdir -p tree/a/b; for i in $(seq 300); do head -c $((i*37)) /dev/urandom >tree/a/f$i; done; ln tree/a/f1 tree/a/b/hard; ln -s ../f2 tree/a/b/sym
		touch -d '2001-02-03 04:05:06.789012345' tree/a/f3; chmod 4711 tree/a/f4; mkfifo tree/pipe; head -c 5 /dev/zero >tree/sparse; truncate -s 10M tree/sparse`)
	s.sh(t, `tar cf t.tar tree && mkdir un && tar xpf t.tar -C un && rsync -aHS --delete tree/ synced/ && tar cf - tree | (mkdir piped && tar xpf - -C piped)`)
	out := s.local(t, `
list() { (cd "$1" && find . -printf '%p %y %m %s %T@ %l %n\n' | sed 's/^\(.* d .*\) [0-9.]* *$/\1/' | sort); }
list tree >want; for d in un/tree piped/tree synced; do list $d >got; cut -d' ' -f1-4,6- want >w; cut -d' ' -f1-4,6- got >g; diff w g; diff -r --no-dereference -x pipe tree $d; done
stat -c %y synced/a/f3`)
	if want := "2001-02-03 04:05:06.789012345"; !strings.HasPrefix(out, want) {
		t.Errorf("differences: %q", short(out))
	}
	if out := s.sh(t, `rsync -aHSni --delete tree/ synced/`); out != "" {
		t.Errorf("rsync would still change: %q", short(out))
	}
	// The stream of the example in the manual.
	out = s.local(t, `tar cf - tree | `+s.Bin+`/nexec -F `+s.Config+` box gzip -1 | tar tzf - | wc -l; tar cf - tree | tar tf - | wc -l`)
	if lines := strings.Fields(out); len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("tar through gzip: %q", out)
	}
}

// TestGoBuild builds and runs a Go program of the client on the server.
func TestGoBuild(t *testing.T) {
	goroot := os.Getenv("GOROOT")
	if goroot == "" {
		goroot = "/usr/local/go"
	}
	_, err := os.Stat(goroot + "/bin/go")
	need(t, err == nil, goroot+"/bin/go")
	s := newSite(t)
	s.write(t, "m/go.mod", "module example.com/m\n\ngo 1.21\n")
	s.write(t, "m/main.go", "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"built\") }\n")
	r := s.run(t, "", "-e", "CGO_ENABLED=0", "-e", "GOFLAGS=", "-e", "GOCACHE="+s.Work+"/cache", "box", "sh", "-ec", "cd m && "+goroot+"/bin/go build -o prog . && ./prog && "+goroot+"/bin/go vet .")
	if r.out != "built\n" || r.code != 0 {
		t.Error(r)
	}
	if out := s.local(t, "m/prog"); out != "built\n" {
		t.Errorf("on the client: %q", out)
	}
}

// TestPython runs what python programs do most with files.
func TestPython(t *testing.T) {
	needProgram(t, "python3")
	s := newSite(t)
	s.write(t, "pkg/__init__.py", "")
	s.write(t, "pkg/mod.py", "def f(): return 42\n")
	s.write(t, "main.py", `
import os, shutil, sqlite3, subprocess, tempfile, multiprocessing, pathlib
from pkg.mod import f
def work(i): return pathlib.Path("out%d" % i).write_text(str(i))
if __name__ == "__main__":
    with multiprocessing.Pool(4) as p: p.map(work, range(20))
    with tempfile.TemporaryDirectory(dir=".") as d:
        shutil.copytree("pkg", d + "/copy"); assert sorted(os.listdir(d + "/copy"))[0] == "__init__.py"
    assert subprocess.check_output(["cat", "out7"]) == b"7"
    print(f(), len(list(pathlib.Path(".").glob("out*"))))
`)
	if out := s.ok(t, "python3", "main.py"); out != "42 20\n" {
		t.Errorf("%q", out)
	}
	if s.read(t, "out19") != "19" {
		t.Error("out19")
	}
}

// TestVim edits a file of the client with a full-screen program of the server,
// under tmux.
func TestVim(t *testing.T) {
	needProgram(t, "tmux")
	editor := ""
	for _, name := range []string{"vim", "vim.tiny"} {
		if _, err := os.Stat("/usr/bin/" + name); err == nil {
			editor = name
			break
		}
	}
	need(t, editor != "", "vim")
	s := newSite(t)
	s.write(t, "text", "first line\n")
	socket := filepath.Join(s.Dir, "tmux")
	tmux := func(args string) string { return s.local(t, "tmux -S "+socket+" -f /dev/null "+args) }
	tmux("new-session -d -x 80 -y 24 '" + s.Bin + "/nexec -F " + s.Config + " box " + editor + " -u NONE -N text; echo status $? >status; sleep 100'")
	t.Cleanup(func() { s.local(t, "tmux -S "+socket+" kill-server || true") })
	waitFor(t, "vim's screen", func() bool { return strings.Contains(tmux("capture-pane -p"), "first line") })
	tmux(`send-keys 'G' 'o' 'second line' Escape ':set nu' Enter`)
	waitFor(t, "the new line on the screen", func() bool { return strings.Contains(tmux("capture-pane -p"), "2 second line") })
	tmux("resize-window -x 100 -y 30")
	time.Sleep(200 * time.Millisecond)
	tmux(`send-keys ':wq' Enter`)
	waitFor(t, "the end of vim", func() bool {
		b, err := os.ReadFile(filepath.Join(s.Work, "status"))
		return err == nil && strings.HasSuffix(string(b), "\n") // the shell makes the file before it writes
	})
	if got := s.read(t, "text"); got != "first line\nsecond line\n" {
		t.Errorf("the file has %q", got)
	}
	if got := s.read(t, "status"); got != "status 0\n" {
		t.Error(got)
	}
}
