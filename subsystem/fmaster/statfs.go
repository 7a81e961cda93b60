package fmaster

import (
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// fsAge is how long an answer about a file system is good for: long enough for
// the programs that walk a tree (find, rm -r, du), which ask once at the start
// or for each device. How much room is free there on the client changes without
// any lease telling of it.
const fsAge = time.Second

// maxFS bounds the answers that are kept.
const maxFS = 4

// fsAnswer is what the client says of the file system that a node is on.
type fsAnswer struct {
	of      *node
	changes uint64        // Server.changes when it was asked
	ready   chan struct{} // closed when the rest is there
	at      time.Time
	errno   syscall.Errno
	reply   fsyscall.StatFSReply
}

// usable tells whether an answer may still be given, or waited for. A change of
// the session's own ends them all. s.mu is held.
func (s *Server) usable(a *fsAnswer) bool {
	if a.changes != s.changes {
		return false
	}
	select {
	case <-a.ready:
		return a.errno == 0 && time.Since(a.at) <= fsAge
	default:
		return true
	}
}

// fsFor returns the answer for the file system that n is on, or nil when there
// is none. s.mu is held.
func (s *Server) fsFor(n *node) *fsAnswer {
	for _, a := range s.fileSystems {
		same := a.of == n || a.of.known && n.known && a.of.attr.Dev == n.attr.Dev
		if same && s.usable(a) {
			return a
		}
	}
	return nil
}

// fsVia is the stream for a question about the file system that n is on: it
// comes after the changes that are on their way.
func (s *Server) fsVia(n *node) path { return n.via() || path(s.calls.changing()) }

// prepareFS asks about the file system that n is on, unless something is known
// already. s.mu is held.
func (s *Server) prepareFS(n *node) {
	via := s.fsVia(n)
	if !n.synthetic && !slices.ContainsFunc(s.fileSystems, s.usable) && s.attach(n, via) == 0 {
		s.askFS(n, via)
	}
}

// askFS asks about the file system that n, attached on via, is on, without
// waiting. s.mu is held.
func (s *Server) askFS(n *node, via path) *fsAnswer {
	a := &fsAnswer{of: n, changes: s.changes, ready: make(chan struct{})}
	s.fileSystems = slices.Insert(s.fileSystems[:min(len(s.fileSystems), maxFS-1)], 0, a)
	s.calls.begin(via, fsyscall.OpStatFS, &fsyscall.StatFS{ID: n.wire}, &pendingCall{
		reply: &a.reply,
		done: func(h fsyscall.Header, _ error) {
			a.errno, a.at = syscall.Errno(h.Errno), time.Now()
			close(a.ready)
		},
	})
	return a
}

// StatFs implements fuse.RawFileSystem.
func (s *Server) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil || n.synthetic {
		n = s.root
	}
	a := s.fsFor(n)
	if a == nil || s.cfg.Hello.NoCache {
		via := s.fsVia(n)
		if s.attach(n, via) != 0 {
			n = s.root
		}
		a = s.askFS(n, via)
	}
	select {
	case <-a.ready:
		s.stats.hits.Add(1)
	default:
		s.await(a.ready)
	}
	if a.errno != 0 {
		return fuse.Status(a.errno)
	}
	r := &a.reply
	*out = fuse.StatfsOut{
		Blocks: r.Blocks, Bfree: r.Bfree, Bavail: r.Bavail, Files: r.Files, Ffree: r.Ffree,
		Bsize: r.Bsize, Frsize: r.Frsize, NameLen: r.NameLen,
	}
	return fuse.OK
}
