package fsyscall

import "testing"

func namingCases() []wireCase {
	return []wireCase{
		{"attach", notice(OpAttach), &Attach{Dir: 1, Name: "a", ID: 2, Ino: 3, Dev: 4}, `04 10 00 0000 00000000 01000000000000000100000061020000000000000003000000000000000400000000000000`},
		{"forget", notice(OpForget), &Forget{IDs: []NodeID{2, 0xffffffffffffffff}}, `04 11 00 0000 00000000 020000000200000000000000ffffffffffffffff`},
		{"stdionode", call(OpStdioNode, 7), &StdioNode{Cmd: 1, Slot: 2, ID: 9}, `01 12 00 0000 07000000 01000000020900000000000000`},
		{"stdionode/reply", reply(OpStdioNode, 7), &AttrReply{Attr: sampleAttr()}, `02 12 00 0000 07000000` + sampleAttrHex},
	}
}

func TestNamingBytes(t *testing.T) { checkCases(t, namingCases()) }
