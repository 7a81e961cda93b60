package filecache

import (
	"cmp"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Packs are merged when there are more than mergeAbove: a lookup looks in all.
const (
	mergeAbove   = 48
	maxPackBytes = 64 << 20
	// tempAge is how old an unfinished pack is that nobody will finish.
	tempAge = time.Hour
)

// packLimit is how large merging makes a pack. Eviction takes whole packs, so
// that one is a small part of the cache.
func (c *Cache) packLimit() int64 { return min(maxPackBytes, c.opt.MaxBytes/16) }

// evict removes what is too old and what there is no room for, oldest first,
// and merges packs when there are many. Sessions may do so at the same time:
// what one has removed is gone for the other as well.
func (c *Cache) evict() {
	infos, temps, err := c.list()
	if err != nil {
		return
	}
	for _, name := range temps {
		c.removeStale(name)
	}
	var bytes, entries int64
	keep := infos[:0]
	for _, info := range infos {
		bytes += info.size
		entries += int64(info.count)
		switch {
		case c.expired(info.newest):
			bytes -= info.size
			entries -= int64(info.count)
			c.removePack(info)
		case bytes > c.opt.MaxBytes || entries > c.opt.MaxBytes/bytesPerEntry:
			c.removePack(info)
		default:
			keep = append(keep, info)
		}
	}
	if len(keep) > mergeAbove {
		c.mergeMany(keep)
	}
}

func (c *Cache) removePack(info packInfo) {
	if removeIn(c.dir, info.name) == nil {
		c.stats.evicted.Add(uint64(info.count))
		c.stats.evictedBytes.Add(uint64(info.size))
	}
}

// removeStale removes what a session that was killed has left unfinished.
func (c *Cache) removeStale(name string) {
	var st unix.Stat_t
	if unix.Fstatat(int(c.dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	if time.Since(time.Unix(st.Mtim.Unix())) > tempAge {
		_ = removeIn(c.dir, name) // another session's cleaning was faster, or it is a directory
	}
}

// mergeMany merges until there are few packs. Only one session does at a
// time, to save work; the kernel lets go of the lock when it dies.
func (c *Cache) mergeMany(infos []packInfo) {
	fd := int(c.dir.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return
	} else if err == nil {
		defer func() { _ = unix.Flock(fd, unix.LOCK_UN) }()
	}
	for len(infos) > mergeAbove && !c.late() {
		from, to := c.pickRun(infos)
		if to-from < 2 || !c.merge(infos[from:to]) {
			return
		}
		var err error
		if infos, _, err = c.list(); err != nil {
			return
		}
	}
}

// pickRun chooses packs to merge: neighbours in age, so that the order of
// eviction stays; the smallest pair, and what adjoins it and is not much
// larger than what is merged already, so that bytes are moved few times.
func (c *Cache) pickRun(infos []packInfo) (from, to int) {
	best := c.packLimit() + 1
	for i := 0; i+1 < len(infos); i++ {
		if sum := infos[i].size + infos[i+1].size; sum < best {
			best, from, to = sum, i, i+2
		}
	}
	fits := func(i int) bool {
		return i >= 0 && i < len(infos) && infos[i].size <= 2*best && best+infos[i].size <= c.packLimit()
	}
	for to > from {
		left, right := fits(from-1), fits(to)
		switch {
		case left && (!right || infos[from-1].size <= infos[to].size):
			from--
			best += infos[from].size
		case right:
			best += infos[to].size
			to++
		default:
			return from, to
		}
	}
	return from, to
}

// merge writes the entries of packs, which are ordered newest first, into one,
// and removes them. It tells whether it has done so.
func (c *Cache) merge(infos []packInfo) bool {
	var packs []*pack
	defer func() {
		for _, p := range packs {
			p.f.Close()
		}
	}()
	room := 0
	for _, info := range infos {
		p, err := openPack(c.dir, info)
		if err != nil {
			c.unreadable(info, err)
			return false
		}
		packs = append(packs, p)
		room += len(p.cells)
	}
	w, err := newPackWriter(c.dir, room)
	if err != nil {
		return false
	}
	for i := len(packs) - 1; i >= 0; i-- {
		if !c.copyPack(w, packs[i], packs[:i]) {
			w.abort()
			return false
		}
	}
	if len(w.x.cells) == 0 {
		w.abort()
	} else if w.finish() != nil {
		return false
	}
	for _, p := range packs {
		_ = removeIn(c.dir, p.name) // evicted by another session meanwhile
	}
	return true
}

// copyPack copies the good entries of p that no newer pack has, in the order
// in which they were stored.
func (c *Cache) copyPack(w *packWriter, p *pack, newer []*pack) bool {
	cells := make([]uint64, len(p.cells))
	for i := range p.cells {
		cells[i] = p.cell(i)
	}
	slices.SortFunc(cells, func(a, b uint64) int { return cmp.Compare(cellOffset(a), cellOffset(b)) })
	for _, cell := range cells {
		if cellOffset(cell) == 0 {
			continue
		}
		if c.late() {
			return false
		}
		e, err := p.readCell(cell)
		if err != nil {
			c.stats.corrupt.Add(1)
			continue
		}
		superseded := slices.ContainsFunc(newer, func(q *pack) bool { return q.may(&e.id) })
		if superseded || c.expired(e.used) {
			continue
		}
		if w.add(&e) != nil {
			return false
		}
	}
	return true
}
