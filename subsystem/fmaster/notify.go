package fmaster

import (
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/fusedev"
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
	dev *fusedev.Device

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
	k := &notifier{s: s, inodes: make(map[uint64]bool), entries: make(map[entryKey]bool)}
	k.cond.L = &k.mu
	return k
}

func (k *notifier) start(dev *fusedev.Device) {
	k.dev = dev
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
	if k.dev != nil {
		k.dev.Close()
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
func (k *notifier) attrNow(id fsyscall.NodeID) { _ = k.dev.InvalidateInode(uint64(id), false) }

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
			_ = k.dev.InvalidateEntry(e.parent, e.name, only)
			k.mu.Lock()
			break
		}
		for ino, pages := range k.inodes {
			delete(k.inodes, ino)
			k.mu.Unlock()
			_ = k.dev.InvalidateInode(ino, pages)
			k.mu.Lock()
			break
		}
		k.mu.Unlock()
	}
}
