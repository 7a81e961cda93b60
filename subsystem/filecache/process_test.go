package filecache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test's own binary plays the other sessions.
const (
	childEnv = "FILECACHE_TEST_CHILD" // what to play
	dirEnv   = "FILECACHE_TEST_DIR"
	seedEnv  = "FILECACHE_TEST_SEED"
)

func TestMain(m *testing.M) {
	play := map[string]func(dir string, seed int) error{"store": storeForEver, "mix": mix, "limit": fileLimit, "tmpfs": smallDisk}[os.Getenv(childEnv)]
	if play == nil {
		os.Exit(m.Run())
	}
	seed, err := strconv.Atoi(os.Getenv(seedEnv))
	if err == nil {
		err = play(os.Getenv(dirEnv), seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(role, dir string, seed int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+role, dirEnv+"="+dir, seedEnv+"="+strconv.Itoa(seed))
	cmd.Stderr = os.Stderr
	return cmd
}

var childOptions = Options{MaxBytes: 8 << 20, flushAfter: time.Millisecond}

// storeForEver stores until it is killed.
func storeForEver(dir string, seed int) error {
	c, err := Open(dir, childOptions)
	if err != nil {
		return err
	}
	fmt.Println("storing")
	for i := 0; ; i++ {
		n := seed*1000 + i%1000
		c.Put(testKey(n, 4096), testContent(n, 4096))
		if i%20 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// A session killed in the middle of storing leaves nothing that a later one
// takes for content, and no lock.
func TestKilled(t *testing.T) {
	dir := testDir(t)
	const rounds = 15
	r := rand.New(rand.NewPCG(1, 2))
	for round := range rounds {
		cmd := child("store", dir, round)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if b, err := io.ReadAll(io.LimitReader(out, 8)); err != nil || string(b) != "storing\n" {
			t.Errorf("child: %q %v", b, err)
		}
		time.Sleep(time.Duration(5+r.IntN(60)) * time.Millisecond)
		must(t, cmd.Process.Kill())
		if err := cmd.Wait(); err == nil {
			t.Error("ended before it was killed")
		}
	}
	c := open(t, dir, childOptions)
	found := check(t, c, 0, rounds*1000, 4096)
	if found == 0 || c.Stats().Corrupt != 0 {
		t.Errorf("found %d, damage %d", found, c.Stats().Corrupt)
	}
	for n := 1_000_000; n < 1_000_100; n++ {
		c.Put(testKey(n, 4096), testContent(n, 4096))
	}
	closeCache(t, c)
	c = open(t, dir, childOptions)
	if n := check(t, c, 1_000_000, 1_000_100, 4096); n != 100 {
		t.Errorf("stored after: found %d of 100", n)
	}
}

// mix is a session that gets and puts at random and verifies what it gets.
func mix(dir string, seed int) error {
	r := rand.New(rand.NewPCG(uint64(seed), 3))
	var sum Stats
	for range 4 {
		c, err := Open(dir, childOptions)
		if err != nil {
			return err
		}
		for i := range 500 {
			n, size := r.IntN(4000), 100<<r.IntN(6)
			if data, ok := c.Get(testKey(n, size)); !ok {
				c.Put(testKey(n, size), testContent(n, size))
			} else if !bytes.Equal(data, testContent(n, size)) {
				return fmt.Errorf("file %d of %d bytes has other content", n, size)
			}
			if i%10 == 0 {
				time.Sleep(time.Millisecond)
				c.refreshed.Store(-refreshEvery)
			}
		}
		if err := c.Close(); err != nil {
			return err
		}
		st := c.Stats()
		sum.Hits += st.Hits
		sum.Corrupt += st.Corrupt
		sum.WriteErrors += st.WriteErrors
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}

// Several processes store, find, merge and evict in one cache, and none sees
// damage or an error for it.
func TestProcesses(t *testing.T) {
	dir := testDir(t)
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for seed := range 4 {
		cmd, out := child("mix", dir, seed), &bytes.Buffer{}
		cmd.Stdout = out
		must(t, cmd.Start())
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	var hits uint64
	for i, cmd := range cmds {
		var st Stats
		if err := cmd.Wait(); err != nil {
			t.Errorf("process %d: %v", i, err)
			continue
		}
		must(t, json.Unmarshal(outs[i].Bytes(), &st))
		if st.Corrupt != 0 || st.WriteErrors != 0 {
			t.Errorf("process %d: %+v", i, st)
		}
		hits += st.Hits
	}
	if hits == 0 {
		t.Error("nothing was ever found")
	}
	if use := diskUse(t, dir); use > childOptions.MaxBytes {
		t.Errorf("%d bytes on disk", use)
	}
	if n := len(packsIn(t, dir)); n > mergeAbove {
		t.Errorf("%d packs", n)
	}
	if temps, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); err != nil || len(temps) != 0 {
		t.Errorf("left over: %q %v", temps, err)
	}
}

// fileLimit is a session that cannot write files of more than 64 KiB.
func fileLimit(dir string, _ int) error {
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
		return err
	}
	return fullDisk(dir)
}

// smallDisk is a session whose cache lies on a file system of 128 KiB.
func smallDisk(dir string, _ int) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=128k,mode=700"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	return fullDisk(dir)
}

// fullDisk stores a little, then more than there is room for. Afterwards the
// session stores nothing more, but still finds what there is.
func fullDisk(dir string) error {
	c, err := Open(dir, Options{flushAfter: time.Millisecond})
	if err != nil {
		return err
	}
	data := make([]byte, 1000)
	c.Put(testKey(1, len(data)), data)
	for end := time.Now().Add(10 * time.Second); c.Stats().Stored != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not stored: %+v", c.Stats())
		}
	}
	// At once: the same flush may still be at work that has stored it.
	large := make([]byte, 1<<20)
	for n := range 10 {
		c.Put(testKey(n, len(large)), large)
		time.Sleep(time.Millisecond)
	}
	for end := time.Now().Add(10 * time.Second); c.Stats().WriteErrors == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the disk is not full: %+v", c.Stats())
		}
	}
	c.Put(testKey(2, len(data)), data)
	if _, ok := c.Get(testKey(1, len(data))); !ok {
		return fmt.Errorf("not found on a full disk: %+v", c.Stats())
	}
	if err := c.Close(); err != nil {
		return err
	}
	if st := c.Stats(); st.WriteErrors != 1 || st.Stored != 1 || st.Dropped != 11 {
		return fmt.Errorf("counters: %+v", st)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].Name(), packPrefix) {
		return fmt.Errorf("in the directory: %v %w", list, err)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	must(t, child("limit", testDir(t), 0).Run())
	if os.Geteuid() == 0 {
		dir := testDir(t)
		must(t, os.Mkdir(dir, 0o700))
		cmd := child("tmpfs", dir, 0)
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		must(t, cmd.Run())
	}
}
