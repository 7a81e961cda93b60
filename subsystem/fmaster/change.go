package fmaster

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Changes come in two ways. Behind: when a lease says that the session's own
// knowledge of the directory is whole, the change is made in the tree, sent,
// and the program goes on; the client's answer is looked at when it comes. Or
// now: the client is asked and the answer waited for. Now is the way whenever
// the outcome is not certain, and always with --sync.

// behind tells whether a change of the entry name in dir can be made without
// waiting. s.mu is held.
func (s *Server) behind(dir *node, name string) bool {
	if s.cfg.Hello.Sync || s.cfg.Hello.NoCache || dir.synthetic || dir.mounts.child(name) != nil || dir.gone || dir.err != 0 {
		return false
	}
	d := dir.dir
	if d == nil || !d.leased || !d.until.IsZero() || !dir.known || !(dir.until.IsZero() || dir.pending > 0) {
		return false
	}
	if dir.attr.Flags&fsyscall.AttrReadOnly != 0 || dir.attr.Access&(accessW|accessX) != accessW|accessX {
		return false
	}
	c := d.children[name]
	if c == nil {
		_, absent := d.absent[name]
		return d.whole || absent
	}
	if c.synthetic || c.err != 0 || !(c.until.IsZero() || c.pending > 0) {
		return false
	}
	const sticky = 0o1000
	me := s.cfg.Hello.UID
	if dir.attr.Mode&sticky != 0 && me != 0 && c.attr.UID != me && dir.attr.UID != me {
		return false
	}
	return true
}

// certainSelf is behind for a change of n itself that its owner may make.
func (s *Server) certainSelf(n *node) bool {
	me := s.cfg.Hello.UID
	return !s.cfg.Hello.Sync && s.certain(n) && n.err == 0 && !n.synthetic &&
		n.attr.Flags&fsyscall.AttrReadOnly == 0 && (me == 0 || n.attr.UID == me)
}

// refuse returns the error for a change in dir that needs no question.
func refuse(dir *node, name string) syscall.Errno {
	switch {
	case dir == nil:
		return syscall.ESTALE
	case len(name) > fsyscall.MaxName:
		return syscall.ENAMETOOLONG
	case !fsyscall.ValidName(name):
		return syscall.EINVAL
	case dir.mounts.child(name) != nil:
		return syscall.EBUSY
	case dir.synthetic || dir.attr.Flags&fsyscall.AttrReadOnly != 0:
		return syscall.EROFS
	}
	return 0
}

// begin counts a change that concerns the nodes; settle takes it back when the
// client has answered. Errors become the nodes' and are reported by Sync
// unless a program is told before.
func begin(nodes ...*node) {
	for _, n := range nodes {
		n.pending++
		n.gen++
	}
}

func (s *Server) settle(n *node, errno syscall.Errno) {
	n.pending--
	if errno != 0 {
		s.fail(n, n.path(), errno)
	}
	if n.pending == 0 && n.revoked {
		s.revokeLate(n)
	}
	s.drop(n)
}

// fail records that a change of n, which has or had the path p, did not
// happen.
func (s *Server) fail(n *node, p string, errno syscall.Errno) {
	if n.err != 0 {
		return // what follows from the first failure is not worth a line
	}
	n.err = errno
	s.lostN++
	if len(s.lost) < fsyscall.MaxLost {
		s.lost = append(s.lost, fsyscall.LostWrite{Path: p, Errno: fsyscall.Errno(errno)})
	}
	s.distrust(n)
	if n.parent != nil {
		s.distrust(n.parent)
	}
}

// distrust makes the tree ask again about n and its entries.
func (s *Server) distrust(n *node) {
	n.gen++
	n.until = time.Now()
	if n.dir != nil {
		n.dir.whole, n.dir.absent = false, nil
		for name, c := range n.dir.children {
			if !c.synthetic && c.pending == 0 {
				c.until = time.Now()
				n.dir.revoke(name)
				s.notify.entry(n, name)
			}
		}
	}
	s.dataChanged(n)
}

// tell returns n's late error to a program.
func (s *Server) tell(n *node) syscall.Errno { return n.err }

// newChild makes a node for something that the session creates.
func (s *Server) newChild(dir *node, name string, mode uint32) *node {
	n := s.newNode()
	t := s.clock.now()
	gid := s.cfg.Hello.GID
	if dir.attr.Mode&syscall.S_ISGID != 0 {
		gid = dir.attr.GID
		if mode&modeType == modeDir {
			mode |= syscall.S_ISGID
		}
	}
	n.attr = fsyscall.Attr{
		Ino: s.provisionalIno(), Dev: dir.attr.Dev, Mode: mode, Nlink: 1,
		UID: s.cfg.Hello.UID, GID: gid, Atime: t, Mtime: t, Ctime: t,
		Access: s.ownAccess(mode), Flags: fsyscall.AttrNoXattr,
	}
	n.known, n.ours = true, true
	if mode&modeType == modeDir {
		n.attr.Nlink = 2
		n.entries().whole, n.dir.leased = true, true
	}
	s.place(dir, name, n)
	s.told(n, ordered)
	return n
}

// ownAccess is the access that the client's user has to its own file.
func (s *Server) ownAccess(mode uint32) uint8 {
	if s.cfg.Hello.UID == 0 {
		if mode&modeType == modeDir || mode&0o111 != 0 {
			return 7
		}
		return accessR | accessW
	}
	return uint8(mode >> 6 & 7)
}

// entered notes that dir's entries changed.
func (s *Server) entered(dir *node) {
	dir.gen++
	s.touch(dir, true)
}

// create sends the creation of name in dir in the way that is possible. id and
// done make the message and the node for both ways.
type creation struct {
	dir  *node
	name string
	mode uint32
	op   fsyscall.Op
	msg  func(dir, id fsyscall.NodeID) fsyscall.Message
	// prepare completes the node that a creation behind made.
	prepare func(*node)
}

// make carries out a creation. s.mu is held and may be let go of; a place for
// one posted change was reserved, and it is used or given back.
func (s *Server) make(c creation) (*node, syscall.Errno) {
	if errno := refuse(c.dir, c.name); errno != 0 {
		s.calls.unreserve(0)
		return nil, errno
	}
	if s.behind(c.dir, c.name) {
		if c.dir.dir.children[c.name] != nil {
			s.calls.unreserve(0)
			return nil, syscall.EEXIST
		}
		if errno := s.attach(c.dir, ordered); errno != 0 {
			s.calls.unreserve(0)
			return nil, errno
		}
		n := s.newChild(c.dir, c.name, c.mode)
		if c.prepare != nil {
			c.prepare(n)
		}
		s.makeBehind(c, n)
		return n, 0
	}
	s.calls.unreserve(0)
	return s.makeNow(c)
}

func (s *Server) makeBehind(c creation, n *node) {
	dir := c.dir
	begin(dir, n)
	s.entered(dir)
	if n.isDir() {
		dir.attr.Nlink++
	}
	reply := &fsyscall.AttrReply{}
	s.calls.post(0, c.op, c.msg(dir.wire, n.wire), reply, func(h fsyscall.Header) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if h.Errno == 0 {
			s.identify(n, &reply.Attr)
			n.attr.Dev = reply.Attr.Dev
			if n.dir != nil && !h.Leased {
				n.dir.leased = false
				n.dir.until = time.Now()
			}
			if !h.Leased && n.until.IsZero() {
				n.until = time.Now().Add(unleased)
				s.bind(n, false)
			}
		}
		s.settle(n, syscall.Errno(h.Errno))
		s.settle(dir, 0)
	})
}

func (s *Server) makeNow(c creation) (*node, syscall.Errno) {
	dir := c.dir
	n := s.newNode()
	var reply fsyscall.AttrReply
	res := s.changeNow(func() result {
		return s.calls.call(ordered, c.op, c.msg(dir.wire, n.wire), &reply)
	}, dir)
	s.changedNow(dir)
	if !res.ok() {
		s.countNodes--
		if res.errno == syscall.ESTALE {
			s.stale(dir)
		}
		return nil, res.errno
	}
	s.told(n, ordered)
	s.setAttr(n, &reply.Attr, res.leased)
	s.place(dir, c.name, n)
	s.bind(n, res.leased)
	if c.prepare != nil {
		c.prepare(n)
	}
	return n, 0
}

// changeNow makes a change that names the nodes and waits for it; it repeats it
// once if that may help. s.mu is held, and let go of during the call.
func (s *Server) changeNow(call func() result, nodes ...*node) result {
	for try := 0; ; try++ {
		for _, n := range nodes {
			if errno := s.attach(n, ordered); errno != 0 {
				return result{errno: errno}
			}
		}
		begin(nodes...)
		s.mu.Unlock()
		res := call()
		s.mu.Lock()
		again := false
		for _, n := range nodes {
			s.settle(n, 0)
			again = s.mended(n, res.errno, try) || again
		}
		if !again {
			return res
		}
	}
}

// changedNow makes the attributes of dir be asked for again after a change
// whose answer did not bring them.
func (s *Server) changedNow(dir *node) {
	if s.cfg.Hello.Sync || s.cfg.Hello.NoCache || dir.dir == nil || !dir.dir.leased || !dir.until.IsZero() {
		dir.gen++
		if dir.pending == 0 {
			dir.until = time.Now()
		}
		return
	}
	s.entered(dir)
}

// makeEntry is make for the kernel: the answer is an entry.
func (s *Server) makeEntry(c creation, dirID uint64, out *fuse.EntryOut) fuse.Status {
	s.stats.kernel.Add(1)
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.dir = s.nodes[fsyscall.NodeID(dirID)]
	n, errno := s.make(c)
	if errno != 0 {
		return fuse.Status(errno)
	}
	s.fillEntry(n, out)
	return fuse.OK
}

// Mkdir implements fuse.RawFileSystem.
func (s *Server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	mode := in.Mode & 0o7777
	return s.makeEntry(creation{
		name: name, mode: modeDir | mode, op: fsyscall.OpMkdir,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Mkdir{Dir: dir, Name: name, ID: id, Mode: mode}
		},
	}, in.NodeId, out)
}

// Mknod implements fuse.RawFileSystem.
func (s *Server) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	switch in.Mode & modeType {
	case 0, modeRegular, syscall.S_IFIFO, syscall.S_IFSOCK:
	default:
		return fuse.EPERM
	}
	mode := in.Mode & (modeType | 0o7777)
	if mode&modeType == 0 {
		mode |= modeRegular
	}
	return s.makeEntry(creation{
		name: name, mode: mode, op: fsyscall.OpMknod,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Mknod{Dir: dir, Name: name, ID: id, Mode: mode}
		},
	}, in.NodeId, out)
}

// Symlink implements fuse.RawFileSystem.
func (s *Server) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if len(target) >= fsyscall.MaxTarget {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	return s.makeEntry(creation{
		name: name, mode: modeLink | 0o777, op: fsyscall.OpSymlink,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Symlink{Dir: dir, Name: name, ID: id, Target: target}
		},
		prepare: func(n *node) {
			n.target, n.hasLink = target, true
			n.attr.Size = uint64(len(target))
		},
	}, in.NodeId, out)
}

// Create implements fuse.RawFileSystem.
func (s *Server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	s.stats.kernel.Add(1)
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[fsyscall.NodeID(in.NodeId)]
	mode := in.Mode & 0o7777
	f := &file{id: s.newFileID(), flags: wireFlags(in.Flags), remote: true, opened: ordered}
	n, errno := s.make(creation{
		dir: dir, name: name, mode: modeRegular | mode, op: fsyscall.OpCreate,
		msg: func(dir, id fsyscall.NodeID) fsyscall.Message {
			return &fsyscall.Create{Dir: dir, Name: name, ID: id, File: f.id, Flags: f.flags, Mode: mode}
		},
		prepare: func(n *node) {
			if !s.cfg.Hello.NoCache {
				s.content.put(n, []byte{})
			}
		},
	})
	if errno == syscall.EEXIST && in.Flags&syscall.O_EXCL == 0 {
		// Someone on the client was faster, or it was known but not to the
		// kernel: open it.
		n, errno = s.find(dir, name)
		if errno == 0 && n.attr.Mode&modeType != modeRegular {
			errno = syscall.ESTALE // the kernel looks again and sees what it is
			s.notify.entry(dir, name)
		}
		if errno == 0 {
			f.node, f.remote = n, false
			errno = s.openNow(f, wants(in.Flags))
		}
	}
	if errno != 0 {
		return fuse.Status(errno)
	}
	f.node = n
	s.files[f.id] = f
	n.open = append(n.open, f)
	s.fillEntry(n, &out.EntryOut)
	out.OpenOut = fuse.OpenOut{Fh: uint64(f.id), OpenFlags: s.openedFlags(n)}
	return fuse.OK
}

// Tmpfile implements fuse.RawFileSystem.
func (s *Server) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[fsyscall.NodeID(in.NodeId)]
	if errno := refuse(dir, "tmpfile"); errno != 0 {
		return fuse.Status(errno)
	}
	if errno := s.attach(dir, ordered); errno != 0 {
		return fuse.Status(errno)
	}
	n := s.newNode()
	f := &file{id: s.newFileID(), node: n, flags: wireFlags(in.Flags), remote: true, opened: ordered}
	var reply fsyscall.AttrReply
	s.mu.Unlock()
	res := s.calls.call(ordered, fsyscall.OpTmpFile, &fsyscall.TmpFile{Dir: dir.wire, ID: n.wire, File: f.id, Flags: f.flags, Mode: in.Mode & 0o7777}, &reply)
	s.mu.Lock()
	if !res.ok() {
		return fuse.Status(res.errno)
	}
	s.told(n, ordered)
	s.setAttr(n, &reply.Attr, false)
	s.files[f.id] = f
	n.open = append(n.open, f)
	s.fillEntry(n, &out.EntryOut)
	out.OpenOut = fuse.OpenOut{Fh: uint64(f.id), OpenFlags: s.openedFlags(n)}
	return fuse.OK
}

// Link implements fuse.RawFileSystem.
func (s *Server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	s.stats.kernel.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	n, dir := s.nodes[fsyscall.NodeID(in.Oldnodeid)], s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if errno := refuse(dir, name); errno != 0 {
		return fuse.Status(errno)
	}
	if n.synthetic {
		return fuse.Status(syscall.EXDEV)
	}
	var reply fsyscall.AttrReply
	res := s.changeNow(func() result {
		return s.calls.call(ordered, fsyscall.OpLink, &fsyscall.Link{ID: n.wire, Dir: dir.wire, Name: name}, &reply)
	}, dir, n)
	s.changedNow(dir)
	if !res.ok() {
		return fuse.Status(res.errno)
	}
	n.gone = false
	s.setAttr(n, &reply.Attr, res.leased)
	s.byInode[n.key] = n
	s.place(dir, name, n)
	s.bind(n, res.leased)
	s.fillEntry(n, out)
	return fuse.OK
}

// Unlink implements fuse.RawFileSystem.
func (s *Server) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, false)
}

// Rmdir implements fuse.RawFileSystem.
func (s *Server) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in.NodeId, name, true)
}

func (s *Server) remove(dirID uint64, name string, isDir bool) fuse.Status {
	s.stats.kernel.Add(1)
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.nodes[fsyscall.NodeID(dirID)]
	errno := refuse(dir, name)
	if errno == 0 {
		errno = s.attach(dir, ordered)
	}
	if errno != 0 {
		s.calls.unreserve(0)
		return fuse.Status(errno)
	}
	n := dir.entries().children[name]
	op := fsyscall.OpUnlink
	msg := func() fsyscall.Message { return &fsyscall.Unlink{Dir: dir.wire, Name: name} }
	if isDir {
		op = fsyscall.OpRmdir
		msg = func() fsyscall.Message { return &fsyscall.Rmdir{Dir: dir.wire, Name: name} }
	}
	if n != nil {
		// Those that have it open go on using it: let the client open it first.
		for _, f := range n.open {
			s.ensureRemote(f)
		}
	}
	if s.behind(dir, name) && n != nil && (!isDir || n.dir != nil && n.dir.whole && n.dir.leased && n.dir.until.IsZero()) {
		if isDir && len(n.dir.children) > 0 {
			s.calls.unreserve(0)
			return fuse.Status(syscall.ENOTEMPTY)
		}
		begin(dir)
		p := n.path()
		s.removed(dir, name, n, isDir)
		s.calls.post(0, op, msg(), &fsyscall.Empty{}, func(h fsyscall.Header) {
			s.mu.Lock()
			if h.Errno != 0 {
				s.fail(dir, p, syscall.Errno(h.Errno))
				dir.err = 0 // the directory itself is whole
			}
			s.settle(dir, 0)
			s.mu.Unlock()
		})
		return fuse.OK
	}
	s.calls.unreserve(0)
	res := s.changeNow(func() result { return s.calls.call(ordered, op, msg(), &fsyscall.Empty{}) }, dir)
	s.changedNow(dir)
	if res.ok() && n != nil && dir.entries().children[name] == n {
		s.removed(dir, name, n, isDir)
		s.changedNow(dir)
	}
	if res.errno == syscall.ENOENT {
		s.vanished(dir, name)
	}
	return fuse.Status(res.errno)
}

// removed takes an entry out of the tree after, or together with, its removal.
func (s *Server) removed(dir *node, name string, n *node, isDir bool) {
	s.entered(dir)
	n.gen++
	if isDir {
		dir.attr.Nlink -= min(dir.attr.Nlink, 1)
		n.attr.Nlink = 0
	} else {
		n.attr.Nlink -= min(n.attr.Nlink, 1)
		s.touch(n, false)
	}
	if n.attr.Nlink == 0 {
		n.gone = true
		if s.byInode[n.key] == n {
			delete(s.byInode, n.key)
		}
	} else if n.attr.Nlink > 0 {
		n.until = time.Now() // its other names may be known to nobody here
	}
	s.displace(dir, name)
}

// Rename implements fuse.RawFileSystem.
func (s *Server) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	s.stats.kernel.Add(1)
	if in.Flags > uint32(fsyscall.RenameExchange) {
		return fuse.EINVAL // whiteouts and combinations that the kernel refuses anyway
	}
	if err := s.calls.reserve(0); err != nil {
		return fuse.EIO
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	from, to := s.nodes[fsyscall.NodeID(in.NodeId)], s.nodes[fsyscall.NodeID(in.Newdir)]
	errno := refuse(from, oldName)
	if errno == 0 {
		errno = refuse(to, newName)
	}
	for _, d := range []*node{from, to} {
		if errno == 0 {
			errno = s.attach(d, ordered)
		}
	}
	if errno != 0 {
		s.calls.unreserve(0)
		return fuse.Status(errno)
	}
	r := rename{from, to, oldName, newName, fsyscall.RenameFlags(in.Flags)}
	if old := to.entries().children[newName]; old != nil && r.flags == 0 {
		for _, f := range old.open {
			s.ensureRemote(f)
		}
	}
	if s.renameCertain(r) {
		return fuse.Status(s.renameBehind(r))
	}
	s.calls.unreserve(0)
	return fuse.Status(s.renameNow(r))
}

type rename struct {
	from, to         *node
	oldName, newName string
	flags            fsyscall.RenameFlags
}

func (r rename) message() *fsyscall.Rename {
	return &fsyscall.Rename{Dir: r.from.wire, Name: r.oldName, NewDir: r.to.wire, NewName: r.newName, Flags: r.flags}
}

// renameCertain tells whether a rename can be made without waiting: both ends
// known, a file or a directory that replaces nothing, and one file system.
func (s *Server) renameCertain(r rename) bool {
	if !s.behind(r.from, r.oldName) || !s.behind(r.to, r.newName) || r.flags == fsyscall.RenameExchange {
		return false
	}
	n, old := r.from.dir.children[r.oldName], r.to.dir.children[r.newName]
	if n == nil || n.mounts != nil || r.from.attr.Dev != r.to.attr.Dev || r.from.attr.Dev == 0 {
		return false
	}
	if n.isDir() && r.from != r.to && (n.attr.Access&accessW == 0 || s.isAbove(n, r.to)) {
		return false // ".." has to be changed in it; or it would be moved into itself
	}
	return old == nil || !old.isDir() && !n.isDir() && old != n
}

func (s *Server) isAbove(n, below *node) bool {
	for ; below != nil; below = below.parent {
		if below == n {
			return true
		}
	}
	return false
}

func (s *Server) renameBehind(r rename) syscall.Errno {
	if r.flags == fsyscall.RenameNoReplace && r.to.dir.children[r.newName] != nil {
		s.calls.unreserve(0)
		return syscall.EEXIST
	}
	n := r.from.dir.children[r.oldName]
	begin(r.from, r.to, n)
	s.renamed(r)
	p := n.path()
	s.calls.post(0, fsyscall.OpRename, r.message(), &fsyscall.Empty{}, func(h fsyscall.Header) {
		s.mu.Lock()
		if h.Errno != 0 {
			s.fail(n, p, syscall.Errno(h.Errno))
			s.distrust(r.from)
			s.distrust(r.to)
		}
		for _, x := range []*node{n, r.from, r.to} {
			s.settle(x, 0)
		}
		s.mu.Unlock()
	})
	return 0
}

func (s *Server) renameNow(r rename) syscall.Errno {
	res := s.changeNow(func() result {
		return s.calls.call(ordered, fsyscall.OpRename, r.message(), &fsyscall.Empty{})
	}, r.from, r.to)
	if res.ok() {
		s.renamed(r)
	} else if res.errno == syscall.ENOENT {
		s.vanished(r.from, r.oldName)
	}
	s.changedNow(r.from)
	s.changedNow(r.to)
	return res.errno
}

// renamed moves the entries in the tree. The kernel does the same with its own.
func (s *Server) renamed(r rename) {
	n, old := r.from.entries().children[r.oldName], r.to.entries().children[r.newName]
	if n == nil {
		// Nothing known moved; what stood at the target is another now.
		s.displace(r.to, r.newName)
		s.entered(r.from)
		s.entered(r.to)
		return
	}
	n.pending++ // keeps it while it has no name
	if r.flags == fsyscall.RenameExchange && old != nil {
		old.pending++
		s.displace(r.from, r.oldName)
		s.displace(r.to, r.newName)
		s.place(r.from, r.oldName, old)
		old.pending--
		s.touch(old, false)
	} else {
		s.displace(r.from, r.oldName)
		if old != nil {
			s.removed(r.to, r.newName, old, old.isDir())
		}
		if n.isDir() && r.from != r.to {
			r.from.attr.Nlink -= min(r.from.attr.Nlink, 1)
			r.to.attr.Nlink++
		}
	}
	s.place(r.to, r.newName, n)
	n.pending--
	s.touch(n, false)
	if d := r.from.dir; d != nil && d.absent != nil {
		d.absent[r.oldName] = struct{}{}
	}
	s.entered(r.from)
	s.entered(r.to)
	n.gen++
}
