package fmaster

import (
	"container/list"
	"slices"
)

// The content of small files is kept whole in memory: of those that came with
// their open or were read ahead, and of those that the session itself wrote.
const (
	contentLimit   = 64 << 20 // all files together
	maxContentFile = 1 << 20  // one file, if the session writes it; else maxRecalled
)

// contentCache is a set of whole file contents, least recently used first out.
// Server.mu guards it.
type contentCache struct {
	limit int
	size  int
	order list.List // of *content; front: used last
	byID  map[*node]*list.Element
	gone  func(*node) // called for each content that is let go of
}

type content struct {
	node   *node
	data   []byte
	shared bool // with somebody who reads it: it may not be changed
}

// get returns n's content; nil if it is not known. An empty file's is not nil.
func (c *contentCache) get(n *node) []byte {
	e := c.byID[n]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*content).data
}

func (c *contentCache) has(n *node) bool { return c.byID[n] != nil }

// is tells whether data, which get returned, is still n's content.
func (c *contentCache) is(n *node, data []byte) bool {
	e := c.byID[n]
	if e == nil {
		return false
	}
	now := e.Value.(*content).data
	return len(now) == len(data) && &now[0] == &data[0]
}

// put keeps data, which it takes over, as n's content.
func (c *contentCache) put(n *node, data []byte) {
	c.remove(n)
	if len(data) > maxRecalled {
		return
	}
	if data == nil {
		data = []byte{}
	}
	if c.byID == nil {
		c.byID = make(map[*node]*list.Element)
	}
	c.byID[n] = c.order.PushFront(&content{node: n, data: data})
	c.size += cap(data)
	for e := c.order.Back(); c.size > c.limit && e != nil; {
		prev := e.Prev()
		if o := e.Value.(*content); o.node != n && !o.node.lazilyOpen() {
			c.remove(o.node)
		}
		e = prev
	}
}

// share makes n's content be copied before it is changed.
func (c *contentCache) share(n *node) {
	if e := c.byID[n]; e != nil {
		e.Value.(*content).shared = true
	}
}

// full tells whether more content is in use than should be kept.
func (c *contentCache) full() bool { return c.size > c.limit }

func (c *contentCache) remove(n *node) {
	e := c.byID[n]
	if e == nil {
		return
	}
	delete(c.byID, n)
	if c.gone != nil {
		c.gone(n)
	}
	c.size -= cap(c.order.Remove(e).(*content).data)
}

// write applies a write to n's content if it is known.
func (c *contentCache) write(n *node, off uint64, data []byte) {
	e := c.byID[n]
	if e == nil {
		return
	}
	k := e.Value.(*content)
	end := off + uint64(len(data))
	if end > maxContentFile {
		c.remove(n)
		return
	}
	c.size -= cap(k.data)
	if k.shared {
		k.data, k.shared = slices.Clone(k.data), false
	}
	if old := uint64(len(k.data)); end > old {
		if end > uint64(cap(k.data)) {
			grown := make([]byte, end, max(end, min(2*end, maxContentFile)))
			copy(grown, k.data)
			k.data = grown
		} else {
			k.data = k.data[:end]
			if off > old {
				clear(k.data[old:off])
			}
		}
	}
	copy(k.data[off:end], data)
	c.size += cap(k.data)
}

// truncate applies a change of size to n's content.
func (c *contentCache) truncate(n *node, size uint64) {
	if size == 0 {
		c.put(n, []byte{})
		return
	}
	e := c.byID[n]
	if e == nil {
		return
	}
	k := e.Value.(*content)
	if size > uint64(len(k.data)) {
		if size > maxContentFile {
			c.remove(n)
			return
		}
		c.write(n, uint64(len(k.data)), make([]byte, size-uint64(len(k.data))))
		return
	}
	k.data = k.data[:size]
}
