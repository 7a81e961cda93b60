package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// call is one request being executed.
type call struct {
	s      *Server
	h      fsyscall.Header
	info   *fsyscall.Info
	handle func(*call) (fsyscall.Message, error)
	body   fsyscall.Message

	// Taken by prepare, so that what is executed before this call cannot take
	// them away: what the call's numbers name, and what it gives a number to.
	useNode *node
	useFile *file
	node    *node // of a Lookup
	file    *file // of an Open

	waiter *waiter // of a SetLock that waits
	early  error   // what prepare failed with
	leased bool
	// bulk is appended to the reply as its last field, a byte string that the
	// body leaves empty, so that file data is not copied. free gives it back.
	bulk []byte
	free func()
	own  *ownChange // what the call does to watched directories
}

// handlers has what executes each operation.
var handlers = [256]func(*call) (fsyscall.Message, error){
	fsyscall.OpAttach:      (*call).attach,
	fsyscall.OpForget:      (*call).forget,
	fsyscall.OpStdioNode:   (*call).stdioNode,
	fsyscall.OpLookup:      (*call).lookup,
	fsyscall.OpGetAttr:     (*call).getAttr,
	fsyscall.OpList:        (*call).list,
	fsyscall.OpReadLink:    (*call).readLink,
	fsyscall.OpAccess:      (*call).access,
	fsyscall.OpOpen:        (*call).open,
	fsyscall.OpRead:        (*call).read,
	fsyscall.OpFetch:       (*call).fetch,
	fsyscall.OpSeek:        (*call).seek,
	fsyscall.OpStatFS:      (*call).statFS,
	fsyscall.OpGetXattr:    (*call).getXattr,
	fsyscall.OpListXattr:   (*call).listXattr,
	fsyscall.OpGetLock:     (*call).getLock,
	fsyscall.OpDigest:      (*call).digest,
	fsyscall.OpSetAttr:     (*call).setAttr,
	fsyscall.OpCreate:      (*call).create,
	fsyscall.OpTmpFile:     (*call).tmpFile,
	fsyscall.OpMkdir:       (*call).mkdir,
	fsyscall.OpMknod:       (*call).mknod,
	fsyscall.OpSymlink:     (*call).symlink,
	fsyscall.OpLink:        (*call).link,
	fsyscall.OpUnlink:      (*call).unlink,
	fsyscall.OpRmdir:       (*call).rmdir,
	fsyscall.OpRename:      (*call).rename,
	fsyscall.OpWrite:       (*call).write,
	fsyscall.OpFallocate:   (*call).fallocate,
	fsyscall.OpCopyRange:   (*call).copyRange,
	fsyscall.OpSetXattr:    (*call).setXattr,
	fsyscall.OpRemoveXattr: (*call).removeXattr,
	fsyscall.OpFsync:       (*call).fsync,
	fsyscall.OpRelease:     (*call).release,
	fsyscall.OpBarrier:     (*call).barrier,
	fsyscall.OpSetLock:     (*call).setLock,
	fsyscall.OpUnlock:      (*call).unlock,
	fsyscall.OpInterrupt:   (*call).interrupt,
}

// changes tells whether the call changes the file system: the one place that
// the read-only rule and the order of execution are decided from.
func (c *call) changes() bool {
	if m, ok := c.body.(*fsyscall.Open); ok {
		return m.Flags&fsyscall.OpenAccMode != fsyscall.OpenReadOnly || m.Flags&fsyscall.OpenTruncate != 0
	}
	return c.info.Mutates
}

// allow applies the export policy to something that the call uses. create says
// that it is a name to be made.
func (c *call) allow(mode Mode, create bool) error {
	switch {
	case mode == ModeHide && create:
		return unix.EACCES
	case mode == ModeHide:
		return unix.ENOENT
	case mode == ModeBare && create:
		return unix.EACCES
	case mode != ModeReadWrite && c.changes():
		return unix.EROFS
	}
	return nil
}

// inline tells whether the call is executed before the next one is read.
func (c *call) inline() bool {
	switch m := c.body.(type) {
	case *fsyscall.Attach, *fsyscall.Forget, *fsyscall.StdioNode, *fsyscall.Release, *fsyscall.Interrupt, *fsyscall.Unlock:
		return true
	case *fsyscall.Open:
		return m.Flags&fsyscall.OpenTruncate != 0
	case *fsyscall.SetLock:
		return !m.Wait
	}
	return c.info.Mutates || c.h.Op == fsyscall.OpBarrier
}

func (c *call) waits() bool {
	m, ok := c.body.(*fsyscall.SetLock)
	return ok && m.Wait && m.Lock.Type != fsyscall.LockRemove
}

// prepare looks up the numbers in a call that is executed after the next one
// is read, and takes those that it gives a meaning to, so that later calls find
// them, and wait.
func (c *call) prepare() {
	node, file := c.numbers()
	if node != 0 {
		c.useNode, c.early = c.s.nodes.pin(node)
	}
	if file != 0 && c.early == nil {
		c.useFile, c.early = c.s.files.pin(file)
	}
	if c.early != nil {
		return
	}
	switch m := c.body.(type) {
	case *fsyscall.Lookup:
		c.node, c.early = c.s.nodes.reserve(c.useNode, m.Name, m.ID)
	case *fsyscall.Open:
		c.file, c.early = c.s.files.reserve(m.File)
	}
}

// numbers returns what a call that is not executed inline names.
func (c *call) numbers() (node fsyscall.NodeID, file fsyscall.FileID) {
	switch m := c.body.(type) {
	case *fsyscall.Lookup:
		return m.Dir, 0
	case *fsyscall.GetAttr:
		if m.File != 0 {
			return 0, m.File
		}
		return m.ID, 0
	case *fsyscall.List:
		return m.ID, 0
	case *fsyscall.ReadLink:
		return m.ID, 0
	case *fsyscall.Access:
		return m.ID, 0
	case *fsyscall.Open:
		return m.ID, 0
	case *fsyscall.Fetch:
		return m.ID, 0
	case *fsyscall.StatFS:
		return m.ID, 0
	case *fsyscall.GetXattr:
		return m.ID, 0
	case *fsyscall.ListXattr:
		return m.ID, 0
	case *fsyscall.Read:
		return 0, m.File
	case *fsyscall.Seek:
		return 0, m.File
	case *fsyscall.GetLock:
		return 0, m.File
	case *fsyscall.SetLock:
		return 0, m.File
	case *fsyscall.Fsync:
		if m.File != 0 {
			return 0, m.File
		}
		return m.ID, 0
	}
	return 0, 0
}

// getNode returns the node that id, of the call's body, names.
func (c *call) getNode(id fsyscall.NodeID) (*node, error) {
	n := c.useNode
	if n == nil {
		var err error
		if n, err = c.s.nodes.peek(id); err != nil {
			return nil, err
		}
	}
	return n, c.s.nodes.ready(n)
}

// getFile returns the file that id, of the call's body, names. The caller
// calls put on it.
func (c *call) getFile(id fsyscall.FileID) (*file, error) {
	f, err := c.useFile, error(nil)
	if f != nil {
		c.useFile = nil // its reference goes to the caller
	} else if f, err = c.s.files.pin(id); err != nil {
		return nil, err
	}
	<-f.ready
	if f.err != nil {
		err = f.err
		f.put()
		return nil, err
	}
	return f, nil
}

// finish gives back what the call took.
func (c *call) finish() {
	if c.free != nil {
		c.free()
	}
	if c.useNode != nil {
		c.s.nodes.unpin(c.useNode)
	}
	if c.useFile != nil {
		c.useFile.put()
	}
}

// run executes the call and answers it.
func (c *call) run() {
	if c.inline() && (c.changes() || c.h.Op == fsyscall.OpRelease) {
		c.own = c.s.watch.begin()
	}
	err := c.early
	var reply fsyscall.Message
	if err == nil {
		reply, err = c.handle(c)
	}
	c.own.end(err == nil)
	if c.h.Kind == fsyscall.KindCall {
		c.reply(fsyscall.KindReply, reply, err)
	}
	c.finish()
}

// reply sends an answer, or with KindMore a part of it.
func (c *call) reply(kind fsyscall.Kind, body fsyscall.Message, err error) {
	h := fsyscall.Header{Kind: kind, Op: c.h.Op, Tag: c.h.Tag, Errno: errnoOf(err), Leased: c.leased}
	if err != nil {
		body = nil
	}
	p := c.s.bufs.Get().(*[]byte)
	defer c.s.bufs.Put(p)
	b, bad := fsyscall.AppendMessage((*p)[:0], h, body)
	if bad != nil {
		// Something on this machine is outside of what the protocol can say.
		h.Errno, h.Leased = fsyscall.Errno(unix.EIO), false
		b, _ = fsyscall.AppendMessage((*p)[:0], h, nil)
		err = bad
	}
	*p = b
	switch {
	case err == nil && len(c.bulk) > 0:
	case c.inline() && kind == fsyscall.KindReply:
		c.s.sendInline(b)
		return
	default:
		c.s.send(b)
		return
	}
	fsyscall.Announce(b, len(c.bulk))
	c.s.send(b, c.bulk)
}

// buffer returns n bytes for file data that the reply carries.
func (c *call) buffer(n int) []byte {
	p := c.s.data.get(n)
	c.free = func() { c.s.data.put(p) }
	return (*p)[:n]
}
