package fsyscall

import "testing"

func changingCases() []wireCase {
	attr := &AttrReply{Attr: sampleAttr()}
	setAttr := &SetAttr{
		ID: 5, File: 6, Mask: SetMode | SetSize | SetMtimeNow, Mode: 0o4755, UID: 1, GID: 2, Size: 3,
		Atime: Time{Sec: 4, Nsec: 5}, Mtime: Time{Sec: 6, Nsec: 7},
	}
	return []wireCase{
		{"setattr", call(OpSetAttr, 8), setAttr, `01 40 00 0000 08000000 050000000000000006000000000000008900ed0900000100000002000000030000000000000004000000000000000500
			0000060000000000000007000000`},
		{"setattr/reply", reply(OpSetAttr, 8), attr, `02 40 00 0000 08000000` + sampleAttrHex},
		{"create", call(OpCreate, 8), &Create{Dir: 1, Name: "n", ID: 5, File: 6, Flags: OpenWriteOnly | OpenExclusive, Mode: 0o644}, `01 41 00 0000 08000000 0100000000000000010000006e0500000000000000060000000000000081000000a4010000`},
		{"create/reply", reply(OpCreate, 8), attr, `02 41 00 0000 08000000` + sampleAttrHex},
		{"create/error", Header{Kind: KindReply, Op: OpCreate, Errno: 28, Tag: 8}, nil, `02 41 00 1c00 08000000`},
		{"tmpfile", call(OpTmpFile, 8), &TmpFile{Dir: 1, ID: 5, File: 6, Flags: OpenReadWrite, Mode: 0o600}, `01 42 00 0000 08000000 0100000000000000050000000000000006000000000000000200000080010000`},
		{"tmpfile/reply", reply(OpTmpFile, 8), attr, `02 42 00 0000 08000000` + sampleAttrHex},
		{"mkdir", call(OpMkdir, 8), &Mkdir{Dir: 1, Name: "d", ID: 5, Mode: 0o1777}, `01 43 00 0000 08000000 010000000000000001000000640500000000000000ff030000`},
		{"mkdir/reply", reply(OpMkdir, 8), attr, `02 43 00 0000 08000000` + sampleAttrHex},
		{"mknod", call(OpMknod, 8), &Mknod{Dir: 1, Name: "p", ID: 5, Mode: 0o10600}, `01 44 00 0000 08000000 01000000000000000100000070050000000000000080110000`},
		{"mknod/reply", reply(OpMknod, 8), attr, `02 44 00 0000 08000000` + sampleAttrHex},
		{"symlink", call(OpSymlink, 8), &Symlink{Dir: 1, Name: "s", ID: 5, Target: "t/u"}, `01 45 00 0000 08000000 01000000000000000100000073050000000000000003000000742f75`},
		{"symlink/reply", reply(OpSymlink, 8), attr, `02 45 00 0000 08000000` + sampleAttrHex},
		{"link", call(OpLink, 8), &Link{ID: 5, Dir: 1, Name: "l"}, `01 46 00 0000 08000000 05000000000000000100000000000000010000006c`},
		{"link/reply", reply(OpLink, 8), attr, `02 46 00 0000 08000000` + sampleAttrHex},
		{"unlink", call(OpUnlink, 8), &Unlink{Dir: 1, Name: "u"}, `01 47 00 0000 08000000 01000000000000000100000075`},
		{"unlink/reply", reply(OpUnlink, 8), &Empty{}, `02 47 00 0000 08000000`},
		{"rmdir", call(OpRmdir, 8), &Rmdir{Dir: 1, Name: "r"}, `01 48 00 0000 08000000 01000000000000000100000072`},
		{"rmdir/reply", reply(OpRmdir, 8), &Empty{}, `02 48 00 0000 08000000`},
		{"rename", call(OpRename, 8), &Rename{Dir: 1, Name: "o", NewDir: 2, NewName: "new", Flags: RenameExchange}, `01 49 00 0000 08000000 0100000000000000010000006f0200000000000000030000006e657702`},
		{"rename/reply", reply(OpRename, 8), &Empty{}, `02 49 00 0000 08000000`},
		{"write", call(OpWrite, 8), &Write{File: 6, Off: 7, Append: true, Data: []byte("data")}, `01 4a 00 0000 08000000 06000000000000000700000000000000010400000064617461`},
		{"write/reply", reply(OpWrite, 8), &WriteReply{Count: 4, Attr: sampleAttr()}, `02 4a 00 0000 08000000 0400000000000000` + sampleAttrHex},
		{"fallocate", call(OpFallocate, 8), &Fallocate{File: 6, Mode: 3, Off: 4096, Len: 8192}, `01 4b 00 0000 08000000 06000000000000000300000000100000000000000020000000000000`},
		{"fallocate/reply", reply(OpFallocate, 8), &Empty{}, `02 4b 00 0000 08000000`},
		{"copyrange", call(OpCopyRange, 8), &CopyRange{Src: 6, SrcOff: 1, Dst: 7, DstOff: 2, Len: 1 << 40}, `01 4c 00 0000 08000000 06000000000000000100000000000000070000000000000002000000000000000000000000010000`},
		{"copyrange/reply", reply(OpCopyRange, 8), &WriteReply{Count: 1 << 40, Attr: sampleAttr()}, `02 4c 00 0000 08000000 0000000000010000` + sampleAttrHex},
		{"setxattr", call(OpSetXattr, 8), &SetXattr{ID: 5, Name: "user.a", Value: []byte("v"), Flags: 1}, `01 4d 00 0000 08000000 050000000000000006000000757365722e61010000007601`},
		{"setxattr/reply", reply(OpSetXattr, 8), &Empty{}, `02 4d 00 0000 08000000`},
		{"removexattr", call(OpRemoveXattr, 8), &RemoveXattr{ID: 5, Name: "user.a"}, `01 4e 00 0000 08000000 050000000000000006000000757365722e61`},
		{"removexattr/reply", reply(OpRemoveXattr, 8), &Empty{}, `02 4e 00 0000 08000000`},
		{"fsync", call(OpFsync, 8), &Fsync{ID: 5, File: 6, Data: true}, `01 4f 00 0000 08000000 0500000000000000060000000000000001`},
		{"fsync/reply", reply(OpFsync, 8), &Empty{}, `02 4f 00 0000 08000000`},
		{"release", call(OpRelease, 8), &Release{File: 6, Times: true, Mtime: Time{Sec: 7, Nsec: 8}}, `01 50 00 0000 08000000 060000000000000001070000000000000008000000`},
		{"release/reply", reply(OpRelease, 8), &Empty{}, `02 50 00 0000 08000000`},
		{"barrier", call(OpBarrier, 8), &Empty{}, `01 51 00 0000 08000000`},
		{"barrier/reply", reply(OpBarrier, 8), &Empty{}, `02 51 00 0000 08000000`},
	}
}

func TestChangingBytes(t *testing.T) { checkCases(t, changingCases()) }
