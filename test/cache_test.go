package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	cacheLine = regexp.MustCompile(`content cache: (\d+) files, (\d+) bytes not sent, (\d+) stored`)
	sentLine  = regexp.MustCompile(`(\d+) bytes in \d+ frames sent`)
)

// cost is what --stats says of a session.
type cost struct {
	recalled, saved, stored, sent, trips int
	cached                               bool // there is a content cache
}

// measure runs a script in a session of its own and returns its output and
// what it cost.
func (s *site) measure(t testing.TB, script string, options ...string) (string, cost) {
	t.Helper()
	args := append(append([]string{"--stats"}, options...), "box", "sh", "-ec", script)
	r := s.run(t, "", args...)
	sent, waited := sentLine.FindStringSubmatch(r.err), trips.FindStringSubmatch(r.err)
	if r.code != 0 || sent == nil || waited == nil {
		t.Fatalf("%q: %s", args, r)
	}
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	c := cost{sent: number(sent[1]), trips: number(waited[1])}
	if m := cacheLine.FindStringSubmatch(r.err); m != nil {
		c.cached, c.recalled, c.saved, c.stored = true, number(m[1]), number(m[2]), number(m[3])
	}
	return r.out, c
}

// settle waits until the files below dir are old enough to be kept, or tells
// that they never will be there.
func settle(t testing.TB, dir string) bool {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	switch uint32(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		time.Sleep(2500 * time.Millisecond)
		return true
	}
	return false
}

// random returns n bytes that do not compress, different for each seed.
func random(seed, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return string(b)
}

// TestContentCache reads a tree in one session, and in a second one, which
// must not be sent what the first one was.
func TestContentCache(t *testing.T) {
	s := newSite(t)
	const files, size = 60, 20_000
	for i := range files {
		s.write(t, fmt.Sprintf("tree/d%d/f%d", i%6, i), random(i, size))
	}
	const script = "find tree -type f | sort | xargs cat | sha256sum"
	want := s.local(t, script)
	if !settle(t, s.Work) {
		out, c := s.measure(t, script)
		if again, c2 := s.measure(t, script); out != want || again != want || c.stored+c2.recalled > 0 {
			t.Errorf("%q, %q, want %q; %+v, %+v", out, again, want, c, c2)
		}
		return
	}
	out, first := s.measure(t, script)
	if out != want || !first.cached || first.recalled != 0 || first.sent < files*size {
		t.Fatalf("first: %q, want %q, %+v", out, want, first)
	}
	second := s.recalls(t, script, want, files)
	t.Logf("first %+v, second %+v", first, second)
	// Guesses about names, which are sent in both, may differ.
	if second.sent > first.sent-files*size/2 || second.saved < files*size || second.trips > first.trips+2 {
		t.Errorf("first %+v, second %+v", first, second)
	}

	t.Run("changed", func(t *testing.T) {
		// The same size and time of change of content: only ctime tells.
		path := filepath.Join(s.Work, "tree/d0/f0")
		st, err := os.Stat(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(random(files, size)), 0o644))
		must(t, os.Chtimes(path, time.Now(), st.ModTime()))
		must(t, os.Remove(filepath.Join(s.Work, "tree/d1/f1")))
		want := s.local(t, script)
		if out, c := s.measure(t, script); out != want || c.recalled != files-2 {
			t.Errorf("%q, want %q; %+v", out, want, c)
		}
	})
	t.Run("no cache", func(t *testing.T) {
		want := s.local(t, script)
		for range 2 {
			if out, c := s.measure(t, script, "--no-cache"); out != want || c.cached || c.sent < (files-1)*size {
				t.Errorf("%q, want %q; %+v", out, want, c)
			}
		}
	})
	t.Run("another client", func(t *testing.T) {
		// The same files, of somebody who does not know the secret.
		must(t, os.RemoveAll(filepath.Join(s.Home, ".local/state/nexec")))
		want := s.local(t, script)
		if out, c := s.measure(t, script); out != want || !c.cached || c.recalled != 0 {
			t.Errorf("%q, want %q; %+v", out, want, c)
		}
	})
	t.Run("hidden", func(t *testing.T) {
		if out := s.sh(t, "cd "+s.Home+"/.local/state && ls && ! cat nexec/machine 2>/dev/null"); out != "" {
			t.Errorf("the server sees %q", out)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		want := s.local(t, script)
		s.recalls(t, script, want, files-1)
		packs, err := filepath.Glob(s.Caches() + "/*/pack-*")
		must(t, err)
		for _, p := range packs {
			b, err := os.ReadFile(p)
			must(t, err)
			for i := len(b) / 4; i < len(b); i += 1000 {
				b[i] ^= 1
			}
			must(t, os.WriteFile(p, b, 0o600))
		}
		if out, c := s.measure(t, script); len(packs) == 0 || out != want || c.recalled > files/2 {
			t.Errorf("%d packs, %q, want %q; %+v", len(packs), out, want, c)
		}
	})
}

// recalls runs the script in further sessions until one takes so many files
// from the cache: the end of a session stores what it has read after nexec has
// ended.
func (s *site) recalls(t testing.TB, script, want string, files int) cost {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, c := s.measure(t, script)
		if out != want {
			t.Fatalf("%q, want %q; %+v", out, want, c)
		}
		if c.recalled >= files {
			return c
		}
		if time.Now().After(end) {
			t.Fatalf("only %+v", c)
		}
	}
}

// TestNoCacheDirectory: where no cache can be had, a session does without.
func TestNoCacheDirectory(t *testing.T) {
	s := newSite(t)
	must(t, os.WriteFile(filepath.Join(s.Caches(), strconv.Itoa(os.Getuid())), nil, 0o600))
	s.write(t, "f", "content")
	r := s.run(t, "", "--stats", "box", "cat", "f")
	if r.code != 0 || r.out != "content" || !strings.Contains(r.err, "note: no content cache: ") {
		t.Error(r)
	}
}
