#include "textflag.h"

// action is the kernel's struct sigaction; its first word is the handler.
GLOBL action<>(SB), NOPTR, $32

// The kernel enters the program here (the linker's -E nexec_entry). Nothing of
// the Go runtime has run: there is no g, and the stack holds argc, argv, the
// environment and the auxiliary vector, which are left as they are.
TEXT nexec_entry(SB),NOSPLIT|NOFRAME,$0
	// Which of the descriptors 0 to 2 are open: fcntl(fd, F_GETFD).
	MOVQ	$0, R12
fds:
	MOVQ	R12, DI
	MOVQ	$1, SI // F_GETFD
	MOVQ	$72, AX // fcntl
	SYSCALL
	LEAQ	·closed(SB), R13
	CMPQ	AX, $-9 // EBADF
	SETEQ	(R13)(R12*1)
	INCQ	R12
	CMPQ	R12, $3
	JLT	fds

	// What happens on each signal: rt_sigaction(sig, nil, &action, 8).
	MOVQ	$1, R12
signals:
	MOVQ	R12, DI
	MOVQ	$0, SI
	LEAQ	action<>(SB), DX
	MOVQ	$8, R10
	MOVQ	$13, AX // rt_sigaction
	SYSCALL
	TESTQ	AX, AX
	JNE	next
	CMPQ	action<>(SB), $1 // SIG_IGN
	JNE	next
	LEAQ	-1(R12), CX
	MOVQ	$1, AX
	SHLQ	CX, AX
	ORQ	AX, ·ignored(SB)
next:
	INCQ	R12
	CMPQ	R12, $64
	JLE	signals

	MOVB	$1, ·entered(SB)
	MOVQ	$0, DX // as the kernel has it: nothing to call at the exit
	JMP	_rt0_amd64_linux(SB)
