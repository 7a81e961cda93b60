package fslave

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// swapper exchanges two names as fast as it can until the test ends.
func swapper(t *testing.T, a, b string) (swaps func() int) {
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				if unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
		}
	}()
	return func() int {
		close(stop)
		return <-done
	}
}

// A directory that turns into a link, and back, at any moment never lets
// anything out of the export.
func TestSymlinkSwap(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		outside := t.TempDir()
		put(t, outside, "f", "OUTSIDE")
		put(t, outside, "sub/f", "OUTSIDE")
		put(t, root, "d/f", "inside")
		put(t, root, "d/sub/f", "inside")
		must(t, os.Symlink(outside, filepath.Join(root, "swap")))
		swaps := swapper(t, filepath.Join(root, "d"), filepath.Join(root, "swap"))
		good := 0
		for i := range 150 {
			for _, path := range []string{"d/f", "d/sub/f", "swap/f"} {
				a := c.call(fsyscall.OpFetch, &fsyscall.Fetch{ID: c.attach(path), Size: 100})
				if a.h.Errno == 0 {
					good++
					if got := a.body.(*fsyscall.OpenReply).Data; string(got) != "inside" {
						t.Fatalf("%s: read %q", path, got)
					}
				}
			}
			dir := c.attach([]string{"d", "d/sub", "swap"}[i%3])
			name := fmt.Sprintf("made%d", i)
			c.call(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: dir, Name: name, ID: c.id(), Mode: 0o755})
			c.call(fsyscall.OpCreate, &fsyscall.Create{Dir: dir, Name: name + "f", ID: c.id(), File: fsyscall.FileID(c.id()), Mode: 0o644})
			c.call(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: dir, Name: []string{"f", "x"}[i%2]})
			c.call(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: c.attach("d"), Mask: fsyscall.SetMode, Mode: 0o755})
			c.call(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: c.attach("swap/sub"), Mask: fsyscall.SetMtimeNow})
			c.call(fsyscall.OpRename, &fsyscall.Rename{Dir: dir, Name: "sub", NewDir: dir, NewName: "sub2"})
			c.call(fsyscall.OpRename, &fsyscall.Rename{Dir: dir, Name: "sub2", NewDir: dir, NewName: "sub"})
			put(t, root, "keep", "")
			os.WriteFile(filepath.Join(root, "d/f"), []byte("inside"), 0o666) // when it is not the link
			os.WriteFile(filepath.Join(outside, "f"), []byte("OUTSIDE"), 0o666)
		}
		if n := swaps(); n < 100 || good < 20 {
			t.Errorf("%d swaps, %d reads: nothing was tried", n, good)
		}
		var names []string
		filepath.WalkDir(outside, func(path string, _ os.DirEntry, _ error) error {
			names = append(names, strings.TrimPrefix(path, outside))
			return nil
		})
		if got := fmt.Sprint(names); got != "[ /f /sub /sub/f]" {
			t.Errorf("outside there is %s", got)
		}
		if got, _ := os.ReadFile(filepath.Join(outside, "sub/f")); string(got) != "OUTSIDE" {
			t.Errorf("outside was written: %q", got)
		}
	})
}

// A file that turns into a FIFO at any moment is never opened: no reader or
// writer ever finds a peer.
func TestFIFOSwap(t *testing.T) {
	root := t.TempDir()
	put(t, root, "f", "data")
	fifo := filepath.Join(root, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	same, err := os.OpenFile(fifo, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	must(t, err)
	defer same.Close()
	c := dial(t, root, Config{})
	swaps := swapper(t, filepath.Join(root, "f"), fifo)
	for range 300 {
		a := c.call(fsyscall.OpFetch, &fsyscall.Fetch{ID: c.attach("f"), Size: 10})
		if a.h.Errno == 0 && string(a.body.(*fsyscall.OpenReply).Data) != "data" {
			t.Fatalf("read %q", a.body)
		}
		file := fsyscall.FileID(c.id())
		if a := c.call(fsyscall.OpOpen, &fsyscall.Open{ID: c.attach("f"), File: file, Flags: fsyscall.OpenWriteOnly}); a.h.Errno == 0 {
			c.call(fsyscall.OpRelease, &fsyscall.Release{File: file})
		}
	}
	if n := swaps(); n < 100 {
		t.Errorf("%d swaps", n)
	}
	// A writer that came and went would have left end of file behind, which
	// poll(2) shows as POLLHUP.
	pfd := []unix.PollFd{{Fd: int32(same.Fd()), Events: unix.POLLIN}}
	if _, err := unix.Poll(pfd, 0); err != nil || pfd[0].Revents&unix.POLLHUP != 0 {
		t.Errorf("the FIFO was opened for writing: %#x, %v", pfd[0].Revents, err)
	}
}

// raw serves messages to a Server of its own and returns how that ended.
func raw(t *testing.T, root string, msgs ...[]byte) error {
	t.Helper()
	p := &pipe{in: make(chan []byte), out: func([]byte) {}}
	s, err := New(Config{Policy: newPolicy(t, root, rule("/", ModeReadWrite)), Root: root}, p)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	for _, m := range msgs {
		select {
		case p.in <- m:
		case err := <-served:
			return err
		}
	}
	p.close()
	select {
	case err := <-served:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not end")
	}
	return nil
}

func encode(t testing.TB, op fsyscall.Op, m fsyscall.Message) []byte {
	t.Helper()
	h := fsyscall.Header{Kind: fsyscall.KindCall, Op: op, Tag: 1}
	if op.Info().Reply == nil {
		h.Kind, h.Tag = fsyscall.KindNotice, 0
	}
	b, err := fsyscall.AppendMessage(nil, h, m)
	must(t, err)
	return b
}

// Names that are more than a name end the connection.
func TestBadNames(t *testing.T) {
	for _, bad := range []string{"..", "a/", "/a", "./", "\x00a", "a\x00"} {
		t.Run(fmt.Sprintf("%q", bad), func(t *testing.T) {
			outer := t.TempDir()
			root := filepath.Join(outer, "root")
			put(t, root, "aa/f", "")
			put(t, outer, "secret", "")
			for _, m := range []struct {
				op  fsyscall.Op
				msg fsyscall.Message
			}{
				{fsyscall.OpAttach, &fsyscall.Attach{Dir: 1, Name: "@@", ID: 2}},
				{fsyscall.OpLookup, &fsyscall.Lookup{Dir: 1, Name: "@@", ID: 2}},
				{fsyscall.OpCreate, &fsyscall.Create{Dir: 1, Name: "@@", ID: 2, File: 1}},
				{fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: 1, Name: "@@", ID: 2}},
				{fsyscall.OpSymlink, &fsyscall.Symlink{Dir: 1, Name: "@@", ID: 2, Target: "x"}},
				{fsyscall.OpMknod, &fsyscall.Mknod{Dir: 1, Name: "@@", ID: 2, Mode: unix.S_IFREG}},
				{fsyscall.OpLink, &fsyscall.Link{ID: 1, Dir: 1, Name: "@@"}},
				{fsyscall.OpUnlink, &fsyscall.Unlink{Dir: 1, Name: "@@"}},
				{fsyscall.OpRmdir, &fsyscall.Rmdir{Dir: 1, Name: "@@"}},
				{fsyscall.OpRename, &fsyscall.Rename{Dir: 1, Name: "@@", NewDir: 1, NewName: "ok"}},
				{fsyscall.OpRename, &fsyscall.Rename{Dir: 1, Name: "aa", NewDir: 1, NewName: "@@"}},
			} {
				b := bytes.Replace(encode(t, m.op, m.msg), []byte("@@"), []byte(bad), 1)
				if err := raw(t, root, b); !errors.Is(err, fsyscall.ErrMalformed) {
					t.Errorf("%v: %v", m.op, err)
				}
			}
			if !exists(filepath.Join(outer, "secret")) || !exists(filepath.Join(root, "aa")) {
				t.Error("something is gone")
			}
		})
	}
}

// Operations that are nothing to ask a file server, and garbage, end the
// connection with an error.
func TestProtocolErrors(t *testing.T) {
	root := t.TempDir()
	reply, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindReply, Op: fsyscall.OpGetAttr}, &fsyscall.AttrReply{})
	must(t, err)
	for name, m := range map[string][]byte{
		"empty": {}, "garbage": []byte("GET / HTTP/1.1\r\n"), "reply": reply,
		"hello":  encode(t, fsyscall.OpSignal, &fsyscall.Signal{Sig: 9}),
		"revoke": encode(t, fsyscall.OpRevoke, &fsyscall.Revoke{}),
		"long":   append(encode(t, fsyscall.OpBarrier, nil), 0),
		"short":  encode(t, fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: 1})[:12],
	} {
		if err := raw(t, root, m); !errors.Is(err, fsyscall.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := raw(t, root); err != nil {
		t.Errorf("orderly end: %v", err)
	}
	p := &pipe{in: make(chan []byte), out: func([]byte) {}}
	s, err := New(Config{Policy: newPolicy(t, root, rule("/", ModeReadWrite)), Root: root}, brokenConn{p})
	must(t, err)
	if err := s.Serve(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("broken connection: %v", err)
	}
}

type brokenConn struct{ *pipe }

func (brokenConn) ReadMessage([]byte) ([]byte, error) { return nil, io.ErrUnexpectedEOF }

// The links in /proc that lead anywhere are links like others.
func TestMagicLinks(t *testing.T) {
	c := dial(t, "/proc", Config{NoWatch: true})
	pid := fmt.Sprint(os.Getpid())
	for _, path := range []string{"root", "cwd", "exe", "fd/0", "ns/mnt"} {
		id, e := c.tryWalk(pid + "/" + path)
		if e != 0 {
			t.Fatalf("%s: %v", path, e)
		}
		if a := c.attr(id); a.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("%s is no link: %o", path, a.Mode)
		}
		c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 9}, unix.ELOOP)
		c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: id, Size: 1}, unix.ELOOP)
		c.do(fsyscall.OpList, &fsyscall.List{ID: id}, unix.ENOTDIR)
		c.do(fsyscall.OpLookup, &fsyscall.Lookup{Dir: id, Name: "etc", ID: c.id()}, unix.ENOTDIR)
	}
}

func TestBounds(t *testing.T) {
	root := t.TempDir()
	put(t, root, "f", "")
	c := dial(t, root, Config{MaxNodes: 50, MaxFiles: 3})
	id := c.walk("f")
	var open []fsyscall.FileID
	for range 3 {
		open = append(open, c.open(id, 0))
	}
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 1000}, unix.ENFILE)
	c.do(fsyscall.OpCreate, &fsyscall.Create{Dir: 1, Name: "g", ID: c.id(), File: 1000}, unix.ENFILE)
	if exists(filepath.Join(root, "g")) {
		t.Error("made, and not to be had")
	}
	c.release(open[0])
	c.open(id, 0)
	for i := range 100 {
		c.send(fsyscall.OpAttach, &fsyscall.Attach{Dir: 1, Name: "f", ID: fsyscall.NodeID(2000 + i)})
	}
	c.do(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 1, Name: "f", ID: c.id()}, unix.ENFILE)
	c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: 2099}, unix.ESTALE)
}

// A tree that exists only in what the server says costs little and ends.
func TestDeepAndCircular(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	parent := fsyscall.RootNode
	for range 3 * maxDepth {
		id := c.id()
		c.send(fsyscall.OpAttach, &fsyscall.Attach{Dir: parent, Name: "a", ID: id})
		parent = id
	}
	c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: parent}, unix.ENAMETOOLONG)
	c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: parent, Name: "b", ID: c.id()}, unix.ENAMETOOLONG)
	// A directory that someone moves below what was below it.
	put(t, root, "x/y/z/f", "")
	y, z := c.walk("x/y"), c.walk("x/y/z")
	must(t, os.Rename(filepath.Join(root, "x/y/z"), filepath.Join(root, "z")))
	c.call(fsyscall.OpRename, &fsyscall.Rename{Dir: c.walk("x"), Name: "y", NewDir: z, NewName: "y"})
	c.call(fsyscall.OpList, &fsyscall.List{ID: y})
	c.call(fsyscall.OpList, &fsyscall.List{ID: z})
	// A name of one node that would put it below itself.
	c.call(fsyscall.OpLookup, &fsyscall.Lookup{Dir: y, Name: "z", ID: y})
	c.do(fsyscall.OpBarrier, nil, 0)
	c.send(fsyscall.OpForget, &fsyscall.Forget{IDs: []fsyscall.NodeID{parent, y, z, 1, 1, 99999999}})
	c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: 1}, 0)
}

// A directory that someone moves out of the export is lost within trustFor,
// even where nothing is watched.
func TestMovedOutOfExport(t *testing.T) {
	root := t.TempDir()
	put(t, root, "in/d/f", "data")
	put(t, root, "out/x", "")
	p := newPolicy(t, root, rule("/in", ModeReadWrite))
	c := dial(t, root, Config{Policy: p, NoWatch: true})
	f := c.walk("in/d/f")
	must(t, os.Rename(filepath.Join(root, "in/d"), filepath.Join(root, "out/d")))
	time.Sleep(trustFor)
	c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: f, Size: 1}, unix.ESTALE)
}
