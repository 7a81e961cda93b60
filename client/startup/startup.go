// Package startup records what the process was started with that Go's own
// initialisation overwrites before main runs, and that the command must get as
// the user set it: the soft limit of open files, which package syscall raises;
// which signals are ignored, because the runtime installs its own handlers; and
// which standard streams are closed, because it opens /dev/null in their place.
//
// The limit is read by a variable's initialisation. The package imports
// nothing, so Go initialises it before syscall: packages whose imports are
// ready are taken in the order of their import paths. That is also why it makes
// the system call itself.
//
// The rest needs the program's first instructions. They are nexec_entry, in
// assembly, which looks and then goes on to the runtime's own entry; the linker
// must be told to start there, with -E nexec_entry, as the Makefile does. In a
// program that was linked without it Entered is false, and the two functions
// that depend on it know nothing.
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

// Written once, by nexec_entry, before there is a runtime.
var (
	entered bool
	closed  [3]bool
	ignored uint64
)

// Entered tells whether the program began with nexec_entry.
func Entered() bool { return entered }

// Closed tells whether standard stream fd, 0 to 2, was closed when the process
// was started.
func Closed(fd int) bool { return fd >= 0 && fd < len(closed) && closed[fd] }

// Ignored returns the signals that were ignored when the process was started:
// bit N-1 for signal N.
func Ignored() uint64 { return ignored }
