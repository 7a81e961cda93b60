package fmaster_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fslave"
	"github.com/SumiTomohiko/nexec/subsystem/filecache"
	"github.com/SumiTomohiko/nexec/subsystem/fmaster"
)

// past is a client with files that are old enough to be kept, and the cache
// that sessions with it share.
type past struct {
	t      *testing.T
	client string
	dir    string
	slave  fslave.Config
	proven bool // the client's file system is one whose files are kept
}

// newPast makes the files with their contents.
func newPast(t *testing.T, files map[string]string) *past {
	t.Helper()
	p := &past{t: t, client: t.TempDir(), dir: filepath.Join(t.TempDir(), "cache")}
	for name, content := range files {
		p.put(name, content)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p.client, &fs); err != nil {
		t.Fatal(err)
	}
	switch uint32(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		p.proven = true
	}
	return p
}

// TestRecall makes the files of all cases first, so that it has to wait only
// once until they are old enough.
func TestRecall(t *testing.T) {
	const k = 1000
	cases := []struct {
		name  string
		files map[string]string
		run   func(*past)
	}{
		{"unchanged", map[string]string{"d/a": "one", "d/b": "two", "d/empty": "", "d/big": strings.Repeat("x", 100*k)}, recallUnchanged},
		{"changed", map[string]string{"a": "one", "b": "two", "c": "same"}, recallChanged},
		{"unleased", map[string]string{"a": "one", "b": "two"}, recallUnleased},
		{"own changes", map[string]string{"a": "one", "b": "two", "c": "three"}, recallOwnChanges},
		{"written", map[string]string{"a": "one", "b": "two"}, recallWritten},
		{"removed", map[string]string{"a": "one", "b": "two"}, recallRemoved},
		{"damaged", map[string]string{"a": strings.Repeat("one", k), "b": strings.Repeat("two", k)}, recallDamaged},
		{"large", map[string]string{"a": strings.Repeat("large", 600*k), "b": strings.Repeat("LARGE", 600*k), "over": strings.Repeat("larger", 1500*k)}, recallLarge},
		{"scattered", map[string]string{"a": strings.Repeat("here and there", 200*k), "b": strings.Repeat("far, too", 300*k)}, recallScattered},
		{"grown", map[string]string{"a": strings.Repeat("large", 1500*k)}, recallGrown},
	}
	var pasts []*past
	for _, c := range cases {
		pasts = append(pasts, newPast(t, c.files))
	}
	time.Sleep(2500 * time.Millisecond)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pasts[i].t = t
			c.run(pasts[i])
		})
	}
}

func (p *past) put(name, content string) {
	p.t.Helper()
	path := filepath.Join(p.client, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// session runs a script in a session of its own, wants its output, and returns
// how many files came from the cache and how many went into it. Where nothing
// can be kept it returns what is wanted.
func (p *past) session(want, script string, recalled, stored uint64, opts ...option) *world {
	p.t.Helper()
	return p.during(want, script, recalled, stored, func() {}, opts...)
}

// during is session with something done on the client meanwhile.
func (p *past) during(want, script string, recalled, stored uint64, meanwhile func(), opts ...option) (w *world) {
	p.t.Helper()
	cache, err := filecache.Open(p.dir, filecache.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Run("session", func(t *testing.T) {
		with := func(c *fmaster.Config) { c.Cache, c.Hello.Machine = cache, [32]byte{1} }
		w = showWorld(t, p.client, p.slave, append([]option{with}, opts...)...)
		done := make(chan struct{})
		go func() { defer close(done); meanwhile() }()
		got := w.sh(script)
		<-done
		if got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
		line := fmt.Sprintf("content cache: %d files,", recalled)
		if p.proven && recalled != none && recalled != any &&
			!strings.Contains(string(w.srv.Stats()), line) {
			t.Errorf("%s: want %s", w.srv.Stats(), line)
		}
	})
	if err := cache.Close(); err != nil {
		p.t.Error(err)
	}
	if got := cache.Stats().Stored; p.proven && stored != any && got != stored {
		p.t.Errorf("%s: %d stored, want %d", script, got, stored)
	}
	return w
}

// none: the session has no content cache. any: it depends on whether what has
// just been changed is old enough by now.
const (
	none = ^uint64(0) - iota
	any
)

func recallUnchanged(p *past) {
	const script = "cat d/a d/b d/empty; cat d/big | wc -c"
	p.session("onetwo100000", script, 0, 3)
	w := p.session("onetwo100000", script, 3, 0)
	if st := string(w.srv.Stats()); p.proven && (strings.Contains(st, " open 3") || strings.Contains(st, " read ") || strings.Contains(st, " fetch ")) {
		p.t.Errorf("the client was asked: %s", st)
	}
	p.session("onetwo100000", script, none, 0, func(c *fmaster.Config) { c.Hello.Machine = [32]byte{} })
	p.session("onetwo100000", script, none, 0, bothModes)
	p.session("onetwo100000", script, 0, 3, func(c *fmaster.Config) { c.Hello.Machine = [32]byte{2} })
	p.session("onetwo100000", script, 3, 0, syncMode)
}

// A file that was changed is another one, whatever its size and mtime say.
func recallChanged(p *past) {
	p.session("onetwosame", "cat a b c", 0, 3)
	st, err := os.Stat(filepath.Join(p.client, "a"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.put("a", "ONE")
	if err := os.Chtimes(filepath.Join(p.client, "a"), time.Now(), st.ModTime()); err != nil {
		p.t.Fatal(err)
	}
	p.put("new", "TWO")
	if err := os.Rename(filepath.Join(p.client, "new"), filepath.Join(p.client, "b")); err != nil {
		p.t.Fatal(err)
	}
	p.session("ONETWOsame", "cat a b c", 1, any)
}

// The same where nothing is leased, so that each open asks the client.
func recallUnleased(p *past) {
	p.slave.NoWatch = true
	p.session("onetwo", "cat a b", 0, 2)
	p.session("onetwo", "cat a b", 2, 0)
	p.during("oneONE", "cat a; touch seen; sleep 4; cat a", 1, any, func() {
		p.await("seen")
		p.put("a", "ONE")
	})
}

// local runs a script where the client has its files.
func (p *past) local(script string) string {
	p.t.Helper()
	c := exec.Command("/bin/sh", "-ec", script)
	c.Dir = p.client
	out, err := c.Output()
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// await waits for a file on the client.
func (p *past) await(name string) {
	p.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(filepath.Join(p.client, name)); err == nil {
			return
		}
	}
	p.t.Errorf("%s does not appear on the client", name)
}

// What the session has changed has attributes that it made up: these are
// neither looked up nor stored under. The next session finds the client's.
func recallOwnChanges(p *past) {
	p.session("onetwothree", "cat a b c", 0, 3)
	p.session("oneone+twothree", "chmod 600 a; cat a; printf + >>a; cat a; mv b B; cat B; touch -d 2001-01-01 c; cat c", 0, any)
	p.session("one+twothreenewnew", "cat a B c; printf new >n; cat n; sleep 2.5; cat n", any, any)
	time.Sleep(2500 * time.Millisecond)
	p.session("one+twothreenew", "cat a B c n", any, any)
	p.session("one+twothreenew", "cat a B c n", 4, 0)
}

// Content from the cache may be written to in memory, and what was stored does
// not follow.
func recallWritten(p *past) {
	p.session("oneoNetwo", "cat a; printf N | dd of=a bs=1 seek=1 conv=notrunc status=none; cat a b", 0, 2)
	p.session("oNetwo", "cat a b", 1, any)
	p.session("tWo", "cat b >/dev/null; printf W | dd of=b bs=1 seek=1 conv=notrunc status=none; cat b", 1, 0)
	p.session("oNetWo", "cat a b", any, any)
}

// A file that the client does not know to be open is what it was when it has
// lost its name there.
func recallRemoved(p *past) {
	p.session("onetwo", "cat a b", 0, 2)
	p.during("onetwoTWO", "exec 3<a 4<b; touch seen; until test -e go; do sleep 0.05; done; cat <&3; cat <&4; cat b; test ! -e a", 2, 0, func() {
		p.await("seen")
		if err := os.Remove(filepath.Join(p.client, "a")); err != nil {
			p.t.Error(err)
		}
		p.put("new", "TWO")
		if err := os.Rename(filepath.Join(p.client, "new"), filepath.Join(p.client, "b")); err != nil {
			p.t.Error(err)
		}
		time.Sleep(300 * time.Millisecond)
		p.put("go", "")
	})
}

// What is damaged is asked for again.
func recallDamaged(p *past) {
	const script = "cat a b | cksum"
	sum := p.local(script)
	p.session(sum, script, 0, 2)
	packs, err := filepath.Glob(p.dir + "/pack-*")
	if err != nil || p.proven && len(packs) != 1 {
		p.t.Fatalf("%q, %v", packs, err)
	}
	for _, pack := range packs {
		b, err := os.ReadFile(pack)
		if err != nil {
			p.t.Fatal(err)
		}
		b[len(b)-10] ^= 1
		if err := os.WriteFile(pack, b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.session(sum, script, 1, 1)
	p.session(sum, script, 2, 0)
}

// What does not come with its open is put together while it is read.
func recallLarge(p *past) {
	const script = "cat a b over | cksum"
	sum := p.local(script)
	p.session(sum, script, 0, 2)
	p.session(sum, script, 2, 0)
	p.session("large", "tail -c 5 a", 1, 0)
}

// A file that changes while it is read is not what it was when it was opened.
// It is longer than what is read ahead of its first part.
func recallGrown(p *past) {
	p.during("7500001", "exec 3<a; { head -c 1000000; touch seen; until test -e go; do sleep 0.05; done; cat; } <&3 | wc -c", 0, 0, func() {
		p.await("seen")
		f, err := os.OpenFile(filepath.Join(p.client, "a"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("+")
		}
		if err != nil {
			p.t.Error(err)
		}
		f.Close()
		time.Sleep(300 * time.Millisecond)
		p.put("go", "")
	})
	p.session("+", "tail -c 1 a", any, any)
}

// A file that is read here and there is asked for whole after a while.
func recallScattered(p *past) {
	const script = `for f in a b; do perl -e 'open F, "<", shift or die; for (@ARGV) { sysseek F, 4096 * $_, 0; sysread F, $b, 4096; print $b } ' \
		$f 600 10 400 300 500 100 200; done | cksum; sleep 2`
	sum := p.local(script)
	w := p.session(sum, script, 0, 2)
	if n := w.calls("read"); n > 30 { // two files of 11 parts, and what came before
		p.t.Errorf("%d reads", n)
	}
	w = p.session(sum, script, 2, 0)
	if n := w.calls("read"); p.proven && n > 0 {
		p.t.Errorf("%d reads", n)
	}
	// Nothing is asked for whole where nothing is kept.
	w = p.session(sum, script, none, 0, bothModes)
	if n := w.calls("read"); n > 14 {
		p.t.Errorf("%d reads", n)
	}
}

// calls returns how often the client was asked for an operation.
func (w *world) calls(op string) (n int) {
	_, list, _ := strings.Cut(string(w.srv.Stats()), "calls:")
	list, _, _ = strings.Cut(list, "\n")
	fields := strings.Fields(list)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == op {
			fmt.Sscan(fields[i+1], &n)
		}
	}
	return n
}
