// Package fslave serves fsyscall calls against the client's files, inside the
// export policy. It is the trust boundary on the user's machine: every message
// comes from a server that may be hostile.
//
// # How a file is reached
//
// A NodeID stands for a place: a name in a directory, which is a place itself,
// up to the root. Nothing is ever joined to a path. Each directory on the way
// is opened as one component relative to its parent's O_PATH descriptor,
// without following a symbolic link, and compared with the device and inode
// number recorded for it (ESTALE when they differ). The last name is used with
// the *at system calls relative to the parent's descriptor, and what is there
// is opened with O_PATH, looked at, and only then reopened through
// /proc/self/fd, so that a FIFO, socket or device is never opened for input or
// output.
//
// Descriptors of directories are kept for at most a second without looking
// again whether their names still lead to them.
//
// # Order
//
// One goroutine at a time holds the input. It executes changes itself before
// it reads on, and hands the input over before it executes anything else; so
// changes happen in order of arrival and every call sees those before it.
//
// The process's umask must be zero: modes on the wire have the umask of the
// command taken off already. Lock order: input, locks, watcher, node table,
// descriptor cache, file table. Under the watcher's lock nothing is done that
// waits for a disk, except looking at a name that has just changed.
package fslave
