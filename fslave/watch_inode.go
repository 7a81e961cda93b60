package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// A file with several names may change by way of one that is in no watched
// directory, and the kernel then says nothing where the others are. Such an
// inode gets a watch of its own. What it says counts for each name that was
// looked at, as if the directory had said it.
//
// Package stores, build caches and images of systems link most of their files.

// inInode is what is watched of an inode. A further or a lost name is a change
// of its attributes.
const inInode = inData | inClose | inAttr | unix.IN_DONT_FOLLOW

// watchedInode is a file that has a watch of its own.
type watchedInode struct {
	wd     int32
	places []place
}

const (
	// maxPlaces bounds the names of one inode that are watched.
	maxPlaces = 64
	// inodeShare: no more than one watch of so many is for an inode.
	inodeShare = 4
)

// coverInode sees to it that the file at name in d is watched itself, and tells
// whether it is. What is looked at of it afterwards may be leased, if d is
// watched as well.
func (w *watcher) coverInode(d *dir, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 || w.byNode[d.n] == nil {
		return false
	}
	if w.inodeAt[d.n][name] != nil {
		return true
	}
	if len(w.inodes) >= w.max/inodeShare {
		return false
	}
	wd, err := unix.InotifyAddWatch(w.fd, procPath(d.fd)+"/"+name, inInode)
	if err != nil {
		return false // a file that the user may not read, mostly
	}
	x := w.inodes[int32(wd)]
	if x == nil {
		x = &watchedInode{wd: int32(wd)}
		w.inodes[x.wd] = x
	}
	if len(x.places) == maxPlaces {
		return false
	}
	x.places = append(x.places, place{d.n, name})
	if w.inodeAt[d.n] == nil {
		w.inodeAt[d.n] = map[string]*watchedInode{}
	}
	w.inodeAt[d.n][name] = x
	return true
}

// uncover forgets that a name led to a watched inode: it may lead elsewhere.
func (w *watcher) uncover(at place) {
	x := w.inodeAt[at.parent][at.name]
	if x == nil {
		return
	}
	if delete(w.inodeAt[at.parent], at.name); len(w.inodeAt[at.parent]) == 0 {
		delete(w.inodeAt, at.parent)
	}
	for i, p := range x.places {
		if p == at {
			x.places = append(x.places[:i], x.places[i+1:]...)
			break
		}
	}
	if len(x.places) > 0 {
		return
	}
	delete(w.inodes, x.wd)
	if w.fd >= 0 {
		_, _ = unix.InotifyRmWatch(w.fd, uint32(x.wd)) // it may be gone already
	}
}

// uncoverAll does so for all names in a directory whose watch ends.
func (w *watcher) uncoverAll(n *node) {
	for name := range w.inodeAt[n] {
		w.uncover(place{n, name})
	}
}

// moved is told that the session has removed or renamed what was at places.
// The server asks anew what it wants to know of files with several names.
func (w *watcher) moved(at ...place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range at {
		w.uncover(p)
	}
}

// inodeEvent takes in what the kernel says of a watched inode.
func (w *watcher) inodeEvent(x *watchedInode, mask, cookie uint32) {
	if mask&(inData|inClose|inAttr) != 0 {
		for _, at := range append([]place(nil), x.places...) {
			w.judge(event{at.parent, at.name, mask, cookie})
		}
	}
	if mask&unix.IN_IGNORED == 0 || w.inodes[x.wd] != x {
		return
	}
	for _, at := range append([]place(nil), x.places...) {
		w.queue.add(at.parent.id, at.name, fsyscall.RevokeAttr)
		w.uncover(at)
	}
}

// shared sees to the watch of a file with several names, whose attributes st
// were taken at name in d, and takes them again. It tells whether a change of
// the file would be noticed. Files that the session may change are left out:
// it gives and takes their names itself, and need not know all of them.
func (c *call) shared(d *dir, name string, mode Mode, st *unix.Statx_t) bool {
	if !c.leased || mode == ModeReadWrite || !hasNames(st) || !c.s.watch.coverInode(d, name) {
		return false
	}
	var now unix.Statx_t
	if statAt(d.fd, name, &now) != nil || now.Ino != st.Ino || statDev(&now) != statDev(st) {
		return false
	}
	*st = now
	return true
}

// fillNamed fills in the attributes st of what was just found at t, which has
// the mode given, and sees to its watch.
func (c *call) fillNamed(a *fsyscall.Attr, t target, mode Mode, st *unix.Statx_t) {
	seen := c.shared(t.d, t.name, mode, st)
	c.s.fillAttr(a, st, mode, t.d.fd, t.name)
	t.pos.qualify(a)
	if seen {
		a.Flags &^= fsyscall.AttrUnwatched
	}
}

// hasNames tells whether st is of a regular file with several names.
func hasNames(st *unix.Statx_t) bool {
	return st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG
}
