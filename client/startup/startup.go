// Package startup records what the process was started with that Go's own
// initialisation overwrites: package syscall raises the soft limit of open
// files before main runs, and the command must get the user's.
//
// The package imports nothing, so Go initialises it before syscall: packages
// whose imports are ready are taken in the order of their import paths. That
// is also why it makes the system call itself.
package startup

const rlimitNofile = 7

// prlimit is prlimit64(2) of the own process with no new limit. It returns
// what the kernel does: zero, or a negated error number.
//
//go:noescape
func prlimit(resource uintptr, old *[2]uint64) (errno uintptr)

// nofile is written once, before main.
var nofile, nofileOK = func() (l [2]uint64, ok bool) {
	ok = prlimit(rlimitNofile, &l) == 0
	return l, ok
}()

// Nofile returns the soft and hard limit of open files that the process was
// started with. It is not ok where the kernel would not tell.
func Nofile() (cur, max uint64, ok bool) { return nofile[0], nofile[1], nofileOK }
