package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// TestLargeExec has an environment and arguments near and over what one
// message and the kernel take: they arrive whole, or there is one line.
func TestLargeExec(t *testing.T) {
	s := newSite(t)
	run := func(vars, size int) result {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c := s.Nexec(ctx, "box", "sh", "-c", `i=0; n=0; while [ $i -lt `+strconv.Itoa(vars)+` ]; do eval "v=\$BIG$i"; n=$((n+${#v})); i=$((i+1)); done; echo $n`)
		for i := range vars {
			c.Env = append(c.Env, fmt.Sprintf("BIG%d=%s", i, strings.Repeat("x", size)))
		}
		return collect(t, ctx, c)
	}
	if r := run(8, 100_000); r.out != "800000\n" || r.code != 0 {
		t.Errorf("800 kB: %s", r)
	}
	r := run(16, 100_000)
	whole := r.code == 0 && r.out == "1600000\n"
	refused := (r.code == 255 || r.code == 126) && strings.HasPrefix(r.err, "nexec: ") && strings.Count(r.err, "\n") == 1
	if !whole && !refused {
		t.Errorf("1.6 MB: %s", r)
	}
	if got := s.ok(t, "sh", "-c", "echo ${#1}", "sh", strings.Repeat("y", 120_000)); got != "120000\n" {
		t.Errorf("an argument of 120,000 bytes: %q", got)
	}
	// A script of the server that exceeds its own limit hears so.
	if got := s.sh(t, `/bin/echo "$(head -c 3000000 /dev/zero | tr '\0' x)" 2>&1 | tail -c 40 || true`); !strings.Contains(got, "too long") {
		t.Errorf("an argument of 3 MB: %q", got)
	}
}

// TestAsRootHardLimits has a server that allows less than the client asks for:
// the command gets what there is.
func TestAsRootHardLimits(t *testing.T) {
	s := newSite(t)
	o := harness.ServerOptions{Alias: "small", Script: serverScript(s.Client) + "ulimit -n 300; ulimit -s 4096; ulimit -c 0"}
	if _, err := s.StartNexecd(o); err != nil {
		t.Fatal(err)
	}
	r := s.run(t, "", "-l", "ann", "small", "sh", "-c", "ulimit -S -n; ulimit -H -n; ulimit -H -s; ulimit -H -c")
	if r.code != 0 || r.out != "300\n300\n4096\n0\n" || r.err != "" {
		t.Error(r)
	}
}

// TestLargeFiles writes beyond 4 GiB and reads there.
func TestLargeFiles(t *testing.T) {
	s := newSite(t)
	s.sh(t, `printf end | dd of=big bs=1 seek=6442450944 conv=notrunc 2>/dev/null; test "$(tail -c 3 big)" = end; stat -c %s big; truncate -s 5G big; cp --sparse=always big copy`)
	if got := strings.TrimSpace(s.local(t, "stat -c %s big copy | tr '\\n' ' '")); got != "5368709120 5368709120" {
		t.Errorf("sizes %s", got)
	}
}

// TestAsRootMillion lists a directory of a million entries. It is in memory,
// where making and removing them takes seconds rather than minutes.
func TestAsRootMillion(t *testing.T) {
	s := newSite(t)
	dir := filepath.Join(s.Work, "many")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("none", dir, "tmpfs", 0, "mode=0755,nr_inodes=1100000"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for i := range 1_000_000 {
		must(t, unix.Mknod(fmt.Sprintf("%s/entry-%07d", dir, i), unix.S_IFREG|0o600, 0))
	}
	if got := s.sh(t, "ls -f many | wc -l"); strings.TrimSpace(got) != "1000002" {
		t.Errorf("%s names", strings.TrimSpace(got))
	}
	if got := s.sh(t, "cat many/entry-0999999; stat -c %s many/entry-0000000; test ! -e many/none && rm many/entry-0500000 && echo removed"); got != "0\nremoved\n" {
		t.Errorf("%q", got)
	}
}

// TestDefaultShell logs in without a command.
func TestDefaultShell(t *testing.T) {
	s := newSite(t)
	term := s.terminal(t, "box")
	send(t, term, "echo $((40+2)); test -t 0 && echo term$((1+1)); exit 9\r")
	expect(t, term, "42")
	expect(t, term, "term2")
	term.Wait(10 * time.Second)
	if code := exitCode(term.Cmd.ProcessState); code != 9 {
		t.Errorf("status %d", code)
	}
}

var trips = regexp.MustCompile(`(?im)round[ -]trips waited(?: for)?:?\s*(\d+)`)

// TestRoundTrips holds the round trips that a job waits for to what they are
// now. They decide what it costs at a distance, and noise does not touch them.
// Whoever lowers one lowers its bound.
func TestRoundTrips(t *testing.T) {
	needProgram(t, "git", "tar", "gcc", "make")
	s := newSite(t)
	s.local(t, gitEnv+`mkdir tree repo small; for d in $(seq 20); do mkdir tree/$d; for f in $(seq 50); do echo $f >tree/$d/$f; done; done
cd repo; git init -q .; for d in $(seq 20); do mkdir d$d; for f in $(seq 50); do echo "$d $f" >d$d/f$f; done; done; git add .; git commit -qm all; git status >/dev/null; cd ..
cp -r tree small/; tar cf small.tar small; rm -r small
mkdir -p prog/inc; cd prog; printf 'CFLAGS = -Iinc\nprog: %s\n\tcc -o $@ $^\n' "$(for f in $(seq 20); do printf 'f%d.o ' $f; done) main.o" >Makefile
for f in $(seq 20); do echo "int f$f(void);" >inc/f$f.h; printf '#include "f%d.h"\nint f%d(void) { return %d; }\n' $f $f $f >f$f.c; done
(for f in $(seq 20); do echo "#include \"f$f.h\""; done; echo 'int main(void) { return f20() - 20; }') >main.c`)
	for _, c := range []struct {
		name, script string
		most, again  int // the first time, and with the working set of the first
	}{
		{"echo", "/bin/echo hi", 3, 2},
		{"find", "find tree -printf '%s\\n' | wc -l", 5, 3},
		{"git status", gitEnv + "cd repo && git status --porcelain", 14, 4},
		{"git grep", gitEnv + "cd repo && ! git grep -q nothing-has-this", 8, 6},
		{"compile", "cd prog && make -s -B -j2 && ./prog", 9, 5},
		{"untar", "tar xf small.tar", 10, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.fewTrips(t, ".", c.script, c.most, true)
			s.fewTrips(t, ".", c.script, c.again, false)
		})
	}
	// From within, the client knows beforehand what git will read.
	t.Run("git status there", func(t *testing.T) {
		s.fewTrips(t, "repo", gitEnv+"git status --porcelain", 8, true)
		s.fewTrips(t, "repo", gitEnv+"git status --porcelain", 4, false)
	})
}

// fewTrips runs a script in dir, for the first time or not, and wants it to wait
// for at most so many round trips. What a busy machine answers late is waited for,
// so the best of three runs counts.
func (s *site) fewTrips(t *testing.T, dir, script string, most int, first bool) {
	t.Helper()
	for try := 1; ; try++ {
		if first {
			must(t, os.RemoveAll(filepath.Join(s.Home, ".local/state/nexec/worksets")))
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := s.Nexec(ctx, "--stats", "box", "sh", "-ec", script)
		cmd.Dir = filepath.Join(cmd.Dir, dir)
		r := collect(t, ctx, cmd)
		cancel()
		m := trips.FindStringSubmatch(r.err)
		if r.code != 0 || m == nil {
			t.Fatal(r)
		}
		n, err := strconv.Atoi(m[1])
		must(t, err)
		t.Logf("%d round trips", n)
		if n <= most {
			return
		}
		if try == 3 {
			t.Errorf("%d round trips, at most %d are expected; --stats says:\n%s", n, most, r.err)
			return
		}
	}
}
