package fmaster

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Locks are taken on the client's file, so that they exclude programs there as
// well; each costs a round trip.

func wireLock(in *fuse.LkIn) (fsyscall.Lock, bool) {
	l := fsyscall.Lock{
		Flock: in.LkFlags&fuse.FUSE_LK_FLOCK != 0,
		Start: in.Lk.Start, End: min(in.Lk.End, math.MaxInt64), PID: in.Lk.Pid,
	}
	switch in.Lk.Typ {
	case syscall.F_RDLCK:
		l.Type = fsyscall.LockRead
	case syscall.F_WRLCK:
		l.Type = fsyscall.LockWrite
	case syscall.F_UNLCK:
		l.Type = fsyscall.LockRemove
	default:
		return l, false
	}
	return l, l.Start <= l.End
}

// lockFile returns the open file of a lock request, open on the client.
func (s *Server) lockFile(in *fuse.LkIn) (*file, path, syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fsyscall.FileID(in.Fh)]
	if f == nil {
		return nil, ordered, syscall.EBADF
	}
	f.node.locking = true
	if errno := s.ensureRemote(f); errno != 0 {
		return nil, ordered, errno
	}
	s.orderedFile(f)
	return f, s.fileVia(f), 0
}

// GetLk implements fuse.RawFileSystem.
func (s *Server) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	f, via, errno := s.lockFile(in)
	l, ok := wireLock(in)
	if errno != 0 || !ok {
		return fuse.Status(max(errno, syscall.EINVAL*boolErrno(errno == 0)))
	}
	var reply fsyscall.GetLockReply
	res := s.calls.call(via, fsyscall.OpGetLock, &fsyscall.GetLock{File: f.id, Owner: in.Owner, Lock: l}, &reply)
	if !res.ok() {
		return fuse.Status(res.errno)
	}
	out.Lk = fuse.FileLock{Start: reply.Lock.Start, End: reply.Lock.End, Pid: reply.Lock.PID}
	switch reply.Lock.Type {
	case fsyscall.LockRead:
		out.Lk.Typ = syscall.F_RDLCK
	case fsyscall.LockWrite:
		out.Lk.Typ = syscall.F_WRLCK
	default:
		out.Lk.Typ = syscall.F_UNLCK
	}
	return fuse.OK
}

func boolErrno(b bool) syscall.Errno {
	if b {
		return 1
	}
	return 0
}

// SetLk implements fuse.RawFileSystem.
func (s *Server) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return s.setLock(cancel, in, false)
}

// SetLkw implements fuse.RawFileSystem. A signal to the waiting process reaches
// the client as an Interrupt.
func (s *Server) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return s.setLock(cancel, in, true)
}

func (s *Server) setLock(cancel <-chan struct{}, in *fuse.LkIn, wait bool) fuse.Status {
	s.stats.kernel.Add(1)
	f, _, errno := s.lockFile(in)
	if errno != 0 {
		return fuse.Status(errno)
	}
	l, ok := wireLock(in)
	if !ok {
		return fuse.EINVAL
	}
	// Ordered: what was written under a lock is there before it is dropped.
	req := &fsyscall.SetLock{File: f.id, Owner: in.Owner, Lock: l, Wait: wait}
	res := s.calls.callInterruptible(cancel, ordered, fsyscall.OpSetLock, req, &fsyscall.Empty{})
	if res.ok() && l.Type != fsyscall.LockRemove {
		s.locked(f, in.Owner, l.Flock)
	}
	return fuse.Status(res.errno)
}

// locked records that owner holds locks through f, and what was kept of the
// file is asked for again unless a lease says that nobody changed it.
func (s *Server) locked(f *file, owner uint64, flock bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owners := &f.posixOwners
	if flock {
		owners = &f.flockOwners
	}
	if *owners == nil {
		*owners = make(map[uint64]struct{})
	}
	(*owners)[owner] = struct{}{}
	if n := f.node; !n.until.IsZero() && n.pending == 0 {
		s.changedFile(n)
	}
}

// unlockOwner drops owner's fcntl locks when it closes a descriptor; see
// openedFlags for those that it may have closed before. s.mu is held.
func (s *Server) unlockOwner(f *file, owner uint64) {
	for _, g := range f.node.open {
		if _, held := g.posixOwners[owner]; held {
			delete(g.posixOwners, owner)
			s.unlock(g, owner, false)
		}
	}
}

// unlock drops all locks of one kind that owner has through f.
func (s *Server) unlock(f *file, owner uint64, flock bool) {
	s.calls.begin(ordered, fsyscall.OpUnlock, &fsyscall.Unlock{File: f.id, Owner: owner, Flock: flock},
		&pendingCall{reply: &fsyscall.Empty{}, done: func(fsyscall.Header, error) {}})
}
