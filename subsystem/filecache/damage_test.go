package filecache

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// onePack returns a pack of n files of size bytes as bytes, and its name.
func onePack(tb testing.TB, n, size int) ([]byte, string) {
	tb.Helper()
	dir := testDir(tb)
	fill(tb, dir, Options{}, 0, n, size)
	names := packsIn(tb, dir)
	if len(names) != 1 {
		tb.Fatalf("packs: %q", names)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		tb.Fatal(err)
	}
	return b, filepath.Base(names[0])
}

// withPack makes a cache of one pack.
func withPack(tb testing.TB, dir, name string, b []byte) {
	tb.Helper()
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// afterDamage looks all of n files up twice in one session and once in a next.
// What is found is right (see check), what is damaged is removed at the first
// look, and what is stored again is found.
func afterDamage(t *testing.T, dir string, n, size int) (found int, corrupt uint64) {
	t.Helper()
	c := open(t, dir, Options{})
	found = check(t, c, 0, n, size)
	corrupt = c.Stats().Corrupt
	if again := check(t, c, 0, n, size); again != found {
		t.Errorf("found %d, then %d", found, again)
	}
	if now := c.Stats().Corrupt; now != corrupt {
		t.Errorf("damage found once more: %d, then %d", corrupt, now)
	}
	closeCache(t, c)
	c = open(t, dir, Options{})
	if again := check(t, c, 0, n, size); again != found || c.Stats().Corrupt != 0 {
		t.Errorf("next session: found %d instead of %d, damage %d", again, found, c.Stats().Corrupt)
	}
	closeCache(t, c)
	fill(t, dir, Options{}, 0, n, size)
	c = open(t, dir, Options{})
	if again := check(t, c, 0, n, size); again != n {
		t.Errorf("stored again, but found only %d of %d", again, n)
	}
	closeCache(t, c)
	return found, corrupt
}

func TestBitFlips(t *testing.T) {
	const n, size = 3, 20
	good, name := onePack(t, n, size)
	dir := filepath.Join(t.TempDir(), "cache")
	for at := range good {
		b := bytes.Clone(good)
		b[at] ^= 1 << (at * 5 % 8)
		withPack(t, dir, name, b)
		found, corrupt := afterDamage(t, dir, n, size)
		if at >= packHeader+8*n && (found != n-1 || corrupt != 1) {
			t.Errorf("byte %d, in an entry: found %d, damaged %d", at, found, corrupt)
		}
		if at < packHeader && found != 0 {
			t.Errorf("byte %d, in the header: found %d", at, found)
		}
		if t.Failed() {
			t.Fatalf("at byte %d of %d", at, len(good))
		}
	}
}

func TestTruncation(t *testing.T) {
	const n, size = 3, 20
	good, name := onePack(t, n, size)
	dir := filepath.Join(t.TempDir(), "cache")
	data := packHeader + 8*n
	for length := range good {
		withPack(t, dir, name, good[:length])
		want := max(length-data, 0) / (entryHeader + size)
		if found, corrupt := afterDamage(t, dir, n, size); found != want || corrupt == 0 {
			t.Fatalf("%d of %d bytes left: found %d instead of %d, damaged %d", length, len(good), found, want, corrupt)
		}
	}
}

// A pack that shrinks while it is open, as by a hand that empties the cache.
func TestTruncatedWhileOpen(t *testing.T) {
	dir := testDir(t)
	fill(t, dir, Options{}, 0, 10, 1000)
	c := open(t, dir, Options{})
	check(t, c, 0, 1, 1000)
	if err := os.Truncate(packsIn(t, dir)[0], packHeader+8*10+3*(entryHeader+1000)+500); err != nil {
		t.Fatal(err)
	}
	if n := check(t, c, 0, 10, 1000); n != 3 || c.Stats().Corrupt != 7 {
		t.Errorf("found %d of 3, damage %d of 7", n, c.Stats().Corrupt)
	}
}

// Two keys whose ids begin alike live side by side, and a damaged one is told
// from another's.
func TestSamePrefix(t *testing.T) {
	dir := testDir(t)
	c := open(t, dir, Options{})
	w, err := newPackWriter(c.dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	want := testKey(1, 50).id()
	for n, size := range []int{500, 50, 5} {
		e := entry{used: time.Now().UnixNano(), id: want, content: testContent(1, size)}
		e.id[31] ^= byte(size) ^ 50 // 50 has the id itself
		if err := w.add(&e); err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
	c = open(t, dir, Options{})
	if check(t, c, 1, 2, 50) != 1 || c.Stats().Corrupt != 0 {
		t.Errorf("not found among others of its prefix: %+v", c.Stats())
	}
}

func TestMergeLeavesDamageBehind(t *testing.T) {
	dir := testDir(t)
	const per = 4
	for s := range mergeAbove {
		fill(t, dir, Options{}, s*per, (s+1)*per, 100)
	}
	names := packsIn(t, dir)
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[packHeader+8*per+entryHeader+99] ^= 1 // the first entry's content
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, dir, Options{}, 1000, 1001, 100) // one more makes it merge
	if n := len(packsIn(t, dir)); n > mergeAbove {
		t.Errorf("%d packs are not merged", n)
	}
	c := open(t, dir, Options{})
	if n := check(t, c, 0, mergeAbove*per, 100); n != mergeAbove*(per-1) {
		t.Errorf("found %d, want %d", n, mergeAbove*(per-1))
	}
}

func FuzzEntry(f *testing.F) {
	for _, content := range []string{"", "x", "some content\n"} {
		e := entry{used: 1e18, id: testKey(1, len(content)).id(), content: []byte(content)}
		f.Add(append(e.appendHeader(nil), content...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		lawOfEntry(t, b)
		// The same with the right sum, which chance does not find.
		if len(b) >= entryHeader {
			b = bytes.Clone(b)
			sum := entrySum(b[:entryFields], b[entryHeader:])
			copy(b[entryFields:], sum[:])
			lawOfEntry(t, b)
		}
	})
}

// lawOfEntry: what is accepted is written as the same bytes, and no proper
// part of it is accepted.
func lawOfEntry(t *testing.T, b []byte) {
	e, err := decodeEntry(b)
	if err != nil {
		return
	}
	if again := append(e.appendHeader(nil), e.content...); !bytes.Equal(again, b) {
		t.Errorf("%x is written as %x", b, again)
	}
	if _, err := decodeEntry(b[:len(b)-1]); err == nil {
		t.Errorf("%x is accepted without its last byte", b)
	}
	if h, length, err := parseHeader(b); err != nil || h.id != e.id || h.used != e.used || length != len(e.content) {
		t.Errorf("the header says %v %d %v, the entry %v", h, length, err, e)
	}
}

func FuzzIndex(f *testing.F) {
	for _, x := range []index{
		{},
		{room: 3, cells: []uint64{makeCell(1, 100)}},
		{room: 2, cells: []uint64{makeCell(1, 0), makeCell(1<<32-1, 70)}},
	} {
		f.Add(x.append(nil), int64(300))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		x, err := decodeIndex(b, size)
		if err != nil {
			return
		}
		if again := x.append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x is written as %x", b, again)
		}
		// Whatever the cells say, a search ends and stays inside.
		p := &pack{cells: x.cells}
		for _, c := range x.cells {
			if from, to := p.find(cellPrefix(c)); from >= to || to > len(x.cells) {
				t.Errorf("cell %x is not found: %d to %d", c, from, to)
			}
		}
	})
}
