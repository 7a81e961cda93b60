package test

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	stressSeed   = flag.Uint64("stress.seed", 0, "seed of the stress test; 0 takes one from the clock")
	stressRounds = flag.Int("stress.rounds", 6, "rounds of the stress test, each ended by a barrier")
)

// stressVar has an order for this binary as a process of the stress test:
// "dump", or "SEED COUNT" of operations.
const stressVar = "NEXEC_E2E_STRESS"

// actor does random operations in a directory of its own. The same seed does
// the same operations with the same results wherever the file system works.
type actor struct {
	dir  string
	rand *rand.Rand
	log  strings.Builder
	open map[string]*os.File
}

// act does count operations and returns what each of them gave.
func act(dir string, seed uint64, count int) string {
	a := &actor{dir: dir, rand: rand.New(rand.NewPCG(seed, 0)), open: map[string]*os.File{}}
	for i := range count {
		fmt.Fprintf(&a.log, "%d %s\n", i, a.step())
	}
	for _, f := range a.open {
		f.Close()
	}
	return a.log.String()
}

func (a *actor) pick(n int) int { return a.rand.IntN(n) }

// name picks one of few names, so that operations meet each other's results.
func (a *actor) name() string {
	dirs := []string{"", "", "d0/", "d1/", "d0/d2/"}
	return filepath.Join(a.dir, dirs[a.pick(len(dirs))]+"f"+strconv.Itoa(a.pick(8)))
}

func (a *actor) directory() string {
	return filepath.Join(a.dir, []string{"d0", "d1", "d0/d2", "d3", "d1/d4"}[a.pick(5)])
}

func (a *actor) data() []byte {
	b := make([]byte, []int{0, 1, 100, 4096, 10_000, 200_000}[a.pick(6)])
	for i := range b {
		b[i] = byte(a.rand.Uint32())
	}
	return b
}

// outcome is an error number, or a result.
func outcome(what string, err error, result ...any) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return what + " " + errno.Error()
	case err == io.EOF:
		return what + " EOF"
	case err != nil:
		return what + " failed"
	}
	return strings.TrimSpace(what + " " + fmt.Sprintln(result...))
}

func (a *actor) step() string {
	steps := []func() string{
		a.write, a.write, a.write, a.read, a.read, a.truncate, a.remove, a.mkdir, a.mkdir, a.rmdir, a.rename, a.renameDir,
		a.link, a.symlink, a.chmod, a.list, a.times, a.keepOpen, a.useOpen, a.useOpen, a.exchange, a.tmpfile,
	}
	return steps[a.pick(len(steps))]()
}

func (a *actor) rel(path string) string { return strings.TrimPrefix(path, a.dir+"/") }

func (a *actor) write() string {
	name, data, off := a.name(), a.data(), int64(a.pick(3))*5000
	flags := os.O_CREATE | os.O_RDWR | []int{0, os.O_TRUNC, os.O_APPEND, os.O_EXCL}[a.pick(4)]
	f, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		return outcome("write "+a.rel(name), err)
	}
	defer f.Close()
	if flags&os.O_APPEND == 0 {
		_, err = unix.Pwrite(int(f.Fd()), data, off)
	} else {
		_, err = f.Write(data)
	}
	if err == nil && a.pick(4) == 0 {
		err = f.Sync()
	}
	return outcome("write "+a.rel(name), err)
}

func (a *actor) read() string {
	name := a.name()
	b, err := os.ReadFile(name)
	return outcome("read "+a.rel(name), err, len(b), fmt.Sprintf("%x", sha256.Sum256(b))[:12])
}

func (a *actor) truncate() string {
	name, size := a.name(), int64(a.pick(20_000))
	return outcome("truncate "+a.rel(name), unix.Truncate(name, size))
}

func (a *actor) remove() string { n := a.name(); return outcome("unlink "+a.rel(n), unix.Unlink(n)) }
func (a *actor) mkdir() string {
	n := a.directory()
	return outcome("mkdir "+a.rel(n), unix.Mkdir(n, 0o755))
}
func (a *actor) rmdir() string { n := a.directory(); return outcome("rmdir "+a.rel(n), unix.Rmdir(n)) }

func (a *actor) rename() string {
	from, to := a.name(), a.name()
	flags := uint(a.pick(2)) // 1 is RENAME_NOREPLACE
	return outcome("rename "+a.rel(from)+" "+a.rel(to), unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags))
}

func (a *actor) renameDir() string {
	from, to := a.directory(), a.directory()
	return outcome("rename "+a.rel(from)+" "+a.rel(to), unix.Rename(from, to))
}

func (a *actor) exchange() string {
	from, to := a.name(), a.name()
	return outcome("exchange "+a.rel(from)+" "+a.rel(to), unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE))
}

func (a *actor) link() string {
	from, to := a.name(), a.name()
	return outcome("link "+a.rel(from)+" "+a.rel(to), unix.Link(from, to))
}

func (a *actor) symlink() string {
	n, to := a.name(), "f"+strconv.Itoa(a.pick(8))
	return outcome("symlink "+a.rel(n), unix.Symlink(to, n))
}

func (a *actor) chmod() string {
	n, mode := a.name(), uint32(0o600+a.pick(0o100))
	return outcome("chmod "+a.rel(n), unix.Chmod(n, mode))
}

func (a *actor) times() string {
	n, sec := a.name(), int64(a.pick(2_000_000_000))
	ts := []unix.Timespec{{Sec: sec, Nsec: 1}, {Sec: sec, Nsec: 123456789}}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, n, ts, unix.AT_SYMLINK_NOFOLLOW)
	var st unix.Stat_t
	if err == nil {
		err = unix.Lstat(n, &st)
	}
	return outcome("times "+a.rel(n), err, st.Mtim.Sec, st.Mtim.Nsec)
}

func (a *actor) list() string {
	n := a.directory()
	entries, err := os.ReadDir(n)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name()+e.Type().String()[:1])
	}
	return outcome("list "+a.rel(n), err, names)
}

// keepOpen keeps a file open over later operations, in one of three slots.
func (a *actor) keepOpen() string {
	n, slot := a.name(), strconv.Itoa(a.pick(3))
	if old := a.open[slot]; old != nil {
		old.Close()
		delete(a.open, slot)
	}
	f, err := os.OpenFile(n, os.O_RDWR, 0)
	if err == nil {
		a.open[slot] = f
	}
	return outcome("open "+a.rel(n), err)
}

// useOpen reads and writes a kept file, which may have no name any more.
func (a *actor) useOpen() string {
	data, off := a.data(), int64(a.pick(10_000))
	f := a.open[strconv.Itoa(a.pick(3))]
	if f == nil {
		return "nothing open"
	}
	if _, err := f.WriteAt(data, off); err != nil {
		return outcome("use", err)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<40))
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	return outcome("use", err, n, st.Size, st.Nlink, fmt.Sprintf("%x", h.Sum(nil))[:12])
}

func (a *actor) tmpfile() string {
	n, data := a.name(), a.data()
	fd, err := unix.Open(a.dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return outcome("tmpfile", err)
	}
	defer unix.Close(fd)
	if _, err = unix.Write(fd, data); err == nil {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, n, unix.AT_SYMLINK_FOLLOW)
	}
	return outcome("tmpfile "+a.rel(n), err)
}

// dump describes a tree, one line per name. Times only of files: those of
// directories follow the clock.
func dump(dir string) string {
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		line := fmt.Sprintf("%q %o", strings.TrimPrefix(path, dir), st.Mode)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %d %x", st.Size, st.Nlink, sha256.Sum256(b))[:40]
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " " + to
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		lines = append(lines, err.Error())
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// TestStressActor is a process of the stress test when it is told to be one.
// Otherwise it checks that an actor's operations depend on the seed alone.
func TestStressActor(t *testing.T) {
	order := os.Getenv(stressVar)
	var seed uint64
	var count int
	switch _, err := fmt.Sscanf(order, "%d %d", &seed, &count); {
	case order == "dump":
		fmt.Printf("<<<\n%s\n>>>\n", dump(os.Getenv(insideVar)))
	case order == "":
		a, b := t.TempDir(), t.TempDir()
		if first, second := act(a, 7, 500), act(b, 7, 500); first != second {
			t.Errorf("two runs differ: %s", difference(first, second))
		}
		if d := difference(dump(a), dump(b)); d != "" {
			t.Error(d)
		}
	case err != nil:
		t.Fatalf("%q: %v", order, err)
	default:
		fmt.Printf("<<<\n%s>>>\n", act(os.Getenv(insideVar), seed, count))
	}
}

// difference returns the first lines in which two texts differ.
func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(x), len(y)) {
		var l, r string
		if i < len(x) {
			l = x[i]
		}
		if i < len(y) {
			r = y[i]
		}
		if l != r {
			return fmt.Sprintf("line %d: %q and %q", i, l, r)
		}
	}
	return ""
}

// TestStress has several processes, on the server through one session and on
// the client, do random operations at once, each in a directory of its own,
// and the same operations done on a plain directory. After each round the
// trees must be the same, seen from the server and from the client; then the
// directories go to the other side, which must see what the first one left.
func TestStress(t *testing.T) {
	for _, options := range [][]string{nil, {"--sync", "--no-cache"}} {
		name := "cached"
		if options != nil {
			name = strings.Join(options, " ")
		}
		t.Run(name, func(t *testing.T) { stress(t, options) })
	}
}

func stress(t *testing.T, options []string) {
	seed := *stressSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -stress.seed=%d", seed)
	const actors, operations = 6, 250
	s := newSite(t)
	copySelf(t, filepath.Join(s.Work, "e2e.test"))
	mirror := t.TempDir()
	for i := range actors {
		must(t, os.MkdirAll(fmt.Sprintf("%s/tree/%d", s.Work, i), 0o755))
		must(t, os.MkdirAll(fmt.Sprintf("%s/%d", mirror, i), 0o755))
	}
	c := s.converse(t, options...)
	run := func(dir, order string) string {
		return fmt.Sprintf("%s=%s %s='%s' ./e2e.test -test.run '^TestStressActor$'", insideVar, dir, stressVar, order)
	}
	between := func(out string) string {
		_, out, _ = strings.Cut(out, "<<<\n")
		out, _, _ = strings.Cut(out, ">>>")
		return strings.TrimSpace(out)
	}
	for round := range *stressRounds {
		logs := make([]string, actors)
		var wg sync.WaitGroup
		var orders strings.Builder
		for i := range actors {
			n := seed + uint64(round*actors+i)
			if (round+i)%2 == 0 {
				fmt.Fprintf(&orders, "%s >log.%d 2>&1 &\n", run(fmt.Sprintf("$PWD/tree/%d", i), fmt.Sprintf("%d %d", n, operations)), i)
			} else {
				wg.Go(func() { logs[i] = strings.TrimSpace(act(fmt.Sprintf("%s/tree/%d", s.Work, i), n, operations)) })
			}
		}
		c.ask(orders.String() + "wait; sync log.*")
		wg.Wait()
		for i := range actors {
			if (round+i)%2 == 0 {
				logs[i] = between(s.read(t, fmt.Sprintf("log.%d", i)))
			}
			want := act(fmt.Sprintf("%s/%d", mirror, i), seed+uint64(round*actors+i), operations)
			if d := difference(logs[i], strings.TrimSpace(want)); d != "" {
				t.Errorf("round %d, actor %d (server: %v): got and want differ in %s", round, i, (round+i)%2 == 0, d)
			}
		}
		want := dump(mirror)
		// Revocations of the client's last changes may still be on their way.
		time.Sleep(100 * time.Millisecond)
		server := between(c.ask(run("$PWD/tree", "dump")))
		if d := difference(server, want); d != "" {
			t.Errorf("round %d: the server's view and the plain directory differ in %s", round, d)
		}
		waitWritten(t, filepath.Join(s.Work, "tree"), want, round)
		if t.Failed() {
			return
		}
	}
}

// waitWritten waits for write-behind to bring the client's tree to what it
// should be.
func waitWritten(t *testing.T, dir, want string, round int) {
	t.Helper()
	var d string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if d = difference(dump(dir), want); d == "" {
			return
		}
	}
	t.Errorf("round %d: the client's tree and the plain directory differ in %s", round, d)
}
