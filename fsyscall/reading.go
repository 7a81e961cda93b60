package fsyscall

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
