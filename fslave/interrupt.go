package fslave

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A thread that waits for a lock in the kernel can only be woken by a signal
// whose handler was installed without SA_RESTART, and Go installs all of its
// handlers with it. So one signal, which Go leaves alone, gets a handler that
// does nothing; it runs on the thread's signal stack and touches no Go state.

// interruptSignal is the signal used: the first real-time one.
const interruptSignal = unix.Signal(34)

// interruptHandler returns at once.
func interruptHandler()

// interruptReturn is where the kernel's signal frame returns to.
func interruptReturn()

// Only the assembler refers to them, by interruptAddrs.
var _, _ = interruptHandler, interruptReturn

// interruptAddrs returns the addresses of the two above.
func interruptAddrs() (handler, restorer uintptr)

// sigaction is struct sigaction of the kernel, the same on amd64 and arm64.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// installInterrupt makes interruptSignal interrupt system calls. It may be
// called any number of times.
func installInterrupt() error {
	const onStack, restorer = 0x08000000, 0x04000000
	var sa sigaction
	sa.flags = onStack | restorer
	sa.handler, sa.restorer = interruptAddrs()
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(interruptSignal), uintptr(unsafe.Pointer(&sa)), 0, 8, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
