package fslave

import (
	"encoding/binary"
	"os"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// fuzzSeeds are sessions that get somewhere, for the fuzzer to bend.
func fuzzSeeds(f *testing.F) {
	add := func(msgs ...[]byte) {
		var b []byte
		for _, m := range msgs {
			b = binary.LittleEndian.AppendUint16(b, uint16(len(m)))
			b = append(b, m...)
		}
		f.Add(b)
	}
	e := func(op fsyscall.Op, m fsyscall.Message) []byte { return encode(f, op, m) }
	add(
		e(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 1, Name: "d", ID: 2}),
		e(fsyscall.OpCreate, &fsyscall.Create{Dir: 2, Name: "new", ID: 3, File: 1, Flags: 2, Mode: 0o644}),
		e(fsyscall.OpWrite, &fsyscall.Write{File: 1, Data: []byte("data")}),
		e(fsyscall.OpRename, &fsyscall.Rename{Dir: 2, Name: "new", NewDir: 1, NewName: "link"}),
		e(fsyscall.OpRelease, &fsyscall.Release{File: 1, Times: true}),
	)
	add(
		e(fsyscall.OpAttach, &fsyscall.Attach{Dir: 1, Name: "link", ID: 2}),
		e(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 2, Name: "canary", ID: 3}),
		e(fsyscall.OpOpen, &fsyscall.Open{ID: 2, File: 1, Flags: 1}),
		e(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: 2, Mask: fsyscall.SetSize | fsyscall.SetMode}),
		e(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: 2, Name: "canary"}),
		e(fsyscall.OpList, &fsyscall.List{ID: 2}),
	)
	add(
		e(fsyscall.OpTmpFile, &fsyscall.TmpFile{Dir: 1, ID: 2, File: 1, Flags: 2, Mode: 0o600}),
		e(fsyscall.OpLink, &fsyscall.Link{ID: 2, Dir: 1, Name: "x"}),
		e(fsyscall.OpFallocate, &fsyscall.Fallocate{File: 1, Len: 100}),
		e(fsyscall.OpCopyRange, &fsyscall.CopyRange{Src: 1, Dst: 1, Len: 5, DstOff: 50}),
		e(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: 2, Name: "user.x", Value: []byte("v")}),
		e(fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: 2, Name: "user.x"}),
		e(fsyscall.OpSetLock, &fsyscall.SetLock{File: 1, Owner: 1, Lock: fsyscall.Lock{End: 5, Type: 1}}),
		e(fsyscall.OpSetLock, &fsyscall.SetLock{File: 1, Owner: 2, Lock: fsyscall.Lock{End: 5, Type: 1}, Wait: true}),
		e(fsyscall.OpInterrupt, &fsyscall.Interrupt{Tag: 1}),
		e(fsyscall.OpUnlock, &fsyscall.Unlock{File: 1, Owner: 1}),
	)
	add(
		e(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 1, Name: "hidden", ID: 2}),
		e(fsyscall.OpSymlink, &fsyscall.Symlink{Dir: 1, Name: "s", ID: 3, Target: "../outside"}),
		e(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: 3, Name: "m", ID: 4, Mode: 0o700}),
		e(fsyscall.OpMknod, &fsyscall.Mknod{Dir: 1, Name: "p", ID: 5, Mode: unix.S_IFIFO | 0o600}),
		e(fsyscall.OpOpen, &fsyscall.Open{ID: 5, File: 2, Flags: 2}),
		e(fsyscall.OpRmdir, &fsyscall.Rmdir{Dir: 1, Name: "d"}),
		e(fsyscall.OpForget, &fsyscall.Forget{IDs: []fsyscall.NodeID{1, 2, 3}}),
		e(fsyscall.OpStdioNode, &fsyscall.StdioNode{ID: 6}),
	)
}

// FuzzServer sends arbitrary messages to a server. It must neither panic nor
// hang, and nothing outside of its root, and nothing hidden or read-only in
// it, may have changed.
func FuzzServer(f *testing.F) {
	fuzzSeeds(f)
	base, err := os.MkdirTemp("/dev/shm", "fslave-fuzz-")
	if err != nil {
		base = f.TempDir()
	}
	f.Cleanup(func() { os.RemoveAll(base) })
	limitFileSize(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir, err := os.MkdirTemp(base, "")
		must(t, err)
		defer func() {
			unix.Chmod(filepath.Join(dir, "root"), 0o700)
			os.RemoveAll(dir)
		}()
		root := filepath.Join(dir, "root")
		put(t, root, "d/f", "data")
		put(t, root, "hidden/key", "canary")
		put(t, root, "ro/f", "canary")
		put(t, dir, "outside/canary", "canary")
		must(t, os.Symlink("../outside", filepath.Join(root, "link")))
		guards := []string{"outside", "outside/canary", "root/hidden", "root/hidden/key", "root/ro", "root/ro/f"}
		before := map[string]unix.Stat_t{}
		for _, g := range guards {
			var st unix.Stat_t
			must(t, unix.Lstat(filepath.Join(dir, g), &st))
			before[g] = st
		}
		fuzzOnce(t, root, data)
		unix.Chmod(root, 0o700)
		for _, g := range guards {
			var st unix.Stat_t
			must(t, unix.Lstat(filepath.Join(dir, g), &st))
			old := before[g]
			if st.Ino != old.Ino || st.Ctim != old.Ctim || st.Nlink != old.Nlink {
				t.Fatalf("%s was changed", g)
			}
		}
	})
}

// limitFileSize keeps what is made up from filling the machine. The fuzzer's
// own file, of 100 MiB, must fit.
func limitFileSize(f *testing.F) {
	var old unix.Rlimit
	must(f, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	signal.Ignore(unix.SIGXFSZ)
	must(f, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 128 << 20, Max: old.Max}))
	f.Cleanup(func() {
		must(f, unix.Setrlimit(unix.RLIMIT_FSIZE, &old))
		signal.Reset(unix.SIGXFSZ)
	})
}

func fuzzOnce(t *testing.T, root string, data []byte) {
	p := &pipe{in: make(chan []byte), out: func([]byte) {}}
	policy := newPolicy(t, root, rule("/", ModeReadWrite), rule("/hidden", ModeHide), rule("/ro", ModeReadOnly))
	s, err := New(Config{Policy: policy, Root: root, MaxFiles: 64, MaxNodes: 256, MaxDirs: 8, Workers: 2}, p)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	ended := false
	stuck := time.After(30 * time.Second)
	for len(data) >= 2 && !ended {
		n := min(int(binary.LittleEndian.Uint16(data)), len(data)-2)
		msg := data[2 : 2+n]
		data = data[2+n:]
		select {
		case p.in <- msg:
		case <-served:
			ended = true
		case <-stuck:
			t.Fatal("nothing is read any more")
		}
	}
	p.close()
	if ended {
		return
	}
	select {
	case <-served:
	case <-time.After(20 * time.Second):
		t.Fatal("Serve does not end")
	}
}
