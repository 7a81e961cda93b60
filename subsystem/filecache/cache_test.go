package filecache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// testKey returns a key of its own for n, for content of size bytes.
func testKey(n, size int) Key {
	return Key{Machine: [32]byte{1, 2, 3}, Dev: 1, Ino: uint64(n), Size: uint64(size), Mtime: [2]int64{1e9, 1}, Ctime: [2]int64{1e9, 2}}
}

// testContent returns content that only n has.
func testContent(n, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	r.Read(b)
	return b
}

func testDir(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(tb.TempDir(), "cache")
}

func open(tb testing.TB, dir string, opt Options) *Cache {
	tb.Helper()
	c, err := Open(dir, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

func closeCache(tb testing.TB, c *Cache) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Fatal(err)
	}
}

// fill stores files first to last-1 in one session and returns its counters.
func fill(tb testing.TB, dir string, opt Options, first, last, size int) Stats {
	tb.Helper()
	c := open(tb, dir, opt)
	for n := first; n < last; n++ {
		c.Put(testKey(n, size), testContent(n, size))
	}
	closeCache(tb, c)
	return c.Stats()
}

// check looks files first to last-1 up and returns how many there are. One
// with wrong content fails the test.
func check(tb testing.TB, c *Cache, first, last, size int) (found int) {
	tb.Helper()
	for n := first; n < last; n++ {
		data, ok := c.Get(testKey(n, size))
		if !ok {
			continue
		}
		found++
		if !bytes.Equal(data, testContent(n, size)) {
			tb.Fatalf("file %d has another's content, or damaged", n)
		}
	}
	return found
}

func packsIn(tb testing.TB, dir string) []string {
	tb.Helper()
	names, err := filepath.Glob(filepath.Join(dir, packPrefix+"*"))
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

func TestSecondSessionFinds(t *testing.T) {
	dir := testDir(t)
	st := fill(t, dir, Options{}, 0, 500, 4096)
	if st.Stored != 500 || st.StoredBytes != 500*4096 || st.Dropped != 0 {
		t.Errorf("stored: %+v", st)
	}
	c := open(t, dir, Options{})
	if n := check(t, c, 0, 500, 4096); n != 500 {
		t.Errorf("found %d of 500", n)
	}
	if n := check(t, c, 500, 600, 4096); n != 0 {
		t.Errorf("found %d that were never stored", n)
	}
	if st := c.Stats(); st.Hits != 500 || st.HitBytes != 500*4096 || st.Misses != 100 || st.Corrupt != 0 {
		t.Errorf("counters: %+v", st)
	}
}

func TestSizes(t *testing.T) {
	dir := testDir(t)
	sizes := []int{0, 1, 4095, 1 << 20, 8 << 20}
	c := open(t, dir, Options{})
	for _, size := range sizes {
		c.Put(testKey(1, size), testContent(1, size))
	}
	c.Put(testKey(1, 8<<20+1), make([]byte, 8<<20+1)) // larger than MaxFile
	c.Put(testKey(2, 10), make([]byte, 9))            // not what the key says
	closeCache(t, c)
	c = open(t, dir, Options{})
	for _, size := range sizes {
		if n := check(t, c, 1, 2, size); n != 1 {
			t.Errorf("size %d not found", size)
		}
	}
	if _, ok := c.Get(testKey(1, 8<<20+1)); ok {
		t.Error("found what is too large")
	}
	if _, ok := c.Get(testKey(2, 10)); ok {
		t.Error("found content of another size than the key's")
	}
}

// Every part of the key tells.
func TestKeyParts(t *testing.T) {
	dir := testDir(t)
	fill(t, dir, Options{}, 7, 8, 100)
	c := open(t, dir, Options{})
	for i, change := range []func(*Key){
		func(k *Key) { k.Machine[31]++ },
		func(k *Key) { k.Dev++ },
		func(k *Key) { k.Ino++ },
		func(k *Key) { k.Size++ },
		func(k *Key) { k.Mtime[0]++ },
		func(k *Key) { k.Mtime[1]++ },
		func(k *Key) { k.Ctime[0]++ },
		func(k *Key) { k.Ctime[1]++ },
	} {
		k := testKey(7, 100)
		change(&k)
		if _, ok := c.Get(k); ok {
			t.Errorf("change %d of the key is not seen", i)
		}
	}
	if n := check(t, c, 7, 8, 100); n != 1 {
		t.Error("the key itself is not found")
	}
}

// The session that stores finds it as well, soon after and without Close.
func TestFoundInSameSession(t *testing.T) {
	c := open(t, testDir(t), Options{flushAfter: 10 * time.Millisecond})
	check(t, c, 1, 2, 100) // opens the packs there are
	c.Put(testKey(1, 100), testContent(1, 100))
	for end := time.Now().Add(10 * time.Second); check(t, c, 1, 2, 100) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not found within 10 s")
		}
	}
}

func TestRacy(t *testing.T) {
	now := time.Unix(2e9, 500)
	for _, tc := range []struct {
		ago  time.Duration
		want bool
	}{{0, true}, {time.Second, true}, {2*time.Second - 1, true}, {2 * time.Second, false}, {time.Hour, false}, {-time.Hour, true}} {
		at := now.Add(-tc.ago)
		k := Key{Ctime: [2]int64{at.Unix(), int64(at.Nanosecond())}}
		if got := k.racy(now, 2*time.Second); got != tc.want {
			t.Errorf("changed %v ago: racy %v, want %v", tc.ago, got, tc.want)
		}
	}
	dir := testDir(t)
	c := open(t, dir, Options{Now: func() time.Time { return time.Unix(1e9+1, 0) }})
	c.Put(testKey(1, 100), testContent(1, 100))
	closeCache(t, c)
	if st := c.Stats(); st.Racy != 1 || st.Stored != 0 || len(packsIn(t, dir)) != 0 {
		t.Errorf("a racy file was stored: %+v", st)
	}
}

// Nothing blocks or grows when more comes than can be written.
func TestQueueIsBounded(t *testing.T) {
	c := open(t, testDir(t), Options{})
	c.load.Lock() // holds the writer up
	data := make([]byte, 1<<20)
	for n := range 100 {
		c.Put(testKey(n, 1<<20), data)
	}
	c.mu.Lock()
	queued := c.queued
	c.mu.Unlock()
	c.load.Unlock()
	if st := c.Stats(); queued > queueBytes || st.Dropped < 100-2*queueBytes>>20 {
		t.Errorf("%d bytes queued, %d of 100 dropped", queued, st.Dropped)
	}
}

// Many goroutines on two sessions of one process, with packs closed and
// evicted under them.
func TestConcurrent(t *testing.T) {
	dir := testDir(t)
	opt := Options{MaxBytes: 4 << 20, flushAfter: time.Millisecond, idleAfter: 5 * time.Millisecond}
	a, b := open(t, dir, opt), open(t, dir, opt)
	var wg sync.WaitGroup
	var found [8]int
	for g := range 8 {
		c := a
		if g%2 == 1 {
			c = b
		}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for i := range 600 {
				n := r.IntN(2000)
				if data, ok := c.Get(testKey(n, 4096)); ok {
					found[g]++
					if !bytes.Equal(data, testContent(n, 4096)) {
						t.Errorf("file %d has other content", n)
					}
				} else {
					c.Put(testKey(n, 4096), testContent(n, 4096))
				}
				if i%50 == 0 {
					time.Sleep(2 * time.Millisecond)
					c.refreshed.Store(-refreshEvery)
				}
			}
		})
	}
	wg.Wait()
	closeCache(t, a)
	closeCache(t, b)
	sum := 0
	for _, n := range found {
		sum += n
	}
	if sum == 0 {
		t.Error("nothing was ever found")
	}
	if a.Stats().Corrupt+b.Stats().Corrupt != 0 {
		t.Errorf("damage: %+v %+v", a.Stats(), b.Stats())
	}
}

func TestClose(t *testing.T) {
	dir := testDir(t)
	c := open(t, dir, Options{})
	c.Put(testKey(1, 10), testContent(1, 10))
	closeCache(t, c)
	closeCache(t, c)
	c.Put(testKey(2, 10), testContent(2, 10))
	if _, ok := c.Get(testKey(1, 10)); ok {
		t.Error("found after Close")
	}
	if st := c.Stats(); st.Stored != 1 || st.Dropped != 1 {
		t.Errorf("counters: %+v", st)
	}
}

// A disk that does not answer holds Close up for a bounded time only.
func TestCloseIsBounded(t *testing.T) {
	c := open(t, testDir(t), Options{CloseWait: 10 * time.Millisecond})
	c.Put(testKey(1, 10), testContent(1, 10))
	c.load.Lock()
	start := time.Now()
	err := c.Close()
	if took := time.Since(start); err == nil || took > 5*time.Second {
		t.Errorf("Close: %v after %v", err, took)
	}
	c.load.Unlock()
	<-c.done
}

// An idle session keeps no descriptor and no index, and so no disk space that
// others have evicted.
func TestIdleCloses(t *testing.T) {
	dir := testDir(t)
	fill(t, dir, Options{}, 0, 10, 100)
	c := open(t, dir, Options{idleAfter: 20 * time.Millisecond})
	if n := check(t, c, 0, 10, 100); n != 10 {
		t.Fatalf("found %d of 10", n)
	}
	for end := time.Now().Add(10 * time.Second); c.packs.Load() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("packs still open after 10 s")
		}
	}
	if n := check(t, c, 0, 10, 100); n != 10 {
		t.Errorf("found %d of 10 after being idle", n)
	}
}

func TestNothingIsOpenToOthers(t *testing.T) {
	dir := testDir(t)
	fill(t, dir, Options{}, 0, 10, 100)
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", fi.Mode(), err)
	}
	names := packsIn(t, dir)
	if len(names) != 1 {
		t.Fatalf("packs: %q", names)
	}
	for _, name := range names {
		if fi, err := os.Stat(name); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
	}
}

func BenchmarkGet4K(b *testing.B) {
	dir := testDir(b)
	fill(b, dir, Options{}, 0, 2000, 4096)
	c := open(b, dir, Options{})
	n := 0
	b.SetBytes(4096)
	for b.Loop() {
		if _, ok := c.Get(testKey(n%2000, 4096)); !ok {
			b.Fatalf("file %d is missing", n%2000)
		}
		n++
	}
}

// One operation is a session that stores 2,000 files of 4 KiB and ends.
func BenchmarkStore2000x4K(b *testing.B) {
	data := make([][]byte, 2000)
	for n := range data {
		data[n] = testContent(n, 4096)
	}
	b.SetBytes(2000 * 4096)
	for i := 0; b.Loop(); i++ {
		c := open(b, fmt.Sprintf("%s-%d", testDir(b), i), Options{})
		for n, d := range data {
			c.Put(testKey(n, 4096), d)
		}
		closeCache(b, c)
		if st := c.Stats(); st.Stored != 2000 {
			b.Fatalf("%+v", st)
		}
	}
}

// large makes a cache of 100,000 small files in 48 packs.
func large(b *testing.B) string {
	dir := testDir(b)
	c := open(b, dir, Options{})
	const packs, each = 48, 100_000 / 48
	n := 0
	for range packs {
		w, err := newPackWriter(c.dir, each)
		if err != nil {
			b.Fatal(err)
		}
		for range each {
			if err := w.add(&entry{used: time.Now().UnixNano(), id: testKey(n, 100).id(), content: testContent(n, 100)}); err != nil {
				b.Fatal(err)
			}
			n++
		}
		if err := w.finish(); err != nil {
			b.Fatal(err)
		}
	}
	closeCache(b, c)
	return dir
}

// One operation is Open, a first Get, which reads the index, and Close, which
// looks for what to evict. open-ns is Open alone.
func BenchmarkStart100000(b *testing.B) {
	dir := large(b)
	var opening time.Duration
	defer func() { b.ReportMetric(float64(opening.Nanoseconds())/float64(b.N), "open-ns") }()
	for b.Loop() {
		start := time.Now()
		c := open(b, dir, Options{})
		opening += time.Since(start)
		if check(b, c, 50_000, 50_001, 100) != 1 {
			b.Fatal("not found")
		}
		closeCache(b, c)
	}
}

func BenchmarkMiss100000(b *testing.B) {
	c := open(b, large(b), Options{})
	k := testKey(1<<30, 100)
	for b.Loop() {
		k.Ino++
		if _, ok := c.Get(k); ok {
			b.Fatal("found")
		}
	}
}

// Has knows what Get would find, once something was looked up.
func TestHas(t *testing.T) {
	dir := testDir(t)
	fill(t, dir, Options{}, 0, 100, 50)
	c := open(t, dir, Options{})
	if c.Has(testKey(1, 50)) {
		t.Error("Has has read the disk")
	}
	if n := check(t, c, 0, 1, 50); n != 1 {
		t.Fatal("nothing there")
	}
	for n := range 200 {
		if got := c.Has(testKey(n, 50)); got != (n < 100) {
			t.Errorf("file %d: %v", n, got)
		}
	}
	closeCache(t, c)
	if c.Has(testKey(1, 50)) {
		t.Error("a closed cache has something")
	}
}
