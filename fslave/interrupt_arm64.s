#include "textflag.h"

// func interruptHandler()
TEXT ·interruptHandler(SB), NOSPLIT|NOFRAME, $0-0
	RET

// func interruptReturn()
TEXT ·interruptReturn(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $139, R8 // rt_sigreturn
	SVC
	BRK

// func interruptAddrs() (handler, restorer uintptr)
TEXT ·interruptAddrs(SB), NOSPLIT, $0-16
	MOVD $·interruptHandler(SB), R0
	MOVD R0, handler+0(FP)
	MOVD $·interruptReturn(SB), R0
	MOVD R0, restorer+8(FP)
	RET
