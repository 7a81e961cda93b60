package fslave

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Locks are taken on the client's file itself, so that they exclude local
// programs as well. Each holder within the session has its own open file
// description of the inode: fcntl locks are the kind that belongs to a
// description (F_OFD_SETLK), which conflicts with those of other descriptions
// and with POSIX locks of other processes alike, and flock locks always do.
//
// Waiting is done by the kernel, in a thread per waiter, without polling; an
// Interrupt wakes the thread by a signal.

const (
	// maxLockFiles bounds the holders; programs hold few.
	maxLockFiles = 4096
	// maxWaiters bounds the threads that wait.
	maxWaiters = 256
)

type lockKey struct {
	inode inode
	owner uint64
	flock bool
}

// lockFile is a holder's open file description. Its fields but fd are guarded
// by lockTable.mu.
type lockFile struct {
	key     lockKey
	fd      int
	pid     uint32 // as the server told with the last lock
	n       *node
	users   int
	dropped bool
}

type waiter struct {
	tid    atomic.Int32 // of the thread that waits; 0 before
	cancel atomic.Bool
	done   chan struct{}
}

type lockTable struct {
	s       *Server
	mu      sync.Mutex
	by      map[lockKey]*lockFile
	waiting map[uint32]*waiter // by tag
	signals bool               // a waiting thread can be interrupted
}

func newLockTable(s *Server) *lockTable {
	return &lockTable{
		s: s, by: map[lockKey]*lockFile{}, waiting: map[uint32]*waiter{},
		signals: installInterrupt() == nil,
	}
}

// get returns the description of a holder, which is made if open is set.
// The caller gives it back with put. Nil: there is none.
func (t *lockTable) get(f *file, owner uint64, flock, open bool) (*lockFile, error) {
	key := lockKey{f.inode, owner, flock}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.by[key]
	if l == nil {
		if !open {
			return nil, nil
		}
		if len(t.by) >= maxLockFiles {
			return nil, unix.ENOLCK
		}
		fd, err := t.open(f, flock)
		if err != nil {
			return nil, err
		}
		l = &lockFile{key: key, fd: fd, n: f.n}
		t.by[key] = l
	}
	l.users++
	return l, nil
}

// open opens f's inode once more, for reading and writing where that is
// allowed, because the kernel wants a write lock's descriptor to be writable.
func (t *lockTable) open(f *file, flock bool) (int, error) {
	var modes []int
	if !flock && f.mode == ModeReadWrite {
		modes = append(modes, unix.O_RDWR)
	}
	if f.write && !flock {
		modes = append(modes, unix.O_WRONLY)
	}
	modes = append(modes, unix.O_RDONLY)
	if f.write && flock {
		modes = append(modes, unix.O_WRONLY)
	}
	var first error
	for _, mode := range modes {
		fd, err := t.s.kernel.reopen(f.fd, mode)
		if err == nil {
			return fd, nil
		}
		if first == nil {
			first = err
		}
	}
	return -1, first
}

func (t *lockTable) put(l *lockFile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.users--
	if l.dropped && l.users == 0 {
		t.close(l)
	}
}

// drop ends a holder. The caller holds mu.
func (t *lockTable) drop(l *lockFile) {
	delete(t.by, l.key)
	l.dropped = true
	if l.users > 0 {
		// Someone waits with it, or is just coming back: the locks go now, the
		// descriptor later.
		_ = l.set(fsyscall.Lock{Type: fsyscall.LockRemove, Flock: l.key.flock, End: 1<<63 - 1}, false)
		return
	}
	t.close(l)
}

// close closes a writable descriptor, which local watchers of the file see.
func (t *lockTable) close(l *lockFile) {
	own := t.s.watch.begin()
	own.names(l.n, inClose)
	unix.Close(l.fd)
	own.end(true)
}

// dropInode ends all holders on an inode that no file is open on any more.
func (t *lockTable) dropInode(id inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.by) == 0 {
		return
	}
	for key, l := range t.by {
		if key.inode == id {
			t.drop(l)
		}
	}
}

func (t *lockTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.by {
		t.drop(l)
	}
}

// set takes or drops a lock. It fails with EAGAIN where another stands in the
// way, and with EINTR if wait is set and a signal came.
func (l *lockFile) set(lock fsyscall.Lock, wait bool) error {
	if lock.Flock {
		how := map[fsyscall.LockType]int{
			fsyscall.LockRead: unix.LOCK_SH, fsyscall.LockWrite: unix.LOCK_EX, fsyscall.LockRemove: unix.LOCK_UN,
		}[lock.Type]
		if !wait {
			how |= unix.LOCK_NB
		}
		return unix.Flock(l.fd, how)
	}
	cmd := unix.F_OFD_SETLK
	if wait {
		cmd = unix.F_OFD_SETLKW
	}
	fl := flockOf(lock)
	err := unix.FcntlFlock(uintptr(l.fd), cmd, &fl)
	if err == unix.EACCES {
		return unix.EAGAIN
	}
	return err
}

func flockOf(lock fsyscall.Lock) unix.Flock_t {
	fl := unix.Flock_t{Start: int64(lock.Start), Len: int64(lock.End - lock.Start + 1)}
	if lock.End == 1<<63-1 {
		fl.Len = 0
	}
	switch lock.Type {
	case fsyscall.LockRead:
		fl.Type = unix.F_RDLCK
	case fsyscall.LockWrite:
		fl.Type = unix.F_WRLCK
	default:
		fl.Type = unix.F_UNLCK
	}
	return fl
}

func (c *call) setLock() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.SetLock)
	f, err := c.getFile(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	l, err := c.s.locks.get(f, m.Owner, m.Lock.Flock, m.Lock.Type != fsyscall.LockRemove)
	if err != nil || l == nil {
		return nil, err
	}
	defer c.s.locks.put(l)
	err = l.set(m.Lock, false)
	if err == unix.EAGAIN && c.waiter != nil {
		err = c.s.locks.wait(l, m.Lock, c.waiter)
	}
	return nil, c.s.locks.taken(l, m.Lock, err)
}

// taken finishes taking a lock. A holder that was ended meanwhile has none.
func (t *lockTable) taken(l *lockFile, lock fsyscall.Lock, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		return err
	}
	if l.dropped {
		lock.Type = fsyscall.LockRemove
		_ = l.set(lock, false)
		return unix.EINTR
	}
	l.pid = lock.PID
	return nil
}

// begin executes a call that waits for a lock in a goroutine of its own. An
// Interrupt that arrives from now on finds it.
func (t *lockTable) begin(c *call) {
	w := &waiter{done: make(chan struct{})}
	if c.early == nil && !t.register(c, w) {
		c.early = unix.ENOLCK
	}
	if c.early != nil {
		c.run()
		return
	}
	t.s.others.Go(func() {
		c.run()
		t.mu.Lock()
		delete(t.waiting, c.h.Tag)
		t.mu.Unlock()
		close(w.done)
	})
}

func (t *lockTable) register(c *call, w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) >= maxWaiters || t.waiting[c.h.Tag] != nil {
		return false
	}
	c.waiter, t.waiting[c.h.Tag] = w, w
	return true
}

// wait waits in the kernel until the lock is had or w is cancelled.
func (t *lockTable) wait(l *lockFile, lock fsyscall.Lock, w *waiter) error {
	if !t.signals {
		return t.poll(l, lock, w)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.tid.Store(int32(unix.Gettid()))
	defer w.tid.Store(0)
	for !w.cancel.Load() {
		if err := l.set(lock, true); err != unix.EINTR {
			return err
		}
	}
	return unix.EINTR
}

// poll stands in for wait where a filter forbids to install the handler.
func (t *lockTable) poll(l *lockFile, lock fsyscall.Lock, w *waiter) error {
	pause := time.Millisecond
	for !w.cancel.Load() {
		if err := l.set(lock, false); err != unix.EAGAIN {
			return err
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
	return unix.EINTR
}

// cancel makes w's wait end. The signal may come just before the thread
// enters the kernel, so it is sent until the call has ended.
func (t *lockTable) cancel(w *waiter) {
	w.cancel.Store(true)
	for {
		if tid := w.tid.Load(); tid != 0 {
			_ = unix.Tgkill(unix.Getpid(), int(tid), interruptSignal)
		}
		select {
		case <-w.done:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (c *call) interrupt() (fsyscall.Message, error) {
	t := c.s.locks
	t.mu.Lock()
	w := t.waiting[c.body.(*fsyscall.Interrupt).Tag]
	t.mu.Unlock()
	if w != nil && w.cancel.CompareAndSwap(false, true) {
		c.s.others.Go(func() { t.cancel(w) })
	}
	return nil, nil
}

// interruptAll ends every wait.
func (t *lockTable) interruptAll() {
	t.mu.Lock()
	var list []*waiter
	for _, w := range t.waiting {
		list = append(list, w)
	}
	t.mu.Unlock()
	for _, w := range list {
		t.cancel(w)
	}
}

func (c *call) unlock() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Unlock)
	f, err := c.getFile(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	t := c.s.locks
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.by[lockKey{f.inode, m.Owner, m.Flock}]; l != nil {
		t.drop(l)
	}
	return nil, nil
}

func (c *call) getLock() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.GetLock)
	f, err := c.getFile(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	if m.Lock.Flock || m.Lock.Type == fsyscall.LockRemove {
		return nil, unix.EINVAL
	}
	l, err := c.s.locks.get(f, m.Owner, false, false)
	if err != nil {
		return nil, err
	}
	fd := f.fd // a description without locks: the question is asked as anyone
	if l != nil {
		defer c.s.locks.put(l)
		fd = l.fd
	}
	fl := flockOf(m.Lock)
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &fl); err != nil {
		return nil, err
	}
	reply := &fsyscall.GetLockReply{Lock: fsyscall.Lock{Type: fsyscall.LockRemove, End: 1<<63 - 1}}
	if fl.Type == unix.F_UNLCK {
		return reply, nil
	}
	reply.Lock = fsyscall.Lock{Type: fsyscall.LockWrite, Start: uint64(fl.Start), End: 1<<63 - 1}
	if fl.Type == unix.F_RDLCK {
		reply.Lock.Type = fsyscall.LockRead
	}
	if fl.Len > 0 {
		reply.Lock.End = uint64(fl.Start + fl.Len - 1)
	}
	if fl.Pid == -1 {
		reply.Lock.PID = c.s.locks.pidOf(f.inode, m.Owner)
	}
	return reply, nil
}

// pidOf names a holder of the session that a lock found may belong to. The
// numbers of local processes mean nothing on the server and stay zero.
func (t *lockTable) pidOf(id inode, but uint64) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, l := range t.by {
		if key.inode == id && key.owner != but && !key.flock {
			return l.pid
		}
	}
	return 0
}
