package fslave

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestOpenInlineAndFetch(t *testing.T) {
	root := t.TempDir()
	put(t, root, "f", "0123456789")
	c := dial(t, root, Config{})
	id := c.walk("f")
	for i, tt := range []struct {
		inline uint32
		want   string
	}{{0, ""}, {4, "0123"}, {10, "0123456789"}, {fsyscall.MaxData, "0123456789"}} {
		r := c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: fsyscall.FileID(i + 1), Inline: tt.inline}, 0).(*fsyscall.OpenReply)
		if string(r.Data) != tt.want || r.Attr.Size != 10 {
			t.Errorf("inline %d: %q, %+v", tt.inline, r.Data, r.Attr)
		}
		r = c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: id, Size: tt.inline}, 0).(*fsyscall.OpenReply)
		if string(r.Data) != tt.want {
			t.Errorf("fetch %d: %q", tt.inline, r.Data)
		}
	}
	r := c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 90, Flags: fsyscall.OpenReadWrite | fsyscall.OpenTruncate | fsyscall.OpenDirect}, 0).(*fsyscall.OpenReply)
	if r.Attr.Size != 0 {
		t.Errorf("%+v", r.Attr)
	}
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 90}, unix.EINVAL)
	c.do(fsyscall.OpWrite, &fsyscall.Write{File: 1, Data: []byte("x")}, unix.EBADF)
}

func TestLargeData(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	_, f := c.create(fsyscall.RootNode, "big", 0o600)
	data := bytes.Repeat([]byte("0123456789abcdef"), fsyscall.MaxData/16)
	for i := range uint64(4) {
		r := c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Off: i<<32 + i, Data: data}, 0).(*fsyscall.WriteReply)
		if r.Count != fsyscall.MaxData || r.Attr.Size != i<<32+i+fsyscall.MaxData {
			t.Errorf("%d bytes, size %d", r.Count, r.Attr.Size)
		}
	}
	for i := range uint64(4) {
		if got := c.read(f, i<<32+i, fsyscall.MaxData); got != string(data) {
			t.Errorf("part %d differs", i)
		}
	}
	c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Off: 1 << 63, Data: data}, unix.EFBIG)
	c.do(fsyscall.OpRead, &fsyscall.Read{File: f, Off: 1 << 63, Size: 1}, unix.EINVAL)
}

// Appending goes to where the file ends then, whoever made it longer.
func TestAppend(t *testing.T) {
	root := t.TempDir()
	path := put(t, root, "log", "start ")
	c := dial(t, root, Config{})
	f := c.open(c.walk("log"), fsyscall.OpenWriteOnly)
	c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Append: true, Data: []byte("one ")}, 0)
	local, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer local.Close()
	_, err = local.WriteString("two ")
	must(t, err)
	r := c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Off: 1, Append: true, Data: []byte("three")}, 0).(*fsyscall.WriteReply)
	if got, _ := os.ReadFile(path); string(got) != "start one two three" || r.Attr.Size != 19 {
		t.Errorf("%q, size %d", got, r.Attr.Size)
	}
}

func TestFallocateSeekCopy(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	src, f := c.create(fsyscall.RootNode, "src", 0o600)
	c.write(f, 1<<20, "data")
	if r := c.do(fsyscall.OpSeek, &fsyscall.Seek{File: f}, 0).(*fsyscall.SeekReply); r.Off == 0 || r.Off > 1<<20 {
		t.Errorf("data at %d", r.Off)
	}
	if r := c.do(fsyscall.OpSeek, &fsyscall.Seek{File: f, Hole: true}, 0).(*fsyscall.SeekReply); r.Off != 0 {
		t.Errorf("hole at %d", r.Off)
	}
	c.do(fsyscall.OpSeek, &fsyscall.Seek{File: f, Off: 1 << 30}, unix.ENXIO)
	c.do(fsyscall.OpFallocate, &fsyscall.Fallocate{File: f, Off: 0, Len: 2 << 20}, 0)
	if a := c.attr(src); a.Size != 2<<20 || a.Blocks < 4096 {
		t.Errorf("%+v", a)
	}
	c.do(fsyscall.OpFallocate, &fsyscall.Fallocate{File: f, Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, Off: 1 << 20, Len: 4096}, 0)
	if got := c.read(f, 1<<20, 4); got != "\x00\x00\x00\x00" {
		t.Errorf("hole has %q", got)
	}
	c.do(fsyscall.OpFallocate, &fsyscall.Fallocate{File: f, Off: 1 << 62, Len: 1 << 62}, unix.EFBIG)
	c.write(f, 5, "hello")
	_, g := c.create(fsyscall.RootNode, "dst", 0o600)
	r := c.do(fsyscall.OpCopyRange, &fsyscall.CopyRange{Src: f, SrcOff: 5, Dst: g, DstOff: 1, Len: 1 << 40}, 0).(*fsyscall.WriteReply)
	if r.Count != 2<<20-5 || r.Attr.Size != 2<<20-4 {
		t.Errorf("%d bytes, %+v", r.Count, r.Attr)
	}
	if got := c.read(g, 0, 7); got != "\x00hello\x00" {
		t.Errorf("read %q", got)
	}
	c.do(fsyscall.OpCopyRange, &fsyscall.CopyRange{Src: f, Dst: f, DstOff: 10, Len: 20}, unix.EINVAL)
	c.do(fsyscall.OpFsync, &fsyscall.Fsync{File: f}, 0)
	c.do(fsyscall.OpFsync, &fsyscall.Fsync{File: f, Data: true}, 0)
	c.do(fsyscall.OpFsync, &fsyscall.Fsync{ID: fsyscall.RootNode}, 0)
}

// Between file systems, and from one that lies about sizes, data is copied by
// hand.
func TestCopyBetweenFileSystems(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "fslave-test-")
	if err != nil {
		t.Fatalf("a second file system is needed: %v", err)
	}
	defer os.RemoveAll(shm)
	data := strings.Repeat("x y z ", 500_000)
	src, err := os.Create(filepath.Join(shm, "src"))
	must(t, err)
	defer src.Close()
	_, err = src.WriteString(data)
	must(t, err)
	dst, err := os.Create(filepath.Join(t.TempDir(), "dst"))
	must(t, err)
	defer dst.Close()
	proc, err := os.Open("/proc/self/status")
	must(t, err)
	defer proc.Close()
	c := dial(t, t.TempDir(), Config{})
	call := &call{s: c.s}
	n, err := call.copyData(int(src.Fd()), int(dst.Fd()), 3, 0, 1<<40)
	if got, _ := os.ReadFile(dst.Name()); err != nil || n != uint64(len(data)-3) || string(got) != data[3:] {
		t.Errorf("copied %d of %d: %v", n, len(data)-3, err)
	}
	n, err = call.copyPlainAll(int(proc.Fd()), int(dst.Fd()))
	if err != nil || n < 100 {
		t.Errorf("copied %d: %v", n, err)
	}
}

func (c *call) copyPlainAll(src, dst int) (uint64, error) { return c.copyData(src, dst, 0, 0, 1<<20) }

// Errors of the disk come back as they are.
func TestDiskErrors(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	_, f := c.create(fsyscall.RootNode, "f", 0o600)
	full, err := unix.Open("/dev/full", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	o, err := c.s.files.pin(f)
	must(t, err)
	must(t, unix.Dup3(full, o.fd, unix.O_CLOEXEC)) // as if the disk were full
	o.put()
	unix.Close(full)
	c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Data: []byte("x")}, unix.ENOSPC)
}

func TestLargeDirectory(t *testing.T) {
	const n = 100_000
	root, err := os.MkdirTemp("/dev/shm", "fslave-test-") // a disk takes minutes
	if err != nil {
		root = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	name := func(i int) string { return fmt.Sprintf("a-name-of-some-length-%07d", i) }
	for i := range n {
		fd, err := unix.Open(filepath.Join(root, name(i)), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		must(t, err)
		unix.Close(fd)
	}
	// A client that counts and keeps nothing.
	var mu sync.Mutex
	seen, largest := map[string]bool{}, 0
	var peak uint64
	done := make(chan fsyscall.Header, 1)
	p := &pipe{in: make(chan []byte)}
	p.out = func(msg []byte) {
		h, b, err := fsyscall.ParseHeader(msg)
		if err != nil || h.Op != fsyscall.OpList {
			return
		}
		var r fsyscall.ListReply
		if h.Errno == 0 {
			if err := fsyscall.Decode(b, &r); err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		largest = max(largest, len(msg))
		for _, e := range r.Entries {
			seen[e.Name] = true
		}
		if h.Kind == fsyscall.KindReply {
			done <- h
		} else if len(seen)%50 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
		}
	}
	policy := newPolicy(t, root, rule("/", ModeReadWrite))
	s, err := New(Config{Policy: policy, Root: root}, p)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	for i, tt := range []struct {
		max   uint32
		errno unix.Errno
		names int
	}{{0, 0, n}, {n, 0, n}, {n - 1, unix.EFBIG, n - 1}, {1, unix.EFBIG, 1}} {
		clear(seen)
		msg, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpList, Tag: uint32(i)}, &fsyscall.List{ID: fsyscall.RootNode, Max: tt.max})
		must(t, err)
		p.in <- msg
		h := <-done
		mu.Lock()
		if unix.Errno(h.Errno) != tt.errno || len(seen) != tt.names {
			t.Errorf("at most %d: %d names, %v", tt.max, len(seen), errString(unix.Errno(h.Errno)))
		}
		mu.Unlock()
	}
	if largest > 64<<10 {
		t.Errorf("a part of %d bytes", largest)
	}
	// The names in the test's own map are 100,000 * some 100 bytes.
	if peak > 64<<20 {
		t.Errorf("heap of %d MiB", peak>>20)
	}
	p.close()
	must(t, <-served)
}
