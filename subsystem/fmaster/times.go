package fmaster

import "github.com/SumiTomohiko/nexec/fsyscall"

// A change that is sent behind gets its time twice: here, where the session
// shows it at once, and on the client, when it arrives. What the session has
// shown stays: a program may have compared it, and the next one should find the
// same. A regular file is given it with its close (sendTimes). What has none (a
// directory, a symbolic link, a FIFO) is when the command ends.

// maxUntimed bounds the nodes that wait for it. Further ones keep the client's
// time, which is later by what the link takes.
const maxUntimed = 1 << 14

// untimed notes that n, which is no regular file, shows a time of its own.
func (s *Server) untimed(n *node) {
	if n.dirtyTimes || n.isRegular() || len(s.timeless) >= maxUntimed {
		return
	}
	n.dirtyTimes = true
	s.timeless = append(s.timeless, n)
}

// sendShownTimes sends the times that are left, and tells whether there were
// any. s.mu is held.
func (s *Server) sendShownTimes() bool {
	sent := false
	me := s.cfg.Hello.UID
	for _, n := range s.timeless {
		shown := n.dirtyTimes
		n.dirtyTimes = false
		own := me == 0 || n.attr.UID == me
		if shown && own && !n.dropped && !n.gone && n.parent != nil && n.err == 0 && s.attach(n, ordered) == 0 {
			s.sendMtime(n, 0)
			sent = true
		}
	}
	s.timeless = nil
	return sent
}

// sendMtime gives n, by an open file of it if there is one, the time of its last
// change that the session shows. s.mu is held.
func (s *Server) sendMtime(n *node, file fsyscall.FileID) {
	s.begin(n)
	s.calls.begin(ordered, fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: n.wire, File: file, Mask: fsyscall.SetMtime, Mtime: n.attr.Mtime},
		&pendingCall{lazy: true, reply: &fsyscall.AttrReply{}, done: func(fsyscall.Header, error) {
			s.mu.Lock()
			s.settle(n, 0) // what is not the user's own keeps the client's time
			s.mu.Unlock()
		}})
}
