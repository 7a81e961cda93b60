package fmaster

import (
	"strings"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// mountPoint is a place in the tree of paths that the server mounts something
// on, or one above it.
type mountPoint struct {
	children map[string]*mountPoint
	mounted  bool
	dir      bool
	link     string // the server's symbolic link, in place of a mount
	absent   bool   // of the server's, and it does not have it: nothing is there
	pinned   bool   // the client's own, with something mounted over it
}

func mountTree(cfg *Config) *mountPoint {
	root := &mountPoint{dir: true}
	for p, dir := range cfg.Mountpoints {
		at := root.at(p)
		at.mounted, at.dir = true, dir
	}
	for p, text := range cfg.Links {
		if at := root.at(p); at != root && at.children == nil {
			at.mounted, at.dir, at.link = true, false, text
		}
	}
	for _, p := range cfg.Hidden {
		if at := root.at(p); at != root && at.children == nil {
			at.mounted, at.absent = true, true
		}
	}
	for _, p := range cfg.Pinned {
		root.at(p).pinned = true
	}
	return root
}

// at returns the place of the path p below m, made if need be.
func (m *mountPoint) at(p string) *mountPoint {
	at := m
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		next := at.children[name]
		if next == nil {
			next = &mountPoint{dir: true}
			if at.children == nil {
				at.children = make(map[string]*mountPoint)
			}
			at.children[name] = next
		}
		at = next
	}
	return at
}

func (m *mountPoint) child(name string) *mountPoint {
	if m == nil {
		return nil
	}
	return m.children[name]
}

// synthesize returns the node for a mount point in dir, or for a directory
// above one that the client does not have. It belongs to the client's root,
// lasts as long as the session, and nothing can be changed in it. s.mu is
// held.
func (s *Server) synthesize(dir *node, name string, m *mountPoint) *node {
	if n := dir.entries().children[name]; n != nil && n.synthetic {
		return n
	}
	n := s.newNode()
	n.synthetic, n.known, n.mounts = true, true, m
	mode := uint32(modeDir | 0o755)
	if !m.dir {
		mode = modeRegular | 0o644
	}
	now := s.clock.now()
	n.attr = fsyscall.Attr{
		Ino: s.provisionalIno(), Mode: mode, Nlink: 1, Access: accessR | accessX,
		Flags: fsyscall.AttrReadOnly | fsyscall.AttrNoXattr, Atime: now, Mtime: now, Ctime: now,
	}
	switch {
	case m.dir:
		n.attr.Nlink = 2
		n.entries().whole = true
	case m.link != "":
		n.attr.Mode, n.attr.Size = modeLink|0o777, uint64(len(m.link))
		n.target, n.hasLink = m.link, true
	}
	s.place(dir, name, n)
	return n
}
