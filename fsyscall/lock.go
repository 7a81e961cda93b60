package fsyscall

// LockType is a kind of lock.
type LockType uint8

const (
	LockRead   LockType = 0
	LockWrite  LockType = 1
	LockRemove LockType = 2
)

// Lock is a byte range of fcntl(2), or with Flock the whole-file lock of
// flock(2). End is inclusive; 1<<63-1 is the end of every file.
type Lock struct {
	Type       LockType
	Flock      bool
	Start, End uint64
	PID        uint32
}

func (c *coder) lock(l *Lock) {
	c.u8((*uint8)(&l.Type))
	c.bool(&l.Flock)
	c.u64(&l.Start)
	c.u64(&l.End)
	c.u32(&l.PID)
	if c.err == nil && (l.Type > LockRemove || l.Start > l.End || l.End > 1<<63-1) {
		c.fail("lock type %d, range %d-%d", l.Type, l.Start, l.End)
	}
}

// GetLock asks which lock would stand in the way. Owner distinguishes the
// holders of locks within the session.
type GetLock struct {
	File  FileID
	Owner uint64
	Lock  Lock
}

func (m *GetLock) fields(c *coder) {
	c.file(&m.File)
	c.u64(&m.Owner)
	c.lock(&m.Lock)
}

// GetLockReply has a lock that stands in the way, or one of type LockRemove.
type GetLockReply struct{ Lock Lock }

func (m *GetLockReply) fields(c *coder) { c.lock(&m.Lock) }

// SetLock takes, changes or drops a lock. With Wait it answers when the lock
// was had, or with EINTR after an Interrupt.
type SetLock struct {
	File  FileID
	Owner uint64
	Lock  Lock
	Wait  bool
}

func (m *SetLock) fields(c *coder) {
	c.file(&m.File)
	c.u64(&m.Owner)
	c.lock(&m.Lock)
	c.bool(&m.Wait)
}

// Unlock drops all fcntl (or with Flock all flock) locks of Owner on the inode
// that File is open on.
type Unlock struct {
	File  FileID
	Owner uint64
	Flock bool
}

func (m *Unlock) fields(c *coder) {
	c.file(&m.File)
	c.u64(&m.Owner)
	c.bool(&m.Flock)
}

// Interrupt asks that the call with Tag, if it still waits, answer EINTR.
type Interrupt struct{ Tag uint32 }

func (m *Interrupt) fields(c *coder) { c.u32(&m.Tag) }

// RevokeWhat says which part of what was leased is no longer true.
type RevokeWhat uint8

const (
	// RevokeEntry: what Name in Node names, or that there is no such name.
	// Node's own attributes and listing are revoked with it.
	RevokeEntry RevokeWhat = 1
	// RevokeAttr: attributes, xattrs and link text.
	RevokeAttr RevokeWhat = 2
	// RevokeData: attributes and content.
	RevokeData RevokeWhat = 3
	// RevokeTree: everything at and below Node. For the root: all leases.
	RevokeTree RevokeWhat = 4
	// RevokeLink: as RevokeEntry, and what the name stands for now has other
	// names as well, whose attributes and content may be revoked by that: the
	// number of names is one of the attributes, and what is done by way of one
	// of them is not noticed at the others. To look the name up says which.
	RevokeLink RevokeWhat = 5
)

// Revocation takes a lease back. With Name empty it is about Node itself,
// otherwise about Name in Node.
type Revocation struct {
	Node NodeID
	Name string
	What RevokeWhat
}

// MaxRevocations bounds one Revoke.
const MaxRevocations = 1024

// Revoke takes leases back. Calls that were on their way when it arrived may
// be answered from before it; their answers must not be kept.
type Revoke struct{ Items []Revocation }

func (m *Revoke) fields(c *coder) {
	slice(c, &m.Items, MaxRevocations, func(r *Revocation) {
		c.node(&r.Node)
		c.string(&r.Name, MaxName)
		c.u8((*uint8)(&r.What))
		if c.err == nil && ((r.Name != "" && !ValidName(r.Name)) || r.What < RevokeEntry || r.What > RevokeLink) {
			c.fail("revocation %d of %q", r.What, r.Name)
		}
	})
}
