package fsyscall

// Time is a point of the client's clock.
type Time struct {
	Sec  int64
	Nsec uint32 // below 1e9
}

func (c *coder) time(t *Time) {
	c.i64(&t.Sec)
	c.u32(&t.Nsec)
	if c.err == nil && t.Nsec >= 1e9 {
		c.fail("%d nanoseconds", t.Nsec)
	}
}

// AttrFlags qualifies an Attr.
type AttrFlags uint8

const (
	// AttrReadOnly: the export policy lets nothing here be changed.
	AttrReadOnly AttrFlags = 1 << iota
	// AttrUnwatched: changes of this inode may go unnoticed (it has further
	// names outside the watched directories), so it is not under the lease of
	// its directory and may be kept for a second at the most.
	AttrUnwatched
	// AttrNoXattr: the inode has no extended attributes, so that asking for
	// one needs no call.
	AttrNoXattr
	// AttrRuled: the export policy takes away something below this directory,
	// so that it may refuse a change of a name in it that the permissions
	// allow: of those that ListReply.Ruled has. Such a change is to be asked
	// for, not taken for granted.
	AttrRuled
	// AttrSettled, in the reply to an Open or a Fetch: whatever changes the
	// content that this call, or a Read of the file just opened, brings, gives
	// the inode another Ctime. So the content may be kept beyond the session
	// and found again by Dev, Ino, Size, Mtime and Ctime.
	AttrSettled

	attrFlagsKnown = AttrReadOnly | AttrUnwatched | AttrNoXattr | AttrRuled | AttrSettled
)

// Attr is what stat(2) says of an inode, in the client's own numbers.
type Attr struct {
	Ino, Dev            uint64
	Mode                uint32 // type and permission bits, as st_mode
	Nlink               uint32
	UID, GID            uint32
	Rdev                uint64
	Size                uint64
	Blocks              uint64 // of 512 bytes
	Atime, Mtime, Ctime Time
	// Access has the bits R_OK 4, W_OK 2, X_OK 1 that the owner, group and
	// other bits of Mode give the client's user. It is a forecast: the
	// client's kernel decides when the file is used.
	Access uint8
	Flags  AttrFlags
}

func (c *coder) attr(a *Attr) {
	c.u64(&a.Ino)
	c.u64(&a.Dev)
	c.u32(&a.Mode)
	c.u32(&a.Nlink)
	c.u32(&a.UID)
	c.u32(&a.GID)
	c.u64(&a.Rdev)
	c.u64(&a.Size)
	c.u64(&a.Blocks)
	c.time(&a.Atime)
	c.time(&a.Mtime)
	c.time(&a.Ctime)
	c.u8(&a.Access)
	c.u8((*uint8)(&a.Flags))
	if c.err == nil && (a.Access > 7 || a.Flags&^attrFlagsKnown != 0) {
		c.fail("access %#x, attribute flags %#x", a.Access, a.Flags)
	}
}

// Empty is a body without fields.
type Empty struct{}

func (*Empty) fields(*coder) {}

// Attach says that ID names the inode at Name in the directory Dir; if ID is
// known it does nothing. Nothing is looked up until ID is first used; the
// calls that use it fail with ESTALE when the inode found there is not the one
// found before, or there is none.
type Attach struct {
	Dir  NodeID
	Name string
	ID   NodeID
	// Ino and Dev are those of the inode meant, from a ListReply. Zero: the
	// one found at the first use.
	Ino, Dev uint64
}

func (m *Attach) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.ID)
	c.u64(&m.Ino)
	c.u64(&m.Dev)
}

// Forget takes names back. A forgotten directory is no longer watched.
type Forget struct{ IDs []NodeID }

// MaxForget bounds the names in one Forget.
const MaxForget = 4096

func (m *Forget) fields(c *coder) { slice(c, &m.IDs, MaxForget, c.node) }
