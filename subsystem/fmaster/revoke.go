package fmaster

import (
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// revoke takes in the client's notice that what it leased is no longer true.
// What the session itself has on its way to the client stays: it is applied
// after, and so wins.
func (s *Server) revoke(r *fsyscall.Revoke) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again.atWork()
	for i := range r.Items {
		it := &r.Items[i]
		s.stats.revoked.Add(1)
		n := s.wires[it.Node]
		if n == nil {
			continue // forgotten meanwhile
		}
		if it.What == fsyscall.RevokeTree {
			s.revokeTree(n)
			continue
		}
		n.gen++
		if it.Name == "" {
			if n.parent != nil {
				s.changedEntry(n.parent, n.name)
			}
			s.revokeNode(n, it.What)
			continue
		}
		if n.dir == nil {
			continue
		}
		c := n.dir.children[it.Name]
		s.changedEntry(n, it.Name)
		switch {
		case it.What == fsyscall.RevokeEntry:
			s.revokeEntry(n, it.Name, c)
		case it.What == fsyscall.RevokeLink:
			s.revokeEntry(n, it.Name, c)
			s.learnLink(n, it.Name)
		case c != nil:
			s.revokeNode(c, it.What)
		}
	}
}

// maxLinkAsks bounds the questions of learnLink on their way: more than somebody
// makes links on a long line, and little memory if no answer comes.
const maxLinkAsks = 4096

// learnLink asks what a name stands for that someone has given to a file with
// other names, one of which may be known here: its attributes have changed, and
// from now on it may be kept for a moment only. Nothing waits for the answer.
// s.mu is held.
func (s *Server) learnLink(dir *node, name string) {
	if s.linkAsks >= maxLinkAsks {
		s.revokeTree(s.root) // it may be a name of anything
		return
	}
	begun := s.lookLazily(dir, name, func(n, fresh *node, late bool) {
		s.linkAsks--
		if late {
			s.learnLink(dir, name)
			return
		}
		if n != nil && n != fresh && n.refs > 0 {
			s.notify.inode(n, false)
		}
	})
	if begun {
		s.linkAsks++
	}
}

func (s *Server) revokeNode(n *node, what fsyscall.RevokeWhat) {
	if n.synthetic {
		return
	}
	n.gen++
	n.ours = false
	n.until = time.Now()
	n.xattrs = nil
	n.hasLink = false
	n.attr.Flags &^= fsyscall.AttrNoXattr
	if what == fsyscall.RevokeData {
		s.dataChanged(n)
	} else if n.refs > 0 {
		s.notify.inode(n, n.attr.Mode&modeType == modeLink)
	}
	if n.isDir() && what == fsyscall.RevokeAttr {
		s.forgetNames(n) // whether the user may enter is another matter now
	}
}

func (s *Server) revokeEntry(dir *node, name string, c *node) {
	if m := dir.mounts.child(name); m != nil && m.mounted {
		return
	}
	d := dir.dir
	s.changedListing(dir)
	d.whole = false
	delete(d.absent, name)
	if dir.pending == 0 {
		dir.until = time.Now()
		s.notify.inode(dir, false)
	}
	if c != nil && c.pending == 0 {
		// The entry stays until the next look says what it is now, so that a
		// file that is still the same one keeps its node.
		d.revoke(name)
		s.revokeNode(c, fsyscall.RevokeData)
	}
	if c != nil && c.pending > 0 {
		c.revoked = true // see settle
		return
	}
	switch {
	case c == nil:
		s.notify.entry(dir, name)
	case c.mounts == nil:
		s.notify.again(dir, name, c)
	}
}

// revokeLate does what a revocation that came while changes to n were on their
// way left to do.
func (s *Server) revokeLate(n *node) {
	n.revoked = false
	s.revokeNode(n, fsyscall.RevokeData)
	if n.parent != nil {
		n.parent.dir.revoke(n.name)
		if n.mounts == nil {
			s.notify.again(n.parent, n.name, n)
		}
	}
}

// revokeTree revokes everything at and below n.
func (s *Server) revokeTree(n *node) {
	s.forgetTree(n)
	todo := []*node{n}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if n.pending == 0 {
			s.revokeNode(n, fsyscall.RevokeData)
		} else {
			n.revoked = true
		}
		n.gen++
		if n.dir == nil || n.synthetic {
			continue
		}
		n.dir.whole, n.dir.absent = false, nil
		if n.mounts == nil && n.parent != nil && n.refs > 0 {
			s.notify.again(n.parent, n.name, n)
		}
		for name, c := range n.dir.children {
			if !c.synthetic {
				n.dir.revoke(name)
				todo = append(todo, c)
			}
		}
	}
}
