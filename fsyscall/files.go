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

// StdioNode names the regular file or directory that the client's standard
// stream Slot (0, 1 or 2) of command Cmd is open on, whether or not the
// export policy has it: the user handed it over by redirecting. Opening ID
// gives at most the access mode that the stream has.
type StdioNode struct {
	Cmd  uint32
	Slot uint8
	ID   NodeID
}

func (m *StdioNode) fields(c *coder) {
	c.u32(&m.Cmd)
	c.u8(&m.Slot)
	c.node(&m.ID)
	if c.err == nil && m.Slot > 2 {
		c.fail("standard stream %d", m.Slot)
	}
}

// AttrReply carries an inode's attributes as they are after the call.
type AttrReply struct{ Attr Attr }

func (m *AttrReply) fields(c *coder) { c.attr(&m.Attr) }

// Lookup finds Name in Dir without following a symbolic link, and on success
// lets ID name what was found. A leased reply puts Dir under a lease for this
// name: also "not there" (ENOENT) may be kept.
type Lookup struct {
	Dir  NodeID
	Name string
	ID   NodeID
}

func (m *Lookup) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.ID)
}

// GetAttr asks for the attributes of ID or, where File is not zero, of the
// inode that File is open on, which may have no name any more.
type GetAttr struct {
	ID   NodeID
	File FileID
}

func (m *GetAttr) fields(c *coder) {
	c.node(&m.ID)
	c.file(&m.File)
}

// List asks for the entries of a directory with their attributes, "." and ".."
// left out, in any order. The reply comes in several messages. Max bounds the
// number of entries: a directory with more answers with EFBIG after at most
// Max entries, and those that came are good. Zero is no bound.
type List struct {
	ID  NodeID
	Max uint32
}

func (m *List) fields(c *coder) {
	c.node(&m.ID)
	c.u32(&m.Max)
}

// Entry is a directory entry.
type Entry struct {
	Name string
	Attr Attr
	// Target is the text of a symbolic link, empty for all else.
	Target string
}

// MaxEntries bounds the entries of one ListReply; a message's size bounds
// them further.
const MaxEntries = 4096

// ListReply has a part of a directory's entries. Self has the directory's own
// attributes, the same in every part. In a leased last reply the listing is
// whole: a name that is not in it does not exist until a Revoke says so.
type ListReply struct {
	Self    Attr
	Entries []Entry
	// Ruled, in the last part of the listing of a directory with AttrRuled, has
	// the names in it, there or not, at or below which the export policy takes
	// something away. Empty: too many to tell.
	Ruled []string
}

// MaxRuled bounds the names in Ruled.
const MaxRuled = 1024

func (m *ListReply) fields(c *coder) {
	c.attr(&m.Self)
	slice(c, &m.Entries, MaxEntries, func(e *Entry) {
		c.name(&e.Name)
		c.attr(&e.Attr)
		c.string(&e.Target, MaxTarget)
	})
	slice(c, &m.Ruled, MaxRuled, c.name)
}

// ReadLink asks for the text of a symbolic link.
type ReadLink struct{ ID NodeID }

func (m *ReadLink) fields(c *coder) { c.node(&m.ID) }

// ReadLinkReply has the text of a symbolic link, uninterpreted.
type ReadLinkReply struct{ Target string }

func (m *ReadLinkReply) fields(c *coder) { c.string(&m.Target, MaxTarget) }

// Access asks what access(2) with the effective identity says of Mask
// (R_OK 4, W_OK 2, X_OK 1).
type Access struct {
	ID   NodeID
	Mask uint8
}

func (m *Access) fields(c *coder) {
	c.node(&m.ID)
	c.u8(&m.Mask)
	if c.err == nil && m.Mask > 7 {
		c.fail("access mask %#x", m.Mask)
	}
}

// OpenFlags is a set of open(2) flags with the numbers of amd64; only those
// named here cross the wire. O_CREAT, O_EXCL and O_APPEND have no place in
// it: creation is an operation of its own, and appending is a flag of each
// write, because one open file serves both a program that appends and the
// kernel writing back mapped pages.
type OpenFlags uint32

const (
	OpenReadOnly  OpenFlags = 0
	OpenWriteOnly OpenFlags = 1
	OpenReadWrite OpenFlags = 2
	OpenAccMode   OpenFlags = 3
	OpenExclusive OpenFlags = 0o200
	OpenTruncate  OpenFlags = 0o1000
	OpenDSync     OpenFlags = 0o10000
	OpenDirect    OpenFlags = 0o40000
	OpenNoATime   OpenFlags = 0o1000000
	OpenSync      OpenFlags = 0o4010000

	openKnown = OpenAccMode | OpenExclusive | OpenTruncate | OpenDSync | OpenDirect | OpenNoATime | OpenSync
)

func (c *coder) openFlags(p *OpenFlags) {
	c.u32((*uint32)(p))
	if c.err == nil && (*p&^openKnown != 0 || *p&OpenAccMode == OpenAccMode) {
		c.fail("open flags %#o", *p)
	}
}

// Open opens a regular file under the number File. FIFOs, sockets and devices
// are refused with ENXIO. Inline asks for the first bytes of the file in the
// reply, at most that many; zero asks for none.
type Open struct {
	ID     NodeID
	File   FileID
	Flags  OpenFlags
	Inline uint32
}

func (m *Open) fields(c *coder) {
	c.node(&m.ID)
	c.file(&m.File)
	c.openFlags(&m.Flags)
	c.u32(&m.Inline)
	if c.err == nil && m.Inline > MaxData {
		c.fail("%d bytes inline", m.Inline)
	}
}

// OpenReply has the attributes after opening and the first bytes asked for.
// The file ends after Data if Data is shorter than what was asked for.
type OpenReply struct {
	Attr Attr
	Data []byte
}

func (m *OpenReply) fields(c *coder) {
	c.attr(&m.Attr)
	c.bytes(&m.Data, MaxData)
}

// Read reads at an offset. A reply shorter than Size means end of file.
type Read struct {
	File FileID
	Off  uint64
	Size uint32
}

func (m *Read) fields(c *coder) {
	c.file(&m.File)
	c.u64(&m.Off)
	c.u32(&m.Size)
	if c.err == nil && m.Size > MaxData {
		c.fail("read of %d bytes", m.Size)
	}
}

// Data is a byte string.
type Data struct{ Data []byte }

func (m *Data) fields(c *coder) { c.bytes(&m.Data, MaxData) }

// Fetch reads the first Size bytes of a regular file without leaving it open.
type Fetch struct {
	ID   NodeID
	Size uint32
}

func (m *Fetch) fields(c *coder) {
	c.node(&m.ID)
	c.u32(&m.Size)
	if c.err == nil && m.Size > MaxData {
		c.fail("fetch of %d bytes", m.Size)
	}
}

// Seek asks lseek(2) for data or a hole.
type Seek struct {
	File FileID
	Off  uint64
	Hole bool // SEEK_HOLE rather than SEEK_DATA
}

func (m *Seek) fields(c *coder) {
	c.file(&m.File)
	c.u64(&m.Off)
	c.bool(&m.Hole)
}

// SeekReply has the offset found.
type SeekReply struct{ Off uint64 }

func (m *SeekReply) fields(c *coder) { c.u64(&m.Off) }

// StatFS asks about the file system that ID is on.
type StatFS struct{ ID NodeID }

func (m *StatFS) fields(c *coder) { c.node(&m.ID) }

// StatFSReply is what statfs(2) says, sizes in units of Bsize bytes.
type StatFSReply struct {
	Blocks, Bfree, Bavail uint64
	Files, Ffree          uint64
	Bsize, Frsize         uint32
	NameLen               uint32
}

func (m *StatFSReply) fields(c *coder) {
	c.u64(&m.Blocks)
	c.u64(&m.Bfree)
	c.u64(&m.Bavail)
	c.u64(&m.Files)
	c.u64(&m.Ffree)
	c.u32(&m.Bsize)
	c.u32(&m.Frsize)
	c.u32(&m.NameLen)
}

// GetXattr asks for the value of an extended attribute.
type GetXattr struct {
	ID   NodeID
	Name string
}

func (m *GetXattr) fields(c *coder) {
	c.node(&m.ID)
	c.string(&m.Name, MaxName)
}

// ListXattr asks for the names of the extended attributes, each followed by a
// NUL byte.
type ListXattr struct{ ID NodeID }

func (m *ListXattr) fields(c *coder) { c.node(&m.ID) }

// SetMask says which fields of a SetAttr count.
type SetMask uint16

const (
	SetMode SetMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	SetAtimeNow // the client's clock, with UTIME_NOW's permission rule
	SetMtimeNow

	setKnown = SetMode | SetUID | SetGID | SetSize | SetAtime | SetMtime | SetAtimeNow | SetMtimeNow
)

// SetAttr changes attributes of ID or, where File is not zero, of the inode
// that File is open on. The fields are applied in the order size, owner,
// mode, times. The mode of a symbolic link cannot be changed (EOPNOTSUPP).
type SetAttr struct {
	ID           NodeID
	File         FileID
	Mask         SetMask
	Mode         uint32 // permission bits only
	UID, GID     uint32
	Size         uint64
	Atime, Mtime Time
}

func (m *SetAttr) fields(c *coder) {
	c.node(&m.ID)
	c.file(&m.File)
	c.u16((*uint16)(&m.Mask))
	c.u32(&m.Mode)
	c.u32(&m.UID)
	c.u32(&m.GID)
	c.u64(&m.Size)
	c.time(&m.Atime)
	c.time(&m.Mtime)
	if c.err == nil && (m.Mask&^setKnown != 0 || m.Mode > 0o7777) {
		c.fail("attribute mask %#x, mode %#o", m.Mask, m.Mode)
	}
}

// Create makes a regular file that does not exist (EEXIST otherwise), opens
// it under File and lets ID name it. Mode has the permission bits with the
// umask already taken off.
type Create struct {
	Dir   NodeID
	Name  string
	ID    NodeID
	File  FileID
	Flags OpenFlags
	Mode  uint32
}

func (m *Create) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.ID)
	c.file(&m.File)
	c.openFlags(&m.Flags)
	c.perm(&m.Mode)
}

func (c *coder) perm(p *uint32) {
	c.u32(p)
	if c.err == nil && *p > 0o7777 {
		c.fail("mode %#o", *p)
	}
}

// TmpFile makes an unnamed regular file in the file system of Dir, as
// O_TMPFILE does. Link may give it a name.
type TmpFile struct {
	Dir   NodeID
	ID    NodeID
	File  FileID
	Flags OpenFlags
	Mode  uint32
}

func (m *TmpFile) fields(c *coder) {
	c.node(&m.Dir)
	c.node(&m.ID)
	c.file(&m.File)
	c.openFlags(&m.Flags)
	c.perm(&m.Mode)
}

// Mkdir makes a directory.
type Mkdir struct {
	Dir  NodeID
	Name string
	ID   NodeID
	Mode uint32
}

func (m *Mkdir) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.ID)
	c.perm(&m.Mode)
}

// Mknod makes a regular file, FIFO or socket; fslave refuses devices with
// EPERM. Mode has the type as well.
type Mknod struct {
	Dir  NodeID
	Name string
	ID   NodeID
	Mode uint32
}

func (m *Mknod) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.ID)
	c.u32(&m.Mode)
	if c.err == nil && m.Mode&^0o177777 != 0 {
		c.fail("mode %#o", m.Mode)
	}
}

// Symlink makes a symbolic link with the text Target.
type Symlink struct {
	Dir    NodeID
	Name   string
	ID     NodeID
	Target string
}

func (m *Symlink) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.ID)
	c.string(&m.Target, MaxTarget)
}

// Link gives the inode ID a further name. ID keeps naming the inode.
type Link struct {
	ID   NodeID
	Dir  NodeID
	Name string
}

func (m *Link) fields(c *coder) {
	c.node(&m.ID)
	c.node(&m.Dir)
	c.name(&m.Name)
}

// Unlink removes a name that is not a directory's. A NodeID that named the
// inode through it keeps naming it while a File is open on it.
type Unlink struct {
	Dir  NodeID
	Name string
}

func (m *Unlink) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
}

// Rmdir removes an empty directory.
type Rmdir struct {
	Dir  NodeID
	Name string
}

func (m *Rmdir) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
}

// RenameFlags has the flags of renameat2(2) that cross the wire.
type RenameFlags uint8

const (
	RenameNoReplace RenameFlags = 1
	RenameExchange  RenameFlags = 2
)

// Rename moves a name. NodeIDs attached below the old name follow it.
type Rename struct {
	Dir     NodeID
	Name    string
	NewDir  NodeID
	NewName string
	Flags   RenameFlags
}

func (m *Rename) fields(c *coder) {
	c.node(&m.Dir)
	c.name(&m.Name)
	c.node(&m.NewDir)
	c.name(&m.NewName)
	c.u8((*uint8)(&m.Flags))
	if c.err == nil && m.Flags > RenameExchange {
		c.fail("rename flags %#x", m.Flags)
	}
}

// Write writes at Off or, with Append, at the end of the file as it is on the
// client then.
type Write struct {
	File   FileID
	Off    uint64
	Append bool
	Data   []byte
}

func (m *Write) fields(c *coder) {
	c.file(&m.File)
	c.u64(&m.Off)
	c.bool(&m.Append)
	c.bytes(&m.Data, MaxData)
}

// WriteReply has the number of bytes written and the attributes after it.
type WriteReply struct {
	Count uint64
	Attr  Attr
}

func (m *WriteReply) fields(c *coder) {
	c.u64(&m.Count)
	c.attr(&m.Attr)
}

// Fallocate is fallocate(2) with Linux's mode bits.
type Fallocate struct {
	File     FileID
	Mode     uint32
	Off, Len uint64
}

func (m *Fallocate) fields(c *coder) {
	c.file(&m.File)
	c.u32(&m.Mode)
	c.u64(&m.Off)
	c.u64(&m.Len)
}

// CopyRange is copy_file_range(2) between two open files of the client. It
// copies Len bytes, or up to the end of Src, before it answers.
type CopyRange struct {
	Src         FileID
	SrcOff      uint64
	Dst         FileID
	DstOff, Len uint64
}

func (m *CopyRange) fields(c *coder) {
	c.file(&m.Src)
	c.u64(&m.SrcOff)
	c.file(&m.Dst)
	c.u64(&m.DstOff)
	c.u64(&m.Len)
}

// SetXattr sets an extended attribute; Flags are setxattr(2)'s XATTR_CREATE 1
// and XATTR_REPLACE 2.
type SetXattr struct {
	ID    NodeID
	Name  string
	Value []byte
	Flags uint8
}

func (m *SetXattr) fields(c *coder) {
	c.node(&m.ID)
	c.string(&m.Name, MaxName)
	c.bytes(&m.Value, MaxXattr)
	c.u8(&m.Flags)
	if c.err == nil && m.Flags > 3 {
		c.fail("xattr flags %#x", m.Flags)
	}
}

// RemoveXattr removes an extended attribute.
type RemoveXattr struct {
	ID   NodeID
	Name string
}

func (m *RemoveXattr) fields(c *coder) {
	c.node(&m.ID)
	c.string(&m.Name, MaxName)
}

// Fsync puts a file, or with File zero the directory ID, on stable storage,
// with all changes that came before it. Data leaves out what fdatasync(2)
// may leave out.
type Fsync struct {
	ID   NodeID
	File FileID
	Data bool
}

func (m *Fsync) fields(c *coder) {
	c.node(&m.ID)
	c.file(&m.File)
	c.bool(&m.Data)
}

// Release closes a file. Where Times is set its times become Atime (unless
// zero) and Mtime first: those that the session has shown since it wrote.
// The error is that of close(2).
type Release struct {
	File  FileID
	Times bool
	Mtime Time
}

func (m *Release) fields(c *coder) {
	c.file(&m.File)
	c.bool(&m.Times)
	c.time(&m.Mtime)
}

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
