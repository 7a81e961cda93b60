package fsyscall

import "fmt"

// Op is the number of an operation on the wire.
type Op uint8

// The operations. Numbers are never given a second meaning.
const (
	// The session.
	OpHello     Op = 1
	OpWelcome   Op = 2
	OpExec      Op = 3
	OpSignal    Op = 4
	OpWinsize   Op = 5
	OpStopped   Op = 6
	OpExit      Op = 7
	OpFatal     Op = 8
	OpBye       Op = 9
	OpKeepalive Op = 10

	// Naming.
	OpAttach    Op = 16
	OpForget    Op = 17
	OpStdioNode Op = 18

	// Reading.
	OpLookup    Op = 32
	OpGetAttr   Op = 33
	OpList      Op = 34
	OpReadLink  Op = 35
	OpAccess    Op = 36
	OpOpen      Op = 37
	OpRead      Op = 38
	OpFetch     Op = 39
	OpSeek      Op = 40
	OpStatFS    Op = 41
	OpGetXattr  Op = 42
	OpListXattr Op = 43
	OpGetLock   Op = 44
	OpDigest    Op = 45

	// Changing.
	OpSetAttr     Op = 64
	OpCreate      Op = 65
	OpTmpFile     Op = 66
	OpMkdir       Op = 67
	OpMknod       Op = 68
	OpSymlink     Op = 69
	OpLink        Op = 70
	OpUnlink      Op = 71
	OpRmdir       Op = 72
	OpRename      Op = 73
	OpWrite       Op = 74
	OpFallocate   Op = 75
	OpCopyRange   Op = 76
	OpSetXattr    Op = 77
	OpRemoveXattr Op = 78
	OpFsync       Op = 79
	OpRelease     Op = 80
	OpBarrier     Op = 81

	// Locks.
	OpSetLock   Op = 96
	OpUnlock    Op = 97
	OpInterrupt Op = 98

	// Notices of the file system.
	OpRevoke Op = 112
)

// End is the side that an operation's request is sent to.
type End uint8

const (
	ToClient End = 1
	ToServer End = 2
)

// Info is the row of an operation: everything about it that is not the
// encoding of its fields. The read-only guard, the order of execution, the
// statistics and PROTOCOL.md's table all come from here.
type Info struct {
	Op   Op
	Name string
	To   End
	// Request and Reply make an empty body. Reply is nil for a notice.
	Request, Reply func() Message
	// Mutates: the operation changes the file system. It is refused below a
	// read-only export, and fslave executes it in the order of arrival.
	Mutates bool
	// Idempotent: executing it twice in a row is executing it once.
	Idempotent bool
	// Stream: the reply may come in several messages.
	Stream bool
	// Blocks: the reply may take arbitrarily long (a lock held by another).
	Blocks bool
}

func empty() Message { return &Empty{} }

// Table has one row per operation, in the order of PROTOCOL.md.
var Table = []Info{
	{Op: OpHello, Name: "hello", To: ToServer, Request: func() Message { return &Hello{} }, Idempotent: true},
	{Op: OpWelcome, Name: "welcome", To: ToClient, Request: func() Message { return &Welcome{} }, Idempotent: true},
	{Op: OpExec, Name: "exec", To: ToServer, Request: func() Message { return &Exec{} }, Reply: func() Message { return &ExecReply{} }},
	{Op: OpSignal, Name: "signal", To: ToServer, Request: func() Message { return &Signal{} }},
	{Op: OpWinsize, Name: "winsize", To: ToServer, Request: func() Message { return &Winsize{} }, Idempotent: true},
	{Op: OpStopped, Name: "stopped", To: ToClient, Request: func() Message { return &Stopped{} }, Idempotent: true},
	{Op: OpExit, Name: "exit", To: ToClient, Request: func() Message { return &Exit{} }, Idempotent: true},
	{Op: OpFatal, Name: "fatal", To: ToClient, Request: func() Message { return &Fatal{} }, Idempotent: true},
	{Op: OpBye, Name: "bye", To: ToServer, Request: empty, Idempotent: true},
	{Op: OpKeepalive, Name: "keepalive", To: ToServer, Request: empty, Reply: empty, Idempotent: true},

	{Op: OpAttach, Name: "attach", To: ToClient, Request: func() Message { return &Attach{} }},
	{Op: OpForget, Name: "forget", To: ToClient, Request: func() Message { return &Forget{} }, Idempotent: true},
	{Op: OpStdioNode, Name: "stdionode", To: ToClient, Request: func() Message { return &StdioNode{} }, Reply: func() Message { return &AttrReply{} }},

	{Op: OpLookup, Name: "lookup", To: ToClient, Request: func() Message { return &Lookup{} }, Reply: func() Message { return &AttrReply{} }},
	{Op: OpGetAttr, Name: "getattr", To: ToClient, Request: func() Message { return &GetAttr{} }, Reply: func() Message { return &AttrReply{} }, Idempotent: true},
	{Op: OpList, Name: "list", To: ToClient, Request: func() Message { return &List{} }, Reply: func() Message { return &ListReply{} }, Idempotent: true, Stream: true},
	{Op: OpReadLink, Name: "readlink", To: ToClient, Request: func() Message { return &ReadLink{} }, Reply: func() Message { return &ReadLinkReply{} }, Idempotent: true},
	{Op: OpAccess, Name: "access", To: ToClient, Request: func() Message { return &Access{} }, Reply: empty, Idempotent: true},
	{Op: OpOpen, Name: "open", To: ToClient, Request: func() Message { return &Open{} }, Reply: func() Message { return &OpenReply{} }},
	{Op: OpRead, Name: "read", To: ToClient, Request: func() Message { return &Read{} }, Reply: func() Message { return &Data{} }, Idempotent: true},
	{Op: OpFetch, Name: "fetch", To: ToClient, Request: func() Message { return &Fetch{} }, Reply: func() Message { return &OpenReply{} }, Idempotent: true},
	{Op: OpSeek, Name: "seek", To: ToClient, Request: func() Message { return &Seek{} }, Reply: func() Message { return &SeekReply{} }, Idempotent: true},
	{Op: OpStatFS, Name: "statfs", To: ToClient, Request: func() Message { return &StatFS{} }, Reply: func() Message { return &StatFSReply{} }, Idempotent: true},
	{Op: OpGetXattr, Name: "getxattr", To: ToClient, Request: func() Message { return &GetXattr{} }, Reply: func() Message { return &Data{} }, Idempotent: true},
	{Op: OpListXattr, Name: "listxattr", To: ToClient, Request: func() Message { return &ListXattr{} }, Reply: func() Message { return &Data{} }, Idempotent: true},
	{Op: OpGetLock, Name: "getlock", To: ToClient, Request: func() Message { return &GetLock{} }, Reply: func() Message { return &GetLockReply{} }, Idempotent: true},
	{Op: OpDigest, Name: "digest", To: ToClient, Request: func() Message { return &Digest{} }, Reply: func() Message { return &DigestReply{} }, Idempotent: true},

	{Op: OpSetAttr, Name: "setattr", To: ToClient, Request: func() Message { return &SetAttr{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true, Idempotent: true},
	{Op: OpCreate, Name: "create", To: ToClient, Request: func() Message { return &Create{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true},
	{Op: OpTmpFile, Name: "tmpfile", To: ToClient, Request: func() Message { return &TmpFile{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true},
	{Op: OpMkdir, Name: "mkdir", To: ToClient, Request: func() Message { return &Mkdir{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true},
	{Op: OpMknod, Name: "mknod", To: ToClient, Request: func() Message { return &Mknod{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true},
	{Op: OpSymlink, Name: "symlink", To: ToClient, Request: func() Message { return &Symlink{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true},
	{Op: OpLink, Name: "link", To: ToClient, Request: func() Message { return &Link{} }, Reply: func() Message { return &AttrReply{} }, Mutates: true},
	{Op: OpUnlink, Name: "unlink", To: ToClient, Request: func() Message { return &Unlink{} }, Reply: empty, Mutates: true},
	{Op: OpRmdir, Name: "rmdir", To: ToClient, Request: func() Message { return &Rmdir{} }, Reply: empty, Mutates: true},
	{Op: OpRename, Name: "rename", To: ToClient, Request: func() Message { return &Rename{} }, Reply: empty, Mutates: true},
	{Op: OpWrite, Name: "write", To: ToClient, Request: func() Message { return &Write{} }, Reply: func() Message { return &WriteReply{} }, Mutates: true},
	{Op: OpFallocate, Name: "fallocate", To: ToClient, Request: func() Message { return &Fallocate{} }, Reply: empty, Mutates: true},
	{Op: OpCopyRange, Name: "copyrange", To: ToClient, Request: func() Message { return &CopyRange{} }, Reply: func() Message { return &WriteReply{} }, Mutates: true},
	{Op: OpSetXattr, Name: "setxattr", To: ToClient, Request: func() Message { return &SetXattr{} }, Reply: empty, Mutates: true},
	{Op: OpRemoveXattr, Name: "removexattr", To: ToClient, Request: func() Message { return &RemoveXattr{} }, Reply: empty, Mutates: true},
	{Op: OpFsync, Name: "fsync", To: ToClient, Request: func() Message { return &Fsync{} }, Reply: empty, Idempotent: true},
	{Op: OpRelease, Name: "release", To: ToClient, Request: func() Message { return &Release{} }, Reply: empty},
	{Op: OpBarrier, Name: "barrier", To: ToClient, Request: empty, Reply: empty, Idempotent: true},

	{Op: OpSetLock, Name: "setlock", To: ToClient, Request: func() Message { return &SetLock{} }, Reply: empty, Blocks: true},
	{Op: OpUnlock, Name: "unlock", To: ToClient, Request: func() Message { return &Unlock{} }, Reply: empty, Idempotent: true},
	{Op: OpInterrupt, Name: "interrupt", To: ToClient, Request: func() Message { return &Interrupt{} }, Idempotent: true},

	{Op: OpRevoke, Name: "revoke", To: ToServer, Request: func() Message { return &Revoke{} }, Idempotent: true},
}

var byOp = func() (t [256]*Info) {
	for i := range Table {
		t[Table[i].Op] = &Table[i]
	}
	return t
}()

// Info returns the operation's row, or nil for a number without one.
func (o Op) Info() *Info { return byOp[o] }

func (o Op) String() string {
	if i := o.Info(); i != nil {
		return i.Name
	}
	return fmt.Sprintf("operation %d", uint8(o))
}
