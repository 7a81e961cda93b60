package fmaster

import (
	"encoding/binary"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// notifier tells the kernel to forget. The kernel takes locks for it that a
// process may hold that waits for us, so it is never done by a handler.
//
// The kernel itself sees to it that an answer on its way does not undo an
// invalidation: it holds the directory's lock during a look-up and the page's
// during a read, and gives attributes a version.
type notifier struct {
	s   *Server
	srv *fuse.Server
	dev int // a descriptor of the same FUSE device as srv's, until stop

	mu   sync.Mutex
	cond sync.Cond
	// What waits is a set, so it is bounded by what the kernel holds.
	inodes  map[uint64]bool // whether the pages too
	entries map[entryKey]struct{}
	stopped bool
	wg      sync.WaitGroup
}

type entryKey struct {
	parent uint64
	name   string
}

// notifyWorkers is more than one because the kernel may make one wait for a
// read under way.
const notifyWorkers = 4

func newNotifier(s *Server) *notifier {
	k := &notifier{s: s, dev: -1, inodes: make(map[uint64]bool), entries: make(map[entryKey]struct{})}
	k.cond.L = &k.mu
	return k
}

// start takes over dev, which stop closes.
func (k *notifier) start(srv *fuse.Server, dev int) {
	k.srv, k.dev = srv, dev
	k.wg.Add(notifyWorkers)
	for range notifyWorkers {
		go k.run()
	}
}

// stop ends the workers. One that is inside the kernel is waited for; the
// mount must be on its way out.
func (k *notifier) stop() {
	k.mu.Lock()
	k.stopped = true
	k.cond.Broadcast()
	k.mu.Unlock()
	k.wg.Wait()
	k.mu.Lock()
	dev := k.dev
	k.dev = -1
	k.mu.Unlock()
	if dev >= 0 {
		unix.Close(dev)
	}
}

// inode invalidates the kernel's attributes of n and, with pages, its content.
func (k *notifier) inode(n *node, pages bool) {
	k.mu.Lock()
	k.inodes[uint64(n.id)] = k.inodes[uint64(n.id)] || pages
	k.cond.Signal()
	k.mu.Unlock()
}

// attrNow invalidates the kernel's attributes of a node before it returns, for a
// change that the kernel does not expect to touch them. The kernel takes no lock
// for it that a request under way may hold.
func (k *notifier) attrNow(id fsyscall.NodeID) { k.srv.InodeNotify(uint64(id), -1, 0) }

// entry has the kernel look again before it uses what it knows of a name, also
// that it does not exist. It must not be used on a name at or above a mount
// point.
func (k *notifier) entry(dir *node, name string) {
	if dir.refs == 0 || dir.mounts.child(name) != nil {
		return
	}
	k.mu.Lock()
	k.entries[entryKey{uint64(dir.id), name}] = struct{}{}
	k.cond.Signal()
	k.mu.Unlock()
}

func (k *notifier) run() {
	defer k.wg.Done()
	for {
		k.mu.Lock()
		for len(k.inodes) == 0 && len(k.entries) == 0 && !k.stopped {
			k.cond.Wait()
		}
		if k.stopped {
			k.mu.Unlock()
			return
		}
		for e := range k.entries {
			delete(k.entries, e)
			k.mu.Unlock()
			k.expire(e)
			k.mu.Lock()
			break
		}
		for ino, pages := range k.inodes {
			delete(k.inodes, ino)
			off := int64(-1)
			if pages {
				off = 0
			}
			k.mu.Unlock()
			k.srv.InodeNotify(ino, off, 0)
			k.mu.Lock()
			break
		}
		k.mu.Unlock()
	}
}

// expire makes the kernel ask again what a name leads to. The name is not taken
// out of its cache, as by fuse.Server.EntryNotify, which would leave whoever
// works in a directory of that name in one without a name: getcwd(2) fails there
// until somebody comes along by the path. Kernels before 6.2 know no better and
// do just that. See fuse_notify_inval_entry_out in linux/fuse.h.
func (k *notifier) expire(e entryKey) {
	const outHeader, entryHeader = 16, 16
	n := outHeader + entryHeader + len(e.name) + 1
	native := binary.NativeEndian
	b := make([]byte, 0, n)
	b = native.AppendUint32(b, uint32(n))
	b = native.AppendUint32(b, notifyInvalEntry)
	b = native.AppendUint64(b, 0)
	b = native.AppendUint64(b, e.parent)
	b = native.AppendUint32(b, uint32(len(e.name)))
	b = native.AppendUint32(b, fuse.EXPIRE_ONLY)
	b = append(append(b, e.name...), 0)
	// ENOENT: the kernel does not know it anyway; ENODEV: the mount is gone.
	_, _ = unix.Write(k.dev, b)
}

// notifyInvalEntry is FUSE_NOTIFY_INVAL_ENTRY.
const notifyInvalEntry = 3
