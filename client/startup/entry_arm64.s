#include "textflag.h"

// action is the kernel's struct sigaction; its first word is the handler.
GLOBL action<>(SB), NOPTR, $32

// The kernel enters the program here (the linker's -E nexec_entry). Nothing of
// the Go runtime has run: there is no g, and the stack holds argc, argv, the
// environment and the auxiliary vector, which are left as they are.
TEXT nexec_entry(SB),NOSPLIT|NOFRAME,$0
	// Which of the descriptors 0 to 2 are open: fcntl(fd, F_GETFD).
	MOVD	$0, R20
	MOVD	$·closed(SB), R21
fds:
	MOVD	R20, R0
	MOVD	$1, R1 // F_GETFD
	MOVD	$25, R8 // fcntl
	SVC
	CMP	$-9, R0 // EBADF
	CSET	EQ, R1
	MOVB	R1, (R21)(R20)
	ADD	$1, R20
	CMP	$3, R20
	BLT	fds

	// What happens on each signal: rt_sigaction(sig, nil, &action, 8).
	MOVD	$1, R20
	MOVD	$action<>(SB), R21
	MOVD	$0, R22
signals:
	MOVD	R20, R0
	MOVD	$0, R1
	MOVD	R21, R2
	MOVD	$8, R3
	MOVD	$134, R8 // rt_sigaction
	SVC
	CBNZ	R0, next
	MOVD	(R21), R4
	CMP	$1, R4 // SIG_IGN
	BNE	next
	SUB	$1, R20, R5
	MOVD	$1, R4
	LSL	R5, R4
	ORR	R4, R22
next:
	ADD	$1, R20
	CMP	$64, R20
	BLE	signals

	MOVD	R22, ·ignored(SB)
	MOVD	$1, R4
	MOVB	R4, ·entered(SB)
	MOVD	$0, R0
	B	_rt0_arm64_linux(SB)
