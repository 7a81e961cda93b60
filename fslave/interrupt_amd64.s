#include "textflag.h"

// func interruptHandler()
TEXT ·interruptHandler(SB), NOSPLIT|NOFRAME, $0-0
	RET

// func interruptReturn()
TEXT ·interruptReturn(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $15, AX // rt_sigreturn
	SYSCALL
	INT  $3

// func interruptAddrs() (handler, restorer uintptr)
TEXT ·interruptAddrs(SB), NOSPLIT, $0-16
	LEAQ ·interruptHandler(SB), AX
	MOVQ AX, handler+0(FP)
	LEAQ ·interruptReturn(SB), AX
	MOVQ AX, restorer+8(FP)
	RET
