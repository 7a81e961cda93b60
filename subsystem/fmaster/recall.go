package fmaster

import (
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/filecache"
)

// Config.Cache has content that earlier sessions have read. Of a file whose
// attributes are known it is asked before the client is: under a lease the
// file is then open without a call, and otherwise by one that brings no data.
//
// What goes in came whole, and together with the attributes that it is found
// by again, of which the client says that they prove it (AttrSettled). What the
// session has made up about a file (see touch) is neither looked up nor stored
// under.

// maxRecalled bounds the files looked up: what the cache takes by default. A
// file is in memory as a whole, while it is read or stored.
const maxRecalled = 8 << 20

// recalled is content from the cache for a file that the client has to be
// asked about nevertheless.
type recalled struct {
	key  filecache.Key
	data []byte
}

// keyOf is what content is found by that came with the attributes a.
func (s *Server) keyOf(a *fsyscall.Attr) filecache.Key {
	return filecache.Key{
		Machine: s.cfg.Hello.Machine, Dev: a.Dev, Ino: a.Ino, Size: a.Size,
		Mtime: [2]int64{a.Mtime.Sec, int64(a.Mtime.Nsec)}, Ctime: [2]int64{a.Ctime.Sec, int64(a.Ctime.Nsec)},
	}
}

// nodeKey is keyOf for what is known of n, if that is the client's word. s.mu
// is held.
func (s *Server) nodeKey(n *node) (filecache.Key, bool) {
	if s.cfg.Cache == nil || !n.asClient || n.pending > 0 || n.stdio != nil || !n.isRegular() ||
		n.attr.Size == 0 || n.attr.Size > maxRecalled {
		return filecache.Key{}, false
	}
	a := n.attr
	a.Dev, a.Ino = n.key.dev, n.key.ino
	return s.keyOf(&a), true
}

// recall looks n's content up in the cache, unless it is here or on its way.
// s.mu is held, and let go of meanwhile.
func (s *Server) recall(n *node) *recalled {
	key, ok := s.nodeKey(n)
	if !ok || s.content.has(n) || n.fetching != nil {
		return nil
	}
	gen := n.gen
	s.mu.Unlock()
	data, found := s.cfg.Cache.Get(key)
	s.mu.Lock()
	if now, ok := s.nodeKey(n); !found || n.gen != gen || !ok || now != key {
		return nil
	}
	return &recalled{key, data}
}

// useRecalled takes r over as n's content, if n's attributes are still those
// that it was found by.
func (s *Server) useRecalled(n *node, r *recalled) {
	if key, ok := s.nodeKey(n); !ok || key != r.key || s.content.has(n) {
		return
	}
	s.content.put(n, r.data)
	s.stats.recalled.Add(1)
	s.stats.recalledBytes.Add(int64(len(r.data)))
}

// inCache tells whether n's content need not be fetched ahead.
func (s *Server) inCache(n *node) bool {
	key, ok := s.nodeKey(n)
	return ok && s.cfg.Cache.Has(key)
}

// takeContent keeps content that has come from the client together with the
// attributes a as n's, and for later sessions. It may not be changed by others
// afterwards. s.mu is held.
func (s *Server) takeContent(n *node, a *fsyscall.Attr, data []byte) {
	s.content.put(n, data)
	if s.cfg.Cache == nil || n.stdio != nil || len(data) == 0 || uint64(len(data)) != a.Size || a.Flags&fsyscall.AttrSettled == 0 {
		return
	}
	s.content.share(n)
	s.cfg.Cache.Put(s.keyOf(a), data)
}

// lastContent gives those who have n open, and of whom the client does not
// know, the content that they opened: should the file they mean be gone when
// they read on, it is what they would find on a local disk.
func (s *Server) lastContent(n *node) {
	if !n.lazilyOpen() {
		return
	}
	data := s.content.get(n)
	if data == nil {
		return
	}
	for _, f := range n.open {
		if !f.remote {
			f.last = data
		}
	}
}

// hasLast tells whether all who have n open, and these there are, have what
// lastContent gave them.
func (n *node) hasLast() bool {
	for _, f := range n.open {
		if f.last == nil {
			return false
		}
	}
	return len(n.open) > 0
}
