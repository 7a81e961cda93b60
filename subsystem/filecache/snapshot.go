package filecache

import (
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxOpen bounds the packs that are open. Merging keeps them far below.
const maxOpen = 256

var nothing = &snapshot{}

// current returns the packs to look in. Now and then it looks what other
// sessions have done to the directory; one caller does so while others go on.
func (c *Cache) current() *snapshot {
	s := c.packs.Load()
	if s != nil && c.elapsed()-c.refreshed.Load() < refreshEvery {
		return s
	}
	if s == nil {
		c.load.Lock()
	} else if !c.load.TryLock() {
		return s
	}
	defer c.load.Unlock()
	return c.refresh(false)
}

// refresh brings the packs up to the directory. c.load is held.
func (c *Cache) refresh(force bool) *snapshot {
	old := c.packs.Load()
	if c.shut {
		return nothing
	}
	if old != nil && !force && c.elapsed()-c.refreshed.Load() < refreshEvery {
		return old
	}
	c.refreshed.Store(c.elapsed())
	seen := c.dirTime()
	if old != nil && seen != 0 && seen == c.dirSeen {
		return old
	}
	infos, _, err := c.list()
	if err != nil {
		if old == nil {
			return nothing
		}
		return old
	}
	s, gone := c.open(old, infos)
	c.dirSeen = seen
	c.packs.Store(s)
	for _, p := range gone {
		p.f.Close()
	}
	select {
	case c.loaded <- struct{}{}:
	default:
	}
	return s
}

// dirTime returns the directory's mtime, or 0 if something may still happen
// within the same tick.
func (c *Cache) dirTime() int64 {
	var st unix.Stat_t
	if unix.Fstat(int(c.dir.Fd()), &st) != nil {
		return 0
	}
	at := time.Unix(st.Mtim.Unix())
	if d := time.Since(at); d < 2*time.Second {
		return 0
	}
	return at.UnixNano()
}

// open makes a snapshot of infos with the packs of old that are still there;
// gone are the others.
func (c *Cache) open(old *snapshot, infos []packInfo) (s *snapshot, gone []*pack) {
	have := make(map[string]*pack)
	if old != nil {
		for _, p := range old.packs {
			have[p.name] = p
		}
	}
	s = &snapshot{}
	var total, newer int64
	for _, info := range infos {
		total += info.size
	}
	for _, info := range infos[:min(len(infos), maxOpen)] {
		p := have[info.name]
		if p == nil {
			var err error
			if p, err = openPack(c.dir, info); err != nil {
				c.unreadable(info, err)
				continue
			}
		}
		delete(have, info.name)
		s.packs = append(s.packs, p)
		// Under pressure of room, what lies in the older half goes next.
		if newer += info.size; newer <= total/2 || total <= c.opt.MaxBytes/2 {
			s.old = len(s.packs)
		}
	}
	for _, p := range have {
		gone = append(gone, p)
	}
	return s, gone
}

// unreadable removes a pack that is damaged as a whole, or is not a plain file
// of ours.
func (c *Cache) unreadable(info packInfo, err error) {
	if errors.Is(err, errPack) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EPERM) {
		c.stats.corrupt.Add(1)
		_ = removeIn(c.dir, info.name) // the link itself if it is one; a directory stays
	}
}

// list returns the packs of the directory, newest first, and the names of
// unfinished ones.
func (c *Cache) list() (infos []packInfo, temps []string, err error) {
	names, err := namesIn(c.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, tempPrefix) {
			temps = append(temps, name)
		}
		info, ok := parseName(name)
		if !ok {
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(int(c.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // another session's eviction was faster
		}
		if !ours(&st) {
			c.unreadable(info, unix.EPERM)
			continue
		}
		info.size = st.Size
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b packInfo) int { return strings.Compare(b.name, a.name) })
	return infos, temps, nil
}

// used remembers that an entry of the at-th pack was wanted, if it would soon
// be evicted otherwise: it is then stored anew.
func (c *Cache) used(s *snapshot, at int, e *entry) {
	if at < s.old && e.used > time.Now().Add(-c.opt.MaxAge/4).UnixNano() {
		return
	}
	// What is new comes first: only half of the queue is for this.
	c.enqueue(item{id: e.id, from: s.packs[at], size: len(e.content)}, queueBytes/2)
}

// drop closes all packs, and for good if shut is set.
func (c *Cache) drop(shut bool) {
	c.load.Lock()
	defer c.load.Unlock()
	s := c.packs.Swap(nil)
	if s != nil {
		for _, p := range s.packs {
			p.f.Close()
		}
	}
	c.dirSeen = 0
	if shut && !c.shut {
		c.shut = true
		c.packs.Store(nothing)
		c.dir.Close()
	}
}
