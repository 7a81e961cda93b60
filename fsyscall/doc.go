// Package fsyscall holds the words that both ends of a session share: the
// operation table, the messages and their encoding. PROTOCOL.md beside this
// file is the normative text; a test holds its table to the one here.
//
// The package imports only the standard library, does no input or output of
// its own, and knows nothing of SSH, FUSE or any file system.
//
// # Who names what
//
// The server (fmaster) picks every number: node identifiers, open-file
// identifiers and call tags. A call may therefore name an object that an
// earlier, still unanswered call creates, and nothing waits for a number to
// come back. The client (fslave) keeps the tables that these numbers index.
package fsyscall

// Version is the protocol version. Both hello messages carry it; ends with
// different versions refuse each other with a [Fatal] of code [FatalVersion].
const Version = 1

// Bounds that a decoder enforces. A message beyond one of them ends the
// session: it cannot come from a correct peer.
const (
	// MaxMessage bounds one encoded message. The largest correct one is a
	// Write or a Read reply of MaxData bytes.
	MaxMessage = MaxData + 64<<10
	// MaxData bounds file data in one message: the largest request that the
	// kernel's FUSE client makes.
	MaxData = 1 << 20
	// MaxName is NAME_MAX of every Linux file system.
	MaxName = 255
	// MaxTarget bounds a symbolic link's text and a path: PATH_MAX.
	MaxTarget = 4096
	// MaxXattr is XATTR_SIZE_MAX, and bounds an attribute list as well
	// (XATTR_LIST_MAX is the same number).
	MaxXattr = 64 << 10
	// MaxExec bounds the strings of one Exec message taken together, above
	// any Linux machine's ARG_MAX that is in use (a quarter of the stack
	// limit, 6 MiB at the most), cut to what fits into a message.
	MaxExec = MaxData
)

// NodeID names a file, directory or other inode of the client. The server
// picks it; RootNode is the client's root directory. Zero names nothing.
type NodeID uint64

// RootNode is the root directory of the client, known without being named.
const RootNode NodeID = 1

// FileID names an open file of the client. The server picks it. Zero names
// nothing.
type FileID uint64
