package fmaster

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// notifier tells the kernel to forget. The kernel takes locks for it that a
// process may hold that waits for us, so it is never done by a handler.
//
// The kernel itself sees to it that an answer on its way does not undo an
// invalidation: it holds the directory's lock during a first look-up and the
// page's during a read, and gives attributes a version. Of a name that it looks
// up again it takes the answer in without a lock; see again.
type notifier struct {
	s   *Server
	srv *fuse.Server
	dev int // a descriptor of the same FUSE device as srv's, until stop

	mu   sync.Mutex
	cond sync.Cond
	// What waits is a set, so it is bounded by what the kernel holds.
	inodes  map[uint64]bool   // whether the pages too
	entries map[entryKey]bool // whether only to be expired
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
	k := &notifier{s: s, dev: -1, inodes: make(map[uint64]bool), entries: make(map[entryKey]bool)}
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

// entry takes a name out of the kernel's cache, also that it does not exist. It
// must not be used on a name at or above a mount point.
func (k *notifier) entry(dir *node, name string) { k.forgets(dir, name, false) }

// lookTime is more than the kernel takes to take in an answer that it has got.
const lookTime = time.Second

// again has the kernel look again at a name in dir, which leads to n, before it
// uses it. Out of the cache, a directory's name would leave those who work there
// in one without a name: getcwd(2) fails until somebody comes along by the path.
// So it is expired only, unless the kernel may be about to take in an answer to
// a second look, which it does without any lock and which would undo that.
func (k *notifier) again(dir *node, name string, n *node) {
	k.forgets(dir, name, n.isDir() && time.Now().UnixNano()-n.lookedAgain > int64(lookTime))
}

func (k *notifier) forgets(dir *node, name string, expire bool) {
	if dir.refs == 0 || dir.mounts.child(name) != nil {
		return
	}
	key := entryKey{uint64(dir.id), name}
	k.mu.Lock()
	if only, waits := k.entries[key]; waits {
		expire = expire && only
	}
	k.entries[key] = expire
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
		for e, only := range k.entries {
			delete(k.entries, e)
			k.mu.Unlock()
			if only {
				k.expire(e)
			} else {
				k.srv.EntryNotify(e.parent, e.name)
			}
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

// expire makes the kernel ask again what a name leads to, without taking it out
// of its cache; that of a Linux before 6.2 does so all the same. See
// fuse_notify_inval_entry_out in linux/fuse.h.
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
