// Package filecache keeps the content of client files on the server, so that
// what a session has read need not cross the link for the next one.
//
// The cache belongs to one user and is shared by that user's sessions, which
// take no notice of each other. It is a directory of packs: files of many
// entries each, written whole and renamed into place, then only read or
// removed. So there is nothing to repair after a crash and no lock to be left
// behind, 2,000 small files are one file to create, and to evict is to unlink.
// README.md has the layout and the reasons.
package filecache

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options bound a cache. The zero value of each field means its default.
type Options struct {
	MaxBytes int64         // on disk, 1 GiB; exceeded by less than an eighth while packs are written
	MaxAge   time.Duration // an entry goes when it was not wanted for so long, 30 days
	MaxFile  int64         // larger content is not stored, 8 MiB; never more than an eighth of MaxBytes
	// RacyWindow: content is not stored if its ctime is less than this before
	// now, 2 s, since it may have changed again within the same tick of the
	// client's clock. Put must be called not later than this after the client
	// read the file.
	RacyWindow time.Duration
	// Now is the clock that ctimes are compared with: the client's, as well as
	// it is known. The server's by default.
	Now func() time.Time
	// CloseWait bounds how long Close stores and evicts, 5 s.
	CloseWait time.Duration

	flushAfter time.Duration // what waits for a full batch waits no longer, 2 s
	idleAfter  time.Duration // packs are closed when unused for so long, 30 s
}

func (o *Options) setDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.MaxAge, 30*24*time.Hour)
	set(&o.RacyWindow, 2*time.Second)
	set(&o.CloseWait, 5*time.Second)
	set(&o.flushAfter, 2*time.Second)
	set(&o.idleAfter, 30*time.Second)
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 30
	}
	if o.MaxFile <= 0 {
		o.MaxFile = 8 << 20
	}
	o.MaxFile = min(o.MaxFile, o.MaxBytes/8)
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Bounds in memory and on disk that need no option.
const (
	batchBytes    = 8 << 20  // content in a pack as first written
	queueBytes    = 32 << 20 // content that waits to be written: four batches
	queueItems    = 1 << 15
	bytesPerEntry = 1 << 10 // MaxBytes of the cache per entry, at the least: an entry takes 8 bytes of memory
	refreshEvery  = int64(time.Second)
)

// Cache is a content cache. All methods are safe for concurrent use.
//
// Lock order: load before mu. Get takes neither while packs are loaded.
type Cache struct {
	opt   Options
	dir   *os.File
	start time.Time

	mu       sync.Mutex // guards the queue
	queue    []item
	queued   int64 // bytes of content in queue
	closed   bool
	disabled bool

	wake   chan struct{} // the queue has become something, or large
	loaded chan struct{} // packs have been opened
	quit   chan struct{} // closed by Close
	done   chan struct{} // closed when the writer has returned
	// deadline ends the writer's work after quit.
	deadline time.Time

	load      sync.Mutex // held while packs are opened and closed
	dirSeen   int64      // the directory's mtime when it was last listed; 0: list it again
	shut      bool
	packs     atomic.Pointer[snapshot]
	refreshed atomic.Int64 // when the directory was looked at, nanoseconds since start
	lastUse   atomic.Int64 // when Get was last called, same

	stats counters
}

// snapshot is the packs as last seen, newest first. Entries of those from old
// on will be the next to be evicted.
type snapshot struct {
	packs []*pack
	old   int
}

// Stats are the counters of one Cache since Open.
type Stats struct {
	Hits, HitBytes      uint64
	Misses              uint64
	Stored, StoredBytes uint64 // entries written, without those moved to keep them
	Kept                uint64 // entries moved from old packs because they were wanted
	Racy                uint64 // Puts refused since the content may have changed
	Dropped             uint64 // Puts that found the queue full or storing disabled
	Evicted             uint64 // entries removed for size or age
	EvictedBytes        uint64
	Corrupt             uint64 // entries, or whole packs, found damaged and removed
	WriteErrors         uint64 // after the first, nothing more is stored
}

type counters struct {
	hits, hitBytes, misses, stored, storedBytes, kept, racy, dropped, evicted, evictedBytes, corrupt, writeErrors atomic.Uint64
}

// Open opens the cache in dir, which it creates if it is not there; dir's
// parent must exist. It fails if dir is not the calling user's alone.
func Open(dir string, opt Options) (*Cache, error) {
	opt.setDefaults()
	d, err := openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("filecache: %w", err)
	}
	c := &Cache{
		opt: opt, dir: d, start: time.Now(),
		wake: make(chan struct{}, 1), loaded: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	go c.run()
	return c, nil
}

func (c *Cache) elapsed() int64 { return int64(time.Since(c.start)) }

// Get returns the content that was stored for k, verified. It reads from the
// local disk and waits for nothing else. The caller owns the slice.
func (c *Cache) Get(k Key) ([]byte, bool) {
	if data, ok := c.get(k); ok {
		c.stats.hits.Add(1)
		c.stats.hitBytes.Add(uint64(len(data)))
		return data, true
	}
	c.stats.misses.Add(1)
	return nil, false
}

func (c *Cache) get(k Key) ([]byte, bool) {
	if k.Size > uint64(c.opt.MaxFile) {
		return nil, false
	}
	want := k.id()
	c.lastUse.Store(c.elapsed())
	for range 2 { // again if packs were closed meanwhile
		s := c.current()
		for at, p := range s.packs {
			e, found, bad, err := p.get(&want, k.Size)
			c.stats.corrupt.Add(uint64(bad))
			if err != nil {
				break
			}
			if !found {
				continue
			}
			if c.expired(e.used) {
				return nil, false
			}
			c.used(s, at, &e)
			return e.content, true
		}
		if s == c.packs.Load() {
			break
		}
	}
	return nil, false
}

// Warm reads what Has answers from, so that it need not say no because nothing
// was looked up yet.
func (c *Cache) Warm() { c.current() }

// Has tells whether Get is likely to succeed for k. It looks in memory alone,
// and so says no while nothing was looked up for some time. It neither waits
// nor reads.
func (c *Cache) Has(k Key) bool {
	s := c.packs.Load()
	if s == nil || k.Size > uint64(c.opt.MaxFile) {
		return false
	}
	want := k.id()
	return slices.ContainsFunc(s.packs, func(p *pack) bool { return p.may(&want) })
}

func (c *Cache) expired(used int64) bool {
	now := time.Now()
	return used < now.Add(-c.opt.MaxAge).UnixNano() || used > now.Add(clockSlack).UnixNano()
}

// clockSlack is how far in the future an entry may come from. Those from
// farther would never age.
const clockSlack = 24 * time.Hour

// Put stores data as the content of k, some time later. It does not wait and
// does not fail: what cannot be stored is only counted. data must not be
// changed after.
func (c *Cache) Put(k Key, data []byte) {
	if uint64(len(data)) != k.Size || k.Size > uint64(c.opt.MaxFile) {
		return
	}
	if k.racy(c.opt.Now(), c.opt.RacyWindow) {
		c.stats.racy.Add(1)
		return
	}
	if !c.enqueue(item{id: k.id(), content: data}, queueBytes) {
		c.stats.dropped.Add(1)
	}
}

// Close stores what is queued, evicts, and closes the cache. It waits a
// bounded time for that; Get and Put may still be called, and do nothing.
func (c *Cache) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.deadline = time.Now().Add(c.opt.CloseWait)
		close(c.quit)
	}
	c.mu.Unlock()
	late := time.NewTimer(c.opt.CloseWait + time.Second)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		// A disk that hangs. The writer ends when it answers, and closes then.
		return fmt.Errorf("filecache: %s does not answer: gave up after %v", c.dir.Name(), c.opt.CloseWait)
	}
	return nil
}

// Stats returns the counters so far.
func (c *Cache) Stats() Stats {
	n := &c.stats
	return Stats{
		Hits: n.hits.Load(), HitBytes: n.hitBytes.Load(), Misses: n.misses.Load(),
		Stored: n.stored.Load(), StoredBytes: n.storedBytes.Load(), Kept: n.kept.Load(),
		Racy: n.racy.Load(), Dropped: n.dropped.Load(),
		Evicted: n.evicted.Load(), EvictedBytes: n.evictedBytes.Load(),
		Corrupt: n.corrupt.Load(), WriteErrors: n.writeErrors.Load(),
	}
}
