package fsyscall

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func sessionCases() []wireCase {
	hello := &Hello{
		Version: Version, UID: 1000, GID: 100, Groups: []uint32{100, 27},
		User: "ann", Home: "/home/ann", Hostname: "desk",
		Now:        Time{Sec: 0x01020304, Nsec: 5},
		View:       []ViewRule{{Path: "/"}, {Path: "/usr", Remote: true}},
		Prefetched: []string{"/h"}, StdioAsked: 5, Sync: true, Trace: true,
	}
	for i := range hello.Secret {
		hello.Secret[i] = byte(i)
		hello.Machine[i] = byte(0x80 + i)
	}
	exec := &Exec{
		Cmd: 3, Argv: []string{"echo", ""}, Env: []string{"A=b"}, Cwd: "/tmp", Umask: 0o22,
		Limits: []Rlimit{{Resource: 7, Cur: 1024, Max: 1<<64 - 1}}, Ignored: 1 << 12,
		Stdio: [3]Stdio{
			{Kind: StdioFile, DupOf: -1, Flags: OpenReadWrite, Append: true, Off: 9},
			{Kind: StdioStreamed, DupOf: -1},
			{Kind: StdioStreamed, DupOf: 1},
		},
		HasTerminal: true,
		Terminal: Terminal{
			Termios: Termios{Iflag: 1, Oflag: 2, Cflag: 3, Lflag: 4, Ispeed: 38400, Ospeed: 38400, Cc: [19]uint8{0: 3, 18: 0xff}},
			Size:    Size{Rows: 24, Cols: 80, XPixel: 640, YPixel: 480},
		},
		Expected: []Use{{Rest: "/a", What: UseListing}, {Shared: 2, Rest: "b", What: UseName | UseContent}},
	}
	exit := &Exit{
		Cmd: 3, Signal: 11, Core: true, Code: 0, Off: [3]uint64{1, 2, 3}, After: 0x99, Sure: true,
		Lost: []LostWrite{{Path: "/x", Errno: 28}}, LostCount: 70, Stats: []byte("ok"),
		Used: []Use{{Rest: "/", What: UseListing}},
	}
	return []wireCase{
		{"hello", notice(OpHello), hello, `04 01 00 0000 00000000 0100000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fe803000064000000020000006400
			00001b00000003000000616e6e090000002f686f6d652f616e6e040000006465736b0403020100000000050000000200
			0000010000002f00040000002f75737201 01000000020000002f68 05 808182838485868788898a8b8c8d8e8f
			909192939495969798999a9b9c9d9e9f 010001`},
		{"welcome", notice(OpWelcome), &Welcome{Version: 1, UID: 5, GID: 6, User: "u", Hostname: "big", PID: 77}, `04 02 00 0000 00000000 010005000000060000000100000075030000006269674d000000`},
		{"exec", call(OpExec, 1), exec, `01 03 00 0000 01000000 0300000002000000040000006563686f000000000100000003000000413d62040000002f746d70120000000100000007
			0004000000000000ffffffffffffffff001000000000000004ffffffff0200000001090000000000000002ffffffff00
			000000000000000000000000020100000000000000000000000000000000010100000002000000030000000400000000
			96000000960000030000000000000000000000000000000000ff180050008002e001 020000000000020000002f6102 0200010000006205`},
		{"exec/reply", reply(OpExec, 1), &ExecReply{PID: 12}, `02 03 00 0000 01000000 0000000c000000`},
		{"exec/refused", reply(OpExec, 1), &ExecReply{Stage: ExecProgram, Errno: 2}, `02 03 00 0000 01000000 02020000000000`},
		{"signal", notice(OpSignal), &Signal{Cmd: 3, Sig: 2}, `04 04 00 0000 00000000 0300000002`},
		{"winsize", notice(OpWinsize), &Winsize{Cmd: 3, Size: Size{Rows: 1, Cols: 2, XPixel: 3, YPixel: 4}}, `04 05 00 0000 00000000 030000000100020003000400`},
		{"stopped", notice(OpStopped), &Stopped{Cmd: 3, Sig: 20}, `04 06 00 0000 00000000 0300000014`},
		{"exit", notice(OpExit), exit, `04 07 00 0000 00000000 030000000b010001000000000000000200000000000000030000000000000099000000 01 01000000020000002f781c004600000002
			0000006f6b 010000000000010000002f02`},
		{"fatal", notice(OpFatal), &Fatal{Code: FatalView, Errno: 13, Detail: "/opt"}, `04 08 00 0000 00000000 05000d00040000002f6f7074`},
		{"bye", notice(OpBye), &Empty{}, `04 09 00 0000 00000000`},
		{"keepalive", call(OpKeepalive, 0xfffffffe), &Empty{}, `01 0a 00 0000 feffffff`},
		{"keepalive/reply", reply(OpKeepalive, 0xfffffffe), &Empty{}, `02 0a 00 0000 feffffff`},
	}
}

func TestSessionBytes(t *testing.T) { checkCases(t, sessionCases()) }

// TestPrefetch: what a client sends in the server's stead is what the server
// expects by the same path.
func TestPrefetch(t *testing.T) {
	var got []string
	for _, b := range Prefetch(PrefetchDirs([]string{"/home/ann/src", "/home/ann/lib", "/home"}), 4, 6) {
		h, body, err := ParseHeader(b)
		if err != nil {
			t.Fatal(err)
		}
		m := h.NewBody()
		if err := Decode(body, m); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d %+v", h.Op, h.Tag, m))
	}
	want := []string{
		"list 1 &{ID:1 Max:1024}",
		"attach 0 &{Dir:1 Name:home ID:2 Ino:0 Dev:0}", "list 2 &{ID:2 Max:1024}",
		"attach 0 &{Dir:2 Name:ann ID:3 Ino:0 Dev:0}", "list 3 &{ID:3 Max:1024}",
		"attach 0 &{Dir:3 Name:src ID:4 Ino:0 Dev:0}", "list 4 &{ID:4 Max:1024}",
		"attach 0 &{Dir:3 Name:lib ID:5 Ino:0 Dev:0}", "list 5 &{ID:5 Max:8192}",
		"stdionode 6 &{Cmd:0 Slot:1 ID:6}", "stdionode 7 &{Cmd:0 Slot:2 ID:7}",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if n := len(Prefetch(PrefetchDirs([]string{"/"}), 1, 0)); n != 1 {
		t.Errorf("the root takes %d messages", n)
	}
	if calls, tag := PrefetchStdio(nil, 7); tag != 1 || len(calls) != 3 || calls[0].ID != RootNode+1 {
		t.Errorf("without a directory %d, %+v", tag, calls)
	}
	if dirs := PrefetchDirs(nil); dirs != nil {
		t.Errorf("without a path %v", dirs)
	}
	if dirs := PrefetchDirs([]string{"/a/../b", "/c"}); !slices.Equal(dirs, []PrefetchDir{{}, {0, "a"}, {0, "c"}}) {
		t.Errorf("behind an impossible name %v", dirs)
	}
	if n := len(PrefetchDirs([]string{"/" + strings.Repeat("x/", MaxPrefetch+1), "/x/x", "/y"})); n != MaxPrefetch {
		t.Errorf("%d directories, want %d", n, MaxPrefetch)
	}
}
