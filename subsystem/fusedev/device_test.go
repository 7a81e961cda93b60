package fusedev

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	maxWrite = 1 << 20
	fileSize = 3<<20 + 5
)

// little is a file system of a few names, each of which behaves in its way:
// wait, the look-up of which waits until it is told to go on; data, of fileSize
// bytes, which comes in pieces; link, with a long text; lock, which nobody
// gets.
type little struct {
	fuse.RawFileSystem
	dev      *Device
	goOn     chan struct{}
	locking  chan struct{}
	waiting  atomic.Int32
	released atomic.Int32
	mu       sync.Mutex
	written  []byte
}

var content = func() []byte {
	b := make([]byte, fileSize)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}()

var target = strings.Repeat("t", 4095)

var inodes = map[string]uint64{"wait": 2, "data": 3, "link": 4, "lock": 5, "other": 6}

func (l *little) attr(ino uint64, a *fuse.Attr) {
	a.Ino, a.Nlink = ino, 1
	switch ino {
	case 1:
		a.Mode = syscall.S_IFDIR | 0o755
	case inodes["link"]:
		a.Mode = syscall.S_IFLNK | 0o777
	default:
		a.Mode, a.Size = syscall.S_IFREG|0o644, fileSize
	}
}

func (l *little) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	ino := inodes[name[:min(len(name), 4)]]
	if ino == 0 {
		ino = inodes[name]
	}
	if ino == 0 {
		return fuse.ENOENT
	}
	if strings.HasPrefix(name, "wait") {
		l.waiting.Add(1)
		<-l.goOn
	}
	out.NodeId = ino
	l.attr(ino, &out.Attr)
	return fuse.OK
}

func (l *little) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	l.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (l *little) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	l.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (l *little) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

func (l *little) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) {
	return []byte(target), fuse.OK
}

// inPieces is content[off:off+n], cut at odd places.
type inPieces struct {
	l *little
	b []byte
}

func (p *inPieces) Size() int { return len(p.b) }
func (p *inPieces) Done()     { p.l.released.Add(1) }
func (p *inPieces) Slices() ([][]byte, fuse.Status) {
	var out [][]byte
	for b := p.b; len(b) > 0; {
		n := min(len(b), 33333)
		out, b = append(out, b[:n], nil), b[n:]
	}
	return out, fuse.OK
}

func (l *little) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	b := content[min(in.Offset, fileSize):]
	b = b[:min(len(b), int(in.Size))]
	if in.Offset == 0 { // both ways to answer
		return fuse.ReadResultData(buf[:copy(buf, b)]), fuse.OK
	}
	l.dev.InPieces(in.Unique, &inPieces{l, b})
	return fuse.ReadResultData(nil), fuse.OK
}

func (l *little) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = append(l.written, data...)
	return uint32(len(data)), fuse.OK
}

func (l *little) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	close(l.locking)
	<-cancel
	return fuse.EINTR
}

// mount mounts l at a new directory, and returns a function that unmounts it
// and waits for the end of the service.
func mount(t *testing.T) (l *little, dir string, unmount func()) {
	t.Helper()
	l = &little{RawFileSystem: fuse.NewDefaultRawFileSystem(), goOn: make(chan struct{}), locking: make(chan struct{})}
	dir = t.TempDir()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", f.Fd(), os.Getuid(), os.Getgid())
	if err := unix.Mount("little", dir, "fuse.little", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		t.Fatal("mount: ", err)
	}
	l.dev, err = Open(f, l, &fuse.MountOptions{MaxWrite: maxWrite, EnableLocks: true, Logger: log.New(io.Discard, "", 0)})
	if err != nil {
		unix.Unmount(dir, unix.MNT_DETACH)
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { l.dev.Serve(); close(served) }()
	unmount = sync.OnceFunc(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE); err != nil {
			t.Error("unmount: ", err)
		}
		select {
		case <-served:
		case <-time.After(20 * time.Second):
			t.Error("the service does not end with the mount")
		}
		l.dev.Close()
		if err := l.dev.InvalidateInode(1, true); err != syscall.EBADF {
			t.Error("notification after the end: ", err)
		}
	})
	t.Cleanup(unmount)
	return l, dir, unmount
}

// within fails the test when f has not returned soon.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal(what + " hangs")
	}
}

// TestOthersGoOn: requests that wait for the client, many more than read at a
// time, keep nobody from being answered.
func TestOthersGoOn(t *testing.T) {
	l, dir, _ := mount(t)
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := os.Lstat(filepath.Join(dir, fmt.Sprintf("wait%d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	within(t, "the look-up of 50 names at once", func() {
		for l.waiting.Load() < 1 {
			time.Sleep(time.Millisecond)
		}
		if _, err := os.Lstat(filepath.Join(dir, "data")); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "missing")); !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	close(l.goOn)
	within(t, "the end of the look-ups", wg.Wait)
	l.dev.mu.Lock()
	defer l.dev.mu.Unlock()
	if l.dev.ready > maxReady || len(l.dev.asked) > 1 {
		t.Errorf("%d goroutines are ready, %d requests are kept", l.dev.ready, len(l.dev.asked))
	}
}

// run runs a script in dir in a process of its own: one that serves a mount must
// not have files of it open, since its end would wait for itself.
func run(t *testing.T, dir, input, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-ec", script)
	c.Dir, c.Stdin = dir, strings.NewReader(input)
	out, err := c.Output()
	if err != nil {
		t.Errorf("%s: %v", script, err)
	}
	return string(out)
}

// TestData: large requests and answers of all kinds come through whole.
func TestData(t *testing.T) {
	l, dir, _ := mount(t)
	if got := run(t, dir, "", "cat data"); got != string(content) {
		t.Errorf("read: %d bytes of %d, or others", len(got), len(content))
	}
	if l.released.Load() == 0 {
		t.Error("no answer came in pieces, or none was released")
	}
	if got := run(t, dir, "", "readlink -n link"); got != target {
		t.Errorf("link: %d bytes", len(got))
	}
	run(t, dir, string(content), "dd of=other bs=4M iflag=fullblock conv=notrunc,nocreat 2>&1")
	l.mu.Lock()
	defer l.mu.Unlock()
	if !bytes.Equal(l.written, content) {
		t.Errorf("written: %d bytes of %d, or others", len(l.written), len(content))
	}
}

// TestEndInterruptsLocks: a wait for a lock ends with the mount, and so does
// Serve.
func TestEndInterruptsLocks(t *testing.T) {
	l, dir, unmount := mount(t)
	waiter := exec.Command("flock", filepath.Join(dir, "lock"), "true")
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, "the lock's request", func() { <-l.locking })
	// The connection is cut off as at the end of the mount's last user, where
	// unmounting what is in use only hides it.
	abort(t, dir)
	within(t, "the wait for the lock", func() {
		if waiter.Wait() == nil {
			t.Error("the lock was given")
		}
	})
	unmount()
}

// abort ends the connection of the mount at dir.
func abort(t *testing.T, dir string) {
	t.Helper()
	const control = "/sys/fs/fuse/connections"
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(control); err != nil || len(entries) == 0 {
		if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
			t.Fatal("mount fusectl: ", err)
		}
		defer unix.Unmount(control, 0)
	}
	if err := os.WriteFile(fmt.Sprintf("%s/%d/abort", control, unix.Minor(st.Dev)), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestNotifications(t *testing.T) {
	l, dir, _ := mount(t)
	want := strings.Repeat("w", os.Getpagesize()) // less is no page
	head := fmt.Sprintf("head -c %d other", len(want))
	run(t, dir, "", "stat other")
	if err := l.dev.StoreContent(inodes["other"], []byte(want)); err != nil {
		t.Fatal(err)
	}
	if got := run(t, dir, "", head); got != want {
		t.Errorf("read %.20q", got)
	}
	if err := l.dev.InvalidateInode(inodes["other"], true); err != nil {
		t.Error(err)
	}
	if got := run(t, dir, "", head); got != string(content[:len(want)]) {
		t.Errorf("after the invalidation: %.20q", got)
	}
	for _, expire := range []bool{true, false} {
		if err := l.dev.InvalidateEntry(1, "other", expire); err != nil && err != syscall.ENOENT {
			t.Errorf("expire %v: %v", expire, err)
		}
	}
}
