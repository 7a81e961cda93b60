package fsyscall

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
