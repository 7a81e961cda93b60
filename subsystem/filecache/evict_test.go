package filecache

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func diskUse(tb testing.TB, dir string) (bytes int64) {
	tb.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range list {
		fi, err := e.Info()
		if err != nil {
			tb.Fatal(err)
		}
		bytes += fi.Size()
	}
	return bytes
}

func TestSizeIsBounded(t *testing.T) {
	dir := testDir(t)
	opt := Options{MaxBytes: 1 << 20}
	st := fill(t, dir, opt, 0, 1000, 4096)
	if use := diskUse(t, dir); use > 1<<20 || use < 1<<19 {
		t.Errorf("%d bytes on disk of at most %d", use, 1<<20)
	}
	c := open(t, dir, Options{}) // larger: looking moves and evicts nothing
	n := check(t, c, 0, 1000, 4096)
	if last := check(t, c, 1000-n, 1000, 4096); n < 100 || last != n {
		t.Errorf("%d files are kept, and %d of them are the last ones", n, last)
	}
	if st.Evicted != uint64(1000-n) {
		t.Errorf("%d are kept of 1000, %d evicted", n, st.Evicted)
	}
}

// Tiny files are bounded by their number, since each takes memory.
func TestNumberIsBounded(t *testing.T) {
	dir := testDir(t)
	opt := Options{MaxBytes: 1 << 20}
	for s := range 20 {
		fill(t, dir, opt, s*100, (s+1)*100, 1)
	}
	c := open(t, dir, Options{})
	if n := check(t, c, 0, 2000, 1); n > 1024 || n < 800 {
		t.Errorf("%d entries, want at most 1024", n)
	}
}

// What is wanted again and again stays, though more than the cache holds is
// stored meanwhile.
func TestUsedStays(t *testing.T) {
	dir := testDir(t)
	opt := Options{MaxBytes: 1 << 20}
	const hot, each, rounds = 20, 20, 40
	fill(t, dir, opt, 0, hot, 4096)
	var kept uint64
	for r := range rounds {
		c := open(t, dir, opt)
		if n := check(t, c, 0, hot, 4096); n != hot {
			t.Fatalf("round %d: %d of %d are left", r, n, hot)
		}
		first := 100 + r*each
		for n := first; n < first+each; n++ {
			c.Put(testKey(n, 4096), testContent(n, 4096))
		}
		closeCache(t, c)
		kept += c.Stats().Kept
	}
	c := open(t, dir, opt)
	if n := check(t, c, 100, 100+each, 4096); n != 0 {
		t.Errorf("%d files that nobody wanted are still there", n)
	}
	if kept == 0 || kept > hot*rounds/2 {
		t.Errorf("%d entries were moved to keep them", kept)
	}
}

// storeAt stores file n as it would have been some time ago.
func storeAt(t *testing.T, dir string, n, size int, ago time.Duration) {
	t.Helper()
	c := open(t, dir, Options{})
	w, err := newPackWriter(c.dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.add(&entry{used: time.Now().Add(-ago).UnixNano(), id: testKey(n, size).id(), content: testContent(n, size)}); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	c.quitWithoutEviction(t)
}

// quitWithoutEviction ends a session as a kill would.
func (c *Cache) quitWithoutEviction(t *testing.T) {
	t.Helper()
	c.dir.Close()
	closeCache(t, c)
}

func TestAge(t *testing.T) {
	const day = 24 * time.Hour
	dir := testDir(t)
	for n, ago := range []time.Duration{31 * day, 29 * day, time.Hour, -48 * time.Hour} {
		storeAt(t, dir, n, 100, ago)
	}
	c := open(t, dir, Options{})
	for n, want := range []int{0, 1, 1, 0} {
		if got := check(t, c, n, n+1, 100); got != want {
			t.Errorf("file %d: found %d, want %d", n, got, want)
		}
	}
	closeCache(t, c)
	if st := c.Stats(); st.Evicted != 2 || st.Kept != 1 {
		t.Errorf("counters: %+v", st)
	}
	// 29 days old and wanted now: two days later it is still there.
	c = open(t, dir, Options{MaxAge: 27 * day})
	if n := check(t, c, 0, 4, 100); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
}

func TestMerge(t *testing.T) {
	dir := testDir(t)
	const sessions = 3 * mergeAbove
	for s := range sessions {
		fill(t, dir, Options{}, 3*s, 3*s+3, 200)
		// A session that saw nothing of the others has stored the same.
		storeAt(t, dir, 0, 200, 0)
	}
	fill(t, dir, Options{}, 0, 3, 200)
	if n := len(packsIn(t, dir)); n > mergeAbove {
		t.Errorf("%d packs", n)
	}
	entries := 0
	for _, name := range packsIn(t, dir) {
		info, ok := parseName(filepath.Base(name))
		if !ok {
			t.Errorf("pack %s", name)
		}
		entries += info.count
	}
	if entries > 3*sessions+mergeAbove {
		t.Errorf("%d entries for %d files: what is there twice is not merged", entries, 3*sessions)
	}
	c := open(t, dir, Options{})
	if n := check(t, c, 0, 3*sessions, 200); n != 3*sessions {
		t.Errorf("found %d of %d after merging", n, 3*sessions)
	}
	if st := c.Stats(); st.Corrupt != 0 {
		t.Errorf("%+v", st)
	}
}

// Merging moves an entry few times: the cost of many small sessions is about
// logarithmic in their number.
func TestPickRun(t *testing.T) {
	c := &Cache{opt: Options{MaxBytes: 1 << 30}}
	var infos []packInfo // newest first
	var moved, stored int64
	for range 5000 {
		infos = append([]packInfo{{size: 100 << 10}}, infos...)
		stored += 100 << 10
		for len(infos) > mergeAbove {
			from, to := c.pickRun(infos)
			if to-from < 2 {
				t.Fatalf("nothing to merge among %d", len(infos))
			}
			var sum int64
			for _, p := range infos[from:to] {
				sum += p.size
			}
			if sum > c.packLimit() {
				t.Fatalf("a pack of %d bytes", sum)
			}
			moved += sum
			infos = append(append(infos[:from:from], packInfo{size: sum}), infos[to:]...)
		}
	}
	if factor := float64(moved) / float64(stored); factor > 4 {
		t.Errorf("each byte is moved %.1f times", factor)
	}
}

// A session that refreshes, merges or evicts does not hold up Get.
func TestGetDoesNotWait(t *testing.T) {
	dir := testDir(t)
	fill(t, dir, Options{}, 0, 100, 100)
	c := open(t, dir, Options{})
	check(t, c, 0, 1, 100)
	c.load.Lock()
	c.refreshed.Store(-refreshEvery) // time to look at the directory
	for _, name := range packsIn(t, dir) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan int)
	go func() { done <- check(t, c, 0, 100, 100) }()
	select {
	case n := <-done:
		if n != 100 {
			t.Errorf("found %d of 100 in a pack that was being evicted", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("Get waits for others")
	}
	c.load.Unlock()
	if n := check(t, c, 0, 100, 100); n != 0 {
		t.Errorf("found %d evicted files after a look at the directory", n)
	}
}

func TestLeftoversGo(t *testing.T) {
	dir := testDir(t)
	c := open(t, dir, Options{})
	for _, name := range []string{"temp-0123456789abcdef", "temp-new"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half a pack"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * tempAge)
	if err := os.Chtimes(filepath.Join(dir, "temp-0123456789abcdef"), old, old); err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != "temp-new" {
		t.Errorf("left: %v %v, want the new one only", list, err)
	}
}
