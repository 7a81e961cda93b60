package fmaster

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// The working set of a command: what it uses of the client's files. The client
// keeps the one that Used gives at the command's end, and gives it to Expect
// when the command is run again: then all of it is asked for in two flights,
// first what is there and next the content of files, while the namespaces are
// still being made.
//
// A wrong or an old one costs what is asked for in vain, which is bounded, and
// nothing else: the answers are taken in as any others.

const (
	// maxExpected bounds the content asked for because of one working set.
	maxExpected = 16 << 20
	// listWorth: a listing takes the place of look-ups where it has no more
	// than so many entries for each of them, an entry being shorter than a call
	// and its answer.
	listWorth = 12
)

// working is guarded by Server.mu.
type working struct {
	over     bool // what is used is not recorded any more
	missed   int  // names in all dirState.missed
	expected int  // bytes of content asked for
}

// use records that a program used n.
func (s *Server) use(n *node, what fsyscall.UseWhat) {
	if n == nil {
		return
	}
	n.recent |= what
	if !s.working.over {
		n.used |= what
	}
}

// miss records that a program wanted a name in dir that does not exist.
func (s *Server) miss(dir *node, name string) {
	w := &s.working
	if w.over || w.missed >= fsyscall.MaxUses || dir.synthetic {
		return
	}
	d := dir.entries()
	if d.missed == nil {
		d.missed = make(map[string]struct{})
	}
	if _, known := d.missed[name]; !known {
		d.missed[name] = struct{}{}
		w.missed++
	}
}

// Used returns what was used of the client's files since the session began,
// parents before what is in them. The second call, and any later, returns
// nothing.
func (s *Server) Used() []fsyscall.PathUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working.over || s.cfg.Hello.NoCache {
		return nil
	}
	s.working.over = true
	var uses []fsyscall.PathUse
	s.root.used |= fsyscall.UseName
	s.collectUses(s.root, "", &uses)
	return uses
}

// collectUses appends what was used of n, which has the path p but for the
// root's slash, and below it.
func (s *Server) collectUses(n *node, p string, uses *[]fsyscall.PathUse) {
	if len(*uses) >= fsyscall.MaxUses || n.synthetic || n.stdio != nil {
		return
	}
	what := n.used
	if !n.isDir() || n.dir == nil {
		if what != 0 {
			*uses = append(*uses, fsyscall.PathUse{Path: p, What: what})
		}
		return
	}
	d := n.dir
	children := d.sorted(func(_ string, c *node) bool {
		return (c.used != 0 || c.isDir()) && (c.mounts == nil || !c.mounts.mounted)
	})
	named := len(d.missed)
	for _, c := range children {
		if c.used != 0 {
			named++
		}
	}
	if d.whole && named > 1 && len(d.children) <= listWorth*named {
		what |= fsyscall.UseListing
	}
	const read = fsyscall.UseName | fsyscall.UseContent
	if what&fsyscall.UseListing != 0 && d.allRead() {
		what |= fsyscall.UseContent
	}
	if what != 0 {
		path := p
		if p == "" {
			path = "/"
		}
		*uses = append(*uses, fsyscall.PathUse{Path: path, What: what})
	}
	if what&fsyscall.UseListing == 0 {
		for _, name := range slices.Sorted(maps.Keys(d.missed)) {
			*uses = append(*uses, fsyscall.PathUse{Path: p + "/" + name, What: fsyscall.UseName})
		}
	}
	for _, c := range children {
		// What the listing tells needs no mention of its own.
		if what&fsyscall.UseListing != 0 && c.used == fsyscall.UseName && !c.isDir() || what&fsyscall.UseContent != 0 && c.isRegular() && c.used&^read == 0 {
			continue
		}
		s.collectUses(c, p+"/"+c.name, uses)
	}
}

// allRead tells whether the content of each regular file was used, of two or
// more: then the directory says so for all of them.
func (d *dirState) allRead() bool {
	files := 0
	for _, c := range d.children {
		if c.isRegular() {
			if c.used&fsyscall.UseContent == 0 {
				return false
			}
			files++
		}
	}
	return files > 1
}

// Expect asks for what a command is likely to use, without waiting.
func (s *Server) Expect(uses []fsyscall.PathUse) {
	if s.cfg.Hello.NoCache || len(uses) == 0 {
		return
	}
	if s.cfg.Cache != nil {
		s.cfg.Cache.Warm()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range uses {
		s.expect(u)
	}
}

func (s *Server) expect(u fsyscall.PathUse) {
	at := s.root
	names := strings.Split(strings.Trim(u.Path, "/"), "/")
	for i, name := range names {
		if name == "" {
			break
		}
		m := at.mounts.child(name)
		if m != nil && m.mounted || at.synthetic || at.known && !at.isDir() {
			return // the server's own, or no directory any more
		}
		next := at.entries().children[name]
		if next == nil {
			if i == len(names)-1 && u.What == fsyscall.UseName {
				s.lookAhead(at, name) // there may be nothing
				return
			}
			next = s.newNode()
			next.mounts = m
			s.place(at, name, next)
		}
		at = next
	}
	at.expect |= u.What
	if at.parent != nil {
		at.parent.dir.expecting = true
	}
	if u.What&fsyscall.UseListing != 0 {
		at.entries().allContent = u.What&fsyscall.UseContent != 0
		s.prepareBig(at)
	} else if at.parent != nil && !at.known {
		s.lookAhead(at.parent, at.name)
	}
	if at.known {
		s.came(at)
	}
}

// prepareBig is prepareOne for a directory of which more than one name is
// wanted.
func (s *Server) prepareBig(n *node) {
	if d := n.entries(); !d.whole && d.listing == nil && !n.synthetic {
		s.list(n, bigMax, nil)
	} else if d.whole {
		s.cameIn(n)
	}
}

// cameIn goes on with what is expected in dir, whose listing has come.
func (s *Server) cameIn(dir *node) {
	d := dir.dir
	if d == nil {
		return
	}
	s.cameAgain(dir)
	if !d.expecting && !d.allContent {
		return
	}
	for _, c := range d.sorted(func(_ string, c *node) bool { return c.known && (c.expect != 0 || d.allContent && c.isRegular()) }) {
		if d.allContent {
			c.expect |= fsyscall.UseContent
		}
		s.came(c)
	}
	d.expecting, d.allContent = false, false
}

// lookAhead looks a name up without waiting, unless the directory's listing
// will tell.
func (s *Server) lookAhead(dir *node, name string) {
	d := dir.entries()
	if (d.listing == nil || d.big) && !d.whole {
		s.beginLook(dir, name)
	}
}

// beginLook looks a name up without waiting.
func (s *Server) beginLook(dir *node, name string) {
	d := dir.entries()
	if d.looking[name] != nil {
		return
	}
	ready := make(chan struct{})
	begun := s.lookLazily(dir, name, func(n, _ *node, _ bool) {
		if delete(d.looking, name); len(d.looking) == 0 {
			d.looking = nil
		}
		if n != nil {
			n.expect |= d.again[name]
			s.came(n)
		}
		delete(d.again, name)
		close(ready)
	})
	if !begun {
		delete(d.again, name)
		return
	}
	if d.looking == nil {
		d.looking = make(map[string]chan struct{})
	}
	d.looking[name] = ready
}

// inTurn is the way of what is asked for ahead: behind the session's changes that
// were made before. By the other one a number for a file could arrive after the
// file has been renamed, and then be a number for what has its name now.
const inTurn = ordered

// came goes on with what is expected of n, now that its attributes are known:
// the text of a link, the content of a file.
func (s *Server) came(n *node) {
	what := n.expect
	n.expect = 0
	switch n.attr.Mode & modeType {
	case modeLink:
		s.linkAhead(n)
	case modeRegular:
		if what&fsyscall.UseContent != 0 {
			s.contentAhead(n)
		}
	}
}

func (s *Server) linkAhead(n *node) {
	if n.hasLink || n.pending > 0 || !n.until.IsZero() || s.attach(n, inTurn) != 0 {
		return
	}
	gen := n.gen
	reply := &fsyscall.ReadLinkReply{}
	s.calls.begin(inTurn, fsyscall.OpReadLink, &fsyscall.ReadLink{ID: n.wire}, &pendingCall{reply: reply, done: func(h fsyscall.Header, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if h.Errno == 0 && h.Leased && n.gen == gen && n.pending == 0 {
			n.target, n.hasLink = reply.Target, true
		}
	}})
}

// contentAhead asks for the content of n, unless it is here or in the cache.
func (s *Server) contentAhead(n *node) {
	if n.pending > 0 || n.fetching != nil || !n.until.IsZero() || n.parent == nil || n.attr.Size == 0 || n.attr.Size > maxRecalled ||
		n.attr.Access&accessR == 0 || s.content.has(n) || s.inCache(n) {
		return
	}
	if size := int(n.attr.Size); s.working.expected+size <= maxExpected {
		s.working.expected += size
		s.stats.expected.Add(1)
		if own := s.openTwin(n); own != nil {
			s.compare(n, own)
		} else {
			s.whole(n)
		}
	}
}

// gathering is a file that is fetched whole.
type gathering struct {
	n     *node
	gen   uint64
	file  fsyscall.FileID
	left  int // answers that have not come
	errno syscall.Errno
	data  []byte
	got   int
	// first and last are the file's attributes before and after its content.
	first  fsyscall.OpenReply
	last   fsyscall.AttrReply
	leased bool
	ready  chan struct{}
}

// whole fetches the content of n in one flight without waiting. Until it has
// come, n.fetching is set.
func (s *Server) whole(n *node) {
	if s.attach(n, inTurn) != 0 {
		return
	}
	g := &gathering{n: n, gen: n.gen, ready: make(chan struct{})}
	n.fetching, n.guessed = g.ready, 0
	size := int(n.attr.Size)
	if size < fsyscall.MaxData {
		g.left = 1
		s.askFor(g, fsyscall.OpFetch, &fsyscall.Fetch{ID: n.wire, Size: uint32(size) + 1}, &g.first, func() { g.data, g.got = g.first.Data, len(g.first.Data) })
		return
	}
	g.file, g.data = s.newFileID(), make([]byte, size)
	parts := (size + partSize - 1) / partSize
	g.left = parts + 2
	s.askFor(g, fsyscall.OpOpen, &fsyscall.Open{ID: n.wire, File: g.file, Flags: fsyscall.OpenReadOnly | s.noATime(n)}, &g.first, nil)
	for at := 0; at < size; at += partSize {
		reply := &fsyscall.Data{}
		s.askFor(g, fsyscall.OpRead, &fsyscall.Read{File: g.file, Off: uint64(at), Size: uint32(min(partSize, size-at))}, reply, func() {
			g.got += copy(g.data[at:], reply.Data)
		})
	}
	s.askFor(g, fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: n.wire, File: g.file}, &g.last, nil)
}

// askFor sends one of the calls of g; took is called with its good answer.
func (s *Server) askFor(g *gathering, op fsyscall.Op, m, reply fsyscall.Message, took func()) {
	call := &pendingCall{reply: reply}
	call.done = func(h fsyscall.Header, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case h.Errno != 0:
			g.errno = syscall.Errno(h.Errno)
		case took != nil:
			took()
		}
		if op == fsyscall.OpFetch || op == fsyscall.OpOpen {
			g.leased = h.Leased
		}
		if op == fsyscall.OpRead {
			s.calls.bufs.put(call.buffer)
		}
		if g.left--; g.left == 0 {
			s.gathered(g)
		}
	}
	s.calls.begin(inTurn, op, m, call)
}

// gathered ends the fetching of a file.
func (s *Server) gathered(g *gathering) {
	n := g.n
	if g.file != 0 {
		s.calls.begin(inTurn, fsyscall.OpRelease, &fsyscall.Release{File: g.file}, &pendingCall{
			reply: &fsyscall.Empty{}, lazy: true, done: func(fsyscall.Header, error) {},
		})
		if s.keyOf(&g.first.Attr) != s.keyOf(&g.last.Attr) {
			g.errno = syscall.ESTALE // it changed meanwhile
		}
	}
	if n.fetching == g.ready {
		n.fetching = nil
	}
	if g.errno == 0 && n.gen == g.gen && n.pending == 0 && uint64(g.got) == g.first.Attr.Size && g.got == len(g.data) {
		s.learn(n, &g.first.Attr, g.leased || n.until.IsZero())
		s.takeContent(n, &g.first.Attr, slices.Clip(g.data))
	}
	if g.errno == syscall.ESTALE && g.file == 0 && n.gen == g.gen {
		s.stale(n)
	}
	close(g.ready)
}
