package fmaster

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Release implements fuse.RawFileSystem.
func (s *Server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	defer s.request(in.NodeId)()
	if s.calls.reserve(0) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.calls.unreserve(0)
		return
	}
	n := f.node
	f.ahead.mu.Lock()
	f.ahead.release(s)
	f.ahead.mu.Unlock()
	delete(s.files, f.id)
	for owner := range f.posixOwners {
		s.unlockOwner(f, owner)
	}
	for i := range n.open {
		if n.open[i] == f {
			n.open = append(n.open[:i], n.open[i+1:]...)
			break
		}
	}
	if !f.remote {
		s.calls.unreserve(0)
		s.drop(n)
		return
	}
	s.sendTimes(f)
	for owner := range f.flockOwners {
		s.unlock(f, owner, true)
	}
	via := f.opened
	if via == urgent && !f.isAnswered() {
		// Not counted as a change: nothing follows from it.
		s.calls.unreserve(0)
		s.calls.begin(urgent, fsyscall.OpRelease, &fsyscall.Release{File: f.id},
			&pendingCall{lazy: true, reply: &fsyscall.Empty{}, done: func(fsyscall.Header, error) {}})
		s.drop(n)
		return
	}
	p := n.path()
	s.calls.post(0, fsyscall.OpRelease, &fsyscall.Release{File: f.id}, &fsyscall.Empty{}, func(h fsyscall.Header) {
		if h.Errno == 0 || f.err != 0 || !f.writable() {
			return // closed; or it was never open, or nothing was written through it
		}
		s.mu.Lock()
		s.fail(n, p, syscall.Errno(h.Errno))
		s.mu.Unlock()
	})
	s.drop(n)
}

// Fsync implements fuse.RawFileSystem: it waits until everything posted before
// is on the client's disk.
func (s *Server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		s.mu.Unlock()
		return fuse.EBADF
	}
	n := f.node
	errno := s.ensureRemote(f)
	if errno == 0 {
		s.orderedFile(f)
	}
	s.mu.Unlock()
	if errno != 0 {
		return fuse.Status(errno)
	}
	res := s.calls.call(ordered, fsyscall.OpFsync, &fsyscall.Fsync{ID: n.wire, File: f.id, Data: in.FsyncFlags&1 != 0}, &fsyscall.Empty{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.err != 0 {
		return fuse.Status(n.err)
	}
	return fuse.Status(res.errno)
}

// sendTimes gives a file that was written behind the time that the session has
// shown since, so that it does not change when the session ends. s.mu is held.
func (s *Server) sendTimes(f *file) {
	n := f.node
	if !n.dirtyTimes || !f.writable() || !f.remote {
		return
	}
	n.dirtyTimes = false
	s.sendMtime(n, f.id)
}

// Flush implements fuse.RawFileSystem: close(2). It reports a change of the file
// that failed, and drops the closing process's fcntl locks.
func (s *Server) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	defer s.request(in.NodeId)()
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		return fuse.OK
	}
	s.unlockOwner(f, in.LockOwner)
	s.sendTimes(f)
	if f.node.err != 0 {
		return fuse.Status(f.node.err)
	}
	return fuse.OK
}
