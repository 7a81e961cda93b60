package fslave

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// event is what inotify says of a directory that n names.
type event struct {
	n      *node
	name   string // empty: the directory itself
	mask   uint32
	cookie uint32
}

// drain takes what is queued when it is called, and not what comes in the
// meantime: someone may cause events faster than they can be taken. The caller
// holds mu.
func (w *watcher) drain() {
	for left := -1; w.fd >= 0; {
		n, err := unix.Read(w.fd, w.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		w.parse(w.buf[:n])
		switch {
		case n < len(w.buf)/2:
			return // the kernel returned all there was
		case left < 0:
			// TIOCINQ is FIONREAD by another name.
			if left, err = unix.IoctlGetInt(w.fd, unix.TIOCINQ); err != nil {
				return
			}
		default:
			left -= n
		}
		if left <= 0 {
			return
		}
	}
}

func (w *watcher) parse(b []byte) {
	clear(w.seen)
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		cookie := binary.NativeEndian.Uint32(b[8:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := direntName(b[unix.SizeofInotifyEvent:size])
		b = b[size:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			w.overflow()
			continue
		}
		if x := w.inodes[wd]; x != nil {
			w.inodeEvent(x, mask, cookie)
			continue
		}
		x := w.byWD[wd]
		if x == nil {
			continue // of a watch that was given up
		}
		// Several nodes may name one directory: what the server did by way of
		// one is foreign to the others.
		for _, n := range append([]*node(nil), x.nodes...) {
			w.judge(event{n, name, mask, cookie})
		}
		if mask&unix.IN_IGNORED != 0 && w.byWD[wd] == x {
			w.lost(x)
		}
	}
}

// lost ends a watch that the kernel has ended: the directory was removed or
// its file system unmounted.
func (w *watcher) lost(x *watched) {
	for _, n := range x.nodes {
		if !w.isGone(n) {
			w.queue.add(n.id, "", fsyscall.RevokeTree)
		}
	}
	w.remove(x)
}

func (w *watcher) isGone(n *node) bool {
	return n != w.s.nodes.root && w.s.nodes.parent(n) == nil
}

// overflow: changes came faster than they were taken, and some are lost.
func (w *watcher) overflow() {
	w.s.stats.overflows.Add(1)
	w.s.dirs.epoch.Add(1)
	w.queue.addAll()
}

// judge swallows an event that a change under way has announced.
func (w *watcher) judge(e event) {
	for _, o := range w.changes {
		for _, x := range o.expected {
			if x.n == e.n && x.name == e.name && e.mask&x.mask != 0 {
				o.swallowed = append(o.swallowed, e)
				return
			}
		}
	}
	w.foreign(e)
}

// foreign takes in a change that someone else made.
//
// By the time it is seen, calls may have found, and named, what came after
// it. So the node table is not changed by what events say: a node whose name
// leads elsewhere is found out by its identity when it is used, and only a
// move whose both ends are known, and which is still so, takes nodes along.
// (Of an exchange by someone else, one side goes stale.)
func (w *watcher) foreign(e event) {
	if e.name == "" {
		w.foreignSelf(e)
		return
	}
	at := place{e.n, e.name}
	switch {
	case e.mask&(inCreate|inDelete|inMove) != 0:
		w.uncover(at)
		w.left(at)
		if e.mask&unix.IN_MOVED_FROM != 0 {
			w.moves = append(w.moves[max(0, len(w.moves)-maxMoves):], move{e.cookie, at})
		}
		if e.mask&unix.IN_MOVED_TO != 0 {
			w.arrived(e.cookie, at)
		}
		what := fsyscall.RevokeEntry
		if e.mask&(unix.IN_CREATE|unix.IN_ISDIR) == unix.IN_CREATE && w.linked(at) {
			what = fsyscall.RevokeLink
		}
		w.queue.add(e.n.id, e.name, what)
	case e.mask&(inData|inClose) != 0:
		w.queue.add(e.n.id, e.name, fsyscall.RevokeData)
	case e.mask&inAttr != 0:
		w.queue.add(e.n.id, e.name, fsyscall.RevokeAttr)
	}
}

// linked tells whether what was made at a place is a further name of a file.
// The kernel says nothing of it where the other names are.
func (w *watcher) linked(at place) bool {
	d, err := w.s.openDir(at.parent)
	if err != nil {
		return false
	}
	defer w.s.dirs.put(d)
	var st unix.Statx_t
	return statAt(d.fd, at.name, &st) == nil && st.Nlink > 1 && !isDir(&st)
}

// maxMoves bounds the halves of moves remembered. The halves of one move are
// next to each other, or separated by what happened at the same moment.
const maxMoves = 16

// left notes that a place may not have what it had.
func (w *watcher) left(at place) {
	if !w.first(seenKey{from: at}) {
		return
	}
	for _, n := range w.s.nodes.doubt(at) {
		// A directory takes what is below it along. Whether it is one shows
		// in its being watched, or having led somewhere.
		if w.byNode[n] != nil || w.s.nodes.leads(n) {
			w.s.dirs.epoch.Add(1)
			w.queue.add(n.id, "", fsyscall.RevokeTree)
		}
	}
}

func (w *watcher) first(k seenKey) bool {
	if w.seen[k] {
		return false
	}
	w.seen[k] = true
	return true
}

// arrived ends a move whose first half was seen.
func (w *watcher) arrived(cookie uint32, to place) {
	for i, m := range w.moves {
		if m.cookie != cookie {
			continue
		}
		w.moves = append(w.moves[:i], w.moves[i+1:]...)
		if !w.first(seenKey{m.from, to}) {
			return
		}
		d, err := w.s.openDir(to.parent)
		if err != nil {
			return
		}
		defer w.s.dirs.put(d)
		var st unix.Statx_t
		if statAt(d.fd, to.name, &st) == nil {
			w.s.nodes.followed(m.from, to, inode{statDev(&st), st.Ino})
		}
		return
	}
}

// foreignSelf takes in what happened to a watched directory itself.
func (w *watcher) foreignSelf(e event) {
	switch {
	case e.mask&inSelf != 0:
		// Where its parent is watched as well, events there say more.
		w.s.dirs.epoch.Add(1)
		if !w.isGone(e.n) {
			w.queue.add(e.n.id, "", fsyscall.RevokeTree)
		}
	case e.mask&(inAttr|inData) != 0:
		w.queue.add(e.n.id, "", fsyscall.RevokeAttr)
	}
}
