package fsyscall

import (
	"strings"
	"testing"
)

func readingCases() []wireCase {
	attr := &AttrReply{Attr: sampleAttr()}
	leased := Header{Kind: KindReply, Op: OpLookup, Leased: true, Tag: 8}
	absent := Header{Kind: KindReply, Op: OpLookup, Leased: true, Errno: 2, Tag: 8}
	more := Header{Kind: KindMore, Op: OpList, Tag: 8}
	list := &ListReply{Self: sampleAttr(), Entries: []Entry{
		{Name: "l\xff", Attr: sampleAttr(), Target: "../t"},
		{Name: "f", Attr: sampleAttr()},
	}}
	return []wireCase{
		{"lookup", call(OpLookup, 8), &Lookup{Dir: 1, Name: "bin", ID: 2}, `01 20 00 0000 08000000 01000000000000000300000062696e0200000000000000`},
		{"lookup/leased", leased, attr, `02 20 01 0000 08000000` + sampleAttrHex},
		{"lookup/absent", absent, nil, `02 20 01 0200 08000000`},
		{"getattr", call(OpGetAttr, 8), &GetAttr{ID: 2, File: 3}, `01 21 00 0000 08000000 02000000000000000300000000000000`},
		{"getattr/reply", reply(OpGetAttr, 8), attr, `02 21 00 0000 08000000` + sampleAttrHex},
		{"list", call(OpList, 8), &List{ID: 1, Max: 1000}, `01 22 00 0000 08000000 0100000000000000e8030000`},
		{"list/more", more, list, `03 22 00 0000 08000000` + sampleAttrHex + `02000000020000006cff` + sampleAttrHex + `040000002e2e2f740100000066` + sampleAttrHex + `00000000 00000000`},
		{"list/reply", reply(OpList, 8), &ListReply{Self: sampleAttr(), Ruled: []string{".ssh"}}, `02 22 00 0000 08000000` + sampleAttrHex + `00000000 01000000040000002e737368`},
		{"readlink", call(OpReadLink, 8), &ReadLink{ID: 5}, `01 23 00 0000 08000000 0500000000000000`},
		{"readlink/reply", reply(OpReadLink, 8), &ReadLinkReply{Target: "/a"}, `02 23 00 0000 08000000 020000002f61`},
		{"access", call(OpAccess, 8), &Access{ID: 5, Mask: 6}, `01 24 00 0000 08000000 050000000000000006`},
		{"access/reply", reply(OpAccess, 8), &Empty{}, `02 24 00 0000 08000000`},
		{"open", call(OpOpen, 8), &Open{ID: 5, File: 6, Flags: OpenReadWrite | OpenTruncate | OpenSync, Inline: 65536}, `01 25 00 0000 08000000 050000000000000006000000000000000212100000000100`},
		{"open/reply", reply(OpOpen, 8), &OpenReply{Attr: sampleAttr(), Data: []byte("hi\x00")}, `02 25 00 0000 08000000` + sampleAttrHex + `03000000686900`},
		{"read", call(OpRead, 8), &Read{File: 6, Off: 5_000_000_000, Size: MaxData}, `01 26 00 0000 08000000 060000000000000000f2052a0100000000001000`},
		{"read/reply", reply(OpRead, 8), &Data{Data: []byte{0, 0xff}}, `02 26 00 0000 08000000 0200000000ff`},
		{"fetch", call(OpFetch, 8), &Fetch{ID: 5, Size: 4096}, `01 27 00 0000 08000000 050000000000000000100000`},
		{"fetch/reply", reply(OpFetch, 8), &OpenReply{Attr: sampleAttr(), Data: []byte{}}, `02 27 00 0000 08000000` + sampleAttrHex + `00000000`},
		{"seek", call(OpSeek, 8), &Seek{File: 6, Off: 4096, Hole: true}, `01 28 00 0000 08000000 0600000000000000001000000000000001`},
		{"seek/reply", reply(OpSeek, 8), &SeekReply{Off: 8192}, `02 28 00 0000 08000000 0020000000000000`},
		{"statfs", call(OpStatFS, 8), &StatFS{ID: 5}, `01 29 00 0000 08000000 0500000000000000`},
		{"statfs/reply", reply(OpStatFS, 8), &StatFSReply{Blocks: 1, Bfree: 2, Bavail: 3, Files: 4, Ffree: 5, Bsize: 6, Frsize: 7, NameLen: 255}, `02 29 00 0000 08000000 010000000000000002000000000000000300000000000000040000000000000005000000000000000600000007000000
			ff000000`},
		{"getxattr", call(OpGetXattr, 8), &GetXattr{ID: 5, Name: "user.a"}, `01 2a 00 0000 08000000 050000000000000006000000757365722e61`},
		{"getxattr/reply", reply(OpGetXattr, 8), &Data{Data: []byte("v")}, `02 2a 00 0000 08000000 0100000076`},
		{"listxattr", call(OpListXattr, 8), &ListXattr{ID: 5}, `01 2b 00 0000 08000000 0500000000000000`},
		{"listxattr/reply", reply(OpListXattr, 8), &Data{Data: []byte("user.a\x00")}, `02 2b 00 0000 08000000 07000000757365722e6100`},
		{"getlock", call(OpGetLock, 8), &GetLock{File: 6, Owner: 7, Lock: Lock{Type: LockRead, Start: 1, End: 2, PID: 3}}, `01 2c 00 0000 08000000 0600000000000000070000000000000000000100000000000000020000000000000003000000`},
		{"getlock/reply", reply(OpGetLock, 8), &GetLockReply{Lock: Lock{Type: LockRemove, End: 1<<63 - 1}}, `02 2c 00 0000 08000000 02000000000000000000ffffffffffffff7f00000000`},
		{"digest", call(OpDigest, 8), &Digest{ID: 5, Size: 6}, `01 2d 00 0000 08000000 05000000000000000600000000000000`},
		{"digest/reply", reply(OpDigest, 8), &DigestReply{Attr: sampleAttr(), Sum: [32]byte{1, 31: 2}}, `02 2d 00 0000 08000000` + sampleAttrHex + `01` + strings.Repeat("00", 30) + `02`},
	}
}

func TestReadingBytes(t *testing.T) { checkCases(t, readingCases()) }
