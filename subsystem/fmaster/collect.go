package fmaster

import "github.com/SumiTomohiko/nexec/fsyscall"

// A file that does not come with its open, but is no larger than what
// Config.Cache takes, is put together while it is read from beginning to end,
// or was asked for whole. The parts were read one after the other, so that it
// counts only if the file is in the end what it was when it was opened.

// maxCollecting bounds what is put together at the same time, of all files.
const maxCollecting = 32 << 20

// collector is a file being put together. readAhead.mu guards it.
type collector struct {
	data  []byte // of the size of the file
	got   int
	whole bool // it was asked for whole
}

// collectable tells whether a file that is about to be opened on the client
// may be put together. s.mu is held.
func (s *Server) collectable(f *file) bool {
	n := f.node
	return !s.cfg.Hello.NoCache && !f.writable() && n.stdio == nil && n.pending == 0 &&
		n.attr.Size > inlineMax && n.attr.Size <= maxRecalled && f.recalled == nil && !s.content.has(n)
}

// collect begins to put a file of size bytes together, if there is room. a.mu
// is held.
func (a *readAhead) collect(s *Server, size uint64) {
	a.collectable = false // from the beginning or not at all
	if size <= inlineMax || size > maxRecalled {
		return
	}
	if s.collecting.Add(int64(size)) > maxCollecting {
		s.collecting.Add(-int64(size))
		return
	}
	a.collector = &collector{data: make([]byte, size)}
}

// uncollect gives up what was put together.
func (a *readAhead) uncollect(s *Server) {
	if a.collector != nil {
		s.collecting.Add(-int64(len(a.collector.data)))
		a.collector = nil
	}
}

// release lets go of everything when the file is closed, but that a file which
// was asked for whole is still put together. a.mu is held.
func (a *readAhead) release(s *Server) {
	var kept *collector
	if a.pinned {
		kept, a.collector = a.collector, nil
	}
	a.reset(s)
	a.collector = kept
}

// add takes a part that has come in. It returns the content once it is whole.
// a.mu is held.
func (a *readAhead) add(s *Server, p *part) []byte {
	c := a.collector
	if c == nil || p.into != c {
		return nil
	}
	if p.errno != 0 || p.off+uint64(len(p.data)) > uint64(len(c.data)) {
		a.uncollect(s)
		return nil
	}
	c.got += copy(c.data[p.off:], p.data)
	if c.got < len(c.data) {
		return nil
	}
	a.uncollect(s)
	return c.data
}

// keepCollected keeps content that was read through f if the client says that
// the file is still the one that was opened.
func (s *Server) keepCollected(f *file, data []byte, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := f.node
	if n.pending > 0 || n.parent == nil || n.dropped || s.attach(n, urgent) != 0 {
		return
	}
	reply := &fsyscall.AttrReply{}
	s.calls.begin(urgent, fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: n.wire}, &pendingCall{reply: reply, done: func(h fsyscall.Header, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		a := f.openedAs
		if h.Errno != 0 || a == nil || a.Size != uint64(len(data)) || s.keyOf(a) != s.keyOf(&reply.Attr) {
			return
		}
		if whole && n.gen == f.openedGen && n.pending == 0 && n.until.IsZero() && !s.content.has(n) {
			s.content.put(n, data)
			s.content.share(n)
			f.ahead.mu.Lock()
			for _, p := range f.ahead.parts {
				p.used = true // as content
			}
			f.ahead.reset(s)
			f.ahead.mu.Unlock()
		}
		if s.cfg.Cache != nil && a.Flags&fsyscall.AttrSettled != 0 {
			s.cfg.Cache.Put(s.keyOf(a), data)
		}
	}})
}
