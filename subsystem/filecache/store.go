package filecache

import "time"

// item waits to be written: new content, or an entry of an old pack.
type item struct {
	id      id
	content []byte
	from    *pack
	size    int // of the content when from is set
}

func (i *item) bytes() int64 { return int64(max(len(i.content), i.size)) }

// batchLimit is how much content goes into one pack.
func (c *Cache) batchLimit() int64 { return min(batchBytes, c.opt.MaxBytes/16) }

// enqueue appends it to the queue if that holds at most limit bytes.
func (c *Cache) enqueue(it item, limit int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.disabled || len(c.queue) >= queueItems || c.queued+it.bytes() > limit {
		return false
	}
	before := c.queued
	c.queue = append(c.queue, it)
	c.queued += it.bytes()
	if batch := c.batchLimit(); len(c.queue) == 1 || len(c.queue) == queueItems/2 || before < batch && c.queued >= batch {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// takeBatch takes from the queue what goes into a pack.
func (c *Cache) takeBatch() []item {
	c.mu.Lock()
	defer c.mu.Unlock()
	var size int64
	n := 0
	for n < len(c.queue) && size < c.batchLimit() {
		size += c.queue[n].bytes()
		n++
	}
	batch := c.queue[:n:n]
	c.queue, c.queued = c.queue[n:], c.queued-size
	if len(c.queue) == 0 {
		c.queue = nil
	}
	return batch
}

// full tells whether a batch is waiting.
func (c *Cache) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued >= c.batchLimit() || len(c.queue) >= queueItems/2
}

// run writes, evicts, and closes what is not used, until Close. It sleeps when
// there is nothing to do.
func (c *Cache) run() {
	defer close(c.done)
	defer c.drop(true)
	flush := time.NewTimer(time.Hour)
	flush.Stop()
	idle := time.NewTimer(time.Hour)
	idle.Stop()
	for {
		select {
		case <-c.wake:
			if c.full() {
				flush.Stop()
				c.flush()
			} else {
				flush.Reset(c.opt.flushAfter)
			}
		case <-flush.C:
			c.flush()
		case <-c.loaded:
			idle.Reset(c.opt.idleAfter)
		case <-idle.C:
			if unused := time.Duration(c.elapsed() - c.lastUse.Load()); unused < c.opt.idleAfter {
				idle.Reset(c.opt.idleAfter - unused)
			} else {
				c.drop(false)
			}
		case <-c.quit:
			c.flush()
			c.evict()
			return
		}
	}
}

// flush writes all that is queued.
func (c *Cache) flush() {
	wrote := false
	for !c.late() {
		batch := c.takeBatch()
		if len(batch) == 0 {
			break
		}
		if err := c.write(batch); err != nil {
			c.disable(batch)
			break // what was written before is still to be found
		}
		wrote = true
		c.evict()
	}
	if wrote {
		c.load.Lock()
		c.refresh(true)
		c.load.Unlock()
	}
}

// late tells whether Close has waited long enough.
func (c *Cache) late() bool {
	select {
	case <-c.quit:
		return time.Now().After(c.deadline)
	default:
		return false
	}
}

// disable ends storing for this session: the disk is full, or read-only. lost
// is what was being written.
func (c *Cache) disable(lost []item) {
	c.stats.writeErrors.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disabled = true
	for _, it := range append(lost, c.queue...) {
		if it.from == nil {
			c.stats.dropped.Add(1)
		}
	}
	c.queue, c.queued = nil, 0
}

// write stores a batch as a pack.
func (c *Cache) write(batch []item) error {
	s := c.current()
	now := time.Now().UnixNano()
	seen := make(map[id]bool, len(batch))
	var w *packWriter
	var stored, storedBytes, kept uint64
	for i := range batch {
		it := &batch[i]
		if seen[it.id] || !c.wanted(s, it) {
			continue
		}
		seen[it.id] = true
		e := entry{used: now, id: it.id, content: it.content}
		if it.from != nil {
			old, found, _, err := it.from.get(&it.id, uint64(it.size))
			if err != nil || !found {
				continue
			}
			e.content = old.content
			kept++
		} else {
			stored, storedBytes = stored+1, storedBytes+uint64(len(it.content))
		}
		if w == nil {
			var err error
			if w, err = newPackWriter(c.dir, len(batch)-i); err != nil {
				return err
			}
		}
		if err := w.add(&e); err != nil {
			w.abort()
			return err
		}
	}
	if w == nil {
		return nil
	}
	if err := w.finish(); err != nil {
		return err
	}
	c.stats.stored.Add(stored)
	c.stats.storedBytes.Add(storedBytes)
	c.stats.kept.Add(kept)
	return nil
}

// wanted tells whether an item is to be written: new content unless it is
// there, an old entry unless a newer pack has it.
func (c *Cache) wanted(s *snapshot, it *item) bool {
	for _, p := range s.packs {
		if p == it.from {
			return true
		}
		if !p.may(&it.id) {
			continue
		}
		if it.from != nil {
			return false
		}
		if _, found, bad, _ := p.get(&it.id, uint64(len(it.content))); found {
			return false
		} else if bad > 0 {
			c.stats.corrupt.Add(uint64(bad))
		}
	}
	return true
}
