package fsyscall

import "testing"

func lockCases() []wireCase {
	return []wireCase{
		{"setlock", call(OpSetLock, 9), &SetLock{File: 6, Owner: 7, Lock: Lock{Type: LockWrite, Flock: true, End: 1<<63 - 1, PID: 4}, Wait: true}, `01 60 00 0000 09000000 0600000000000000070000000000000001010000000000000000ffffffffffffff7f0400000001`},
		{"setlock/reply", reply(OpSetLock, 9), &Empty{}, `02 60 00 0000 09000000`},
		{"unlock", call(OpUnlock, 9), &Unlock{File: 6, Owner: 7, Flock: true}, `01 61 00 0000 09000000 0600000000000000070000000000000001`},
		{"unlock/reply", reply(OpUnlock, 9), &Empty{}, `02 61 00 0000 09000000`},
		{"interrupt", notice(OpInterrupt), &Interrupt{Tag: 9}, `04 62 00 0000 00000000 09000000`},
		{"revoke", notice(OpRevoke), &Revoke{Items: []Revocation{
			{Node: 1, Name: "n", What: RevokeEntry}, {Node: 1, What: RevokeTree},
		}}, `04 70 00 0000 00000000 020000000100000000000000010000006e0101000000000000000000000004`},
	}
}

func TestLockAndRevokeBytes(t *testing.T) { checkCases(t, lockCases()) }
