package fslave

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	if root := os.Getenv(confinedRoot); root != "" {
		os.Exit(confinedMain(root))
	}
	os.Exit(m.Run())
}

// pipe is a Conn whose other end is the test.
type pipe struct {
	in   chan []byte
	out  func([]byte)
	once sync.Once
}

func (p *pipe) ReadMessage(buf []byte) ([]byte, error) {
	m, ok := <-p.in
	if !ok {
		return nil, io.EOF
	}
	return append(buf[:0], m...), nil
}

func (p *pipe) WriteMessage(parts ...[]byte) error {
	p.out(slices.Concat(parts...))
	return nil
}

func (p *pipe) close() { p.once.Do(func() { close(p.in) }) }

type answer struct {
	h    fsyscall.Header
	body fsyscall.Message
}

// client speaks to a Server as fmaster does.
type client struct {
	t      testing.TB
	s      *Server
	p      *pipe
	root   string
	served chan error

	mu      sync.Mutex
	tag     uint32
	next    uint64
	wait    map[uint32]chan answer
	revoked []fsyscall.Revocation
	got     chan struct{} // a token per Revoke
}

// dial serves root, by default all of it read-write, with further rules.
func dial(t testing.TB, root string, cfg Config, rules ...Rule) *client {
	t.Helper()
	if cfg.Policy == nil {
		p, err := NewPolicy(root, append([]Rule{{Path: "/", Mode: ModeReadWrite, Reason: "test"}}, rules...))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Policy = p
	}
	cfg.Root = root
	c := &client{
		t: t, root: root, next: 1, wait: map[uint32]chan answer{},
		p: &pipe{in: make(chan []byte)}, served: make(chan error, 1), got: make(chan struct{}, 1<<16),
	}
	c.p.out = c.receive
	s, err := New(cfg, c.p)
	if err != nil {
		t.Fatal(err)
	}
	c.s = s
	go func() { c.served <- s.Serve() }()
	t.Cleanup(c.close)
	return c
}

func (c *client) close() {
	c.p.close()
	select {
	case err := <-c.served:
		c.served <- err
		if err != nil {
			c.t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		c.t.Error("Serve does not end")
	}
}

func (c *client) receive(msg []byte) {
	h, b, err := fsyscall.ParseHeader(msg)
	if err != nil {
		c.t.Errorf("from the server: %v", err)
		return
	}
	body := h.NewBody()
	if body != nil {
		if err := fsyscall.Decode(b, body); err != nil {
			c.t.Errorf("from the server: %v: %v", h.Op, err)
		}
	}
	c.mu.Lock()
	if h.Kind == fsyscall.KindNotice {
		c.revoked = append(c.revoked, body.(*fsyscall.Revoke).Items...)
		c.mu.Unlock()
		c.got <- struct{}{}
		return
	}
	ch := c.wait[h.Tag]
	if h.Kind == fsyscall.KindReply {
		delete(c.wait, h.Tag)
	}
	c.mu.Unlock()
	if ch == nil {
		c.t.Errorf("answer to nothing: %v", h)
		return
	}
	ch <- answer{h, body}
}

// send starts a call and returns where its answers will come.
func (c *client) send(op fsyscall.Op, m fsyscall.Message) (uint32, chan answer) {
	c.t.Helper()
	h := fsyscall.Header{Kind: fsyscall.KindCall, Op: op}
	ch := make(chan answer, 1<<12)
	c.mu.Lock()
	if op.Info().Reply == nil {
		h.Kind = fsyscall.KindNotice
	} else {
		c.tag++
		h.Tag = c.tag
		c.wait[h.Tag] = ch
	}
	c.mu.Unlock()
	msg, err := fsyscall.AppendMessage(nil, h, m)
	if err != nil {
		c.t.Fatal(err)
	}
	c.p.in <- msg
	return h.Tag, ch
}

// call makes a call and returns its last answer.
func (c *client) call(op fsyscall.Op, m fsyscall.Message) answer {
	c.t.Helper()
	_, ch := c.send(op, m)
	return c.last(ch)
}

func (c *client) last(ch chan answer) answer {
	c.t.Helper()
	for {
		select {
		case a := <-ch:
			if a.h.Kind == fsyscall.KindReply {
				return a
			}
		case <-time.After(20 * time.Second):
			c.t.Fatal("no answer")
		}
	}
}

// do makes a call that must end with the error want.
func (c *client) do(op fsyscall.Op, m fsyscall.Message, want unix.Errno) fsyscall.Message {
	c.t.Helper()
	a := c.call(op, m)
	if unix.Errno(a.h.Errno) != want {
		c.t.Fatalf("%v %+v: %v, want %v", op, m, errString(unix.Errno(a.h.Errno)), errString(want))
	}
	return a.body
}

func errString(e unix.Errno) string {
	if e == 0 {
		return "success"
	}
	return unix.ErrnoName(e)
}

func (c *client) id() fsyscall.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	return fsyscall.NodeID(c.next)
}

// walk looks a path up, name by name.
func (c *client) walk(path string) fsyscall.NodeID {
	c.t.Helper()
	id, e := c.tryWalk(path)
	if e != 0 {
		c.t.Fatalf("lookup of %s: %v", path, e)
	}
	return id
}

func (c *client) tryWalk(path string) (fsyscall.NodeID, unix.Errno) {
	id := fsyscall.RootNode
	for _, name := range components(path) {
		next := c.id()
		a := c.call(fsyscall.OpLookup, &fsyscall.Lookup{Dir: id, Name: name, ID: next})
		if a.h.Errno != 0 {
			return 0, unix.Errno(a.h.Errno)
		}
		id = next
	}
	return id, 0
}

// attach names a path without looking it up.
func (c *client) attach(path string) fsyscall.NodeID {
	id := fsyscall.RootNode
	for _, name := range components(path) {
		next := c.id()
		c.send(fsyscall.OpAttach, &fsyscall.Attach{Dir: id, Name: name, ID: next})
		id = next
	}
	return id
}

func (c *client) attr(id fsyscall.NodeID) fsyscall.Attr {
	c.t.Helper()
	return c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: id}, 0).(*fsyscall.AttrReply).Attr
}

func (c *client) create(dir fsyscall.NodeID, name string, mode uint32) (fsyscall.NodeID, fsyscall.FileID) {
	c.t.Helper()
	id := c.id()
	file := fsyscall.FileID(c.id())
	c.do(fsyscall.OpCreate, &fsyscall.Create{
		Dir: dir, Name: name, ID: id, File: file, Flags: fsyscall.OpenReadWrite, Mode: mode,
	}, 0)
	return id, file
}

func (c *client) open(id fsyscall.NodeID, flags fsyscall.OpenFlags) fsyscall.FileID {
	c.t.Helper()
	file := fsyscall.FileID(c.id())
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: file, Flags: flags}, 0)
	return file
}

func (c *client) write(f fsyscall.FileID, off uint64, data string) {
	c.t.Helper()
	r := c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Off: off, Data: []byte(data)}, 0).(*fsyscall.WriteReply)
	if r.Count != uint64(len(data)) {
		c.t.Fatalf("wrote %d bytes of %d", r.Count, len(data))
	}
}

func (c *client) read(f fsyscall.FileID, off uint64, size uint32) string {
	c.t.Helper()
	return string(c.do(fsyscall.OpRead, &fsyscall.Read{File: f, Off: off, Size: size}, 0).(*fsyscall.Data).Data)
}

func (c *client) release(f fsyscall.FileID) {
	c.t.Helper()
	c.do(fsyscall.OpRelease, &fsyscall.Release{File: f}, 0)
}

// names lists a directory.
func (c *client) names(id fsyscall.NodeID) []string {
	c.t.Helper()
	var out []string
	for _, e := range c.entries(id) {
		out = append(out, e.Name)
	}
	slices.Sort(out)
	return out
}

func (c *client) entries(id fsyscall.NodeID) []fsyscall.Entry {
	c.t.Helper()
	_, ch := c.send(fsyscall.OpList, &fsyscall.List{ID: id})
	var out []fsyscall.Entry
	for {
		a := <-ch
		if a.h.Errno != 0 {
			c.t.Fatalf("list: %v", unix.Errno(a.h.Errno))
		}
		out = append(out, a.body.(*fsyscall.ListReply).Entries...)
		if a.h.Kind == fsyscall.KindReply {
			return out
		}
	}
}

// put makes a file of the client's, with the directories above it.
func put(t testing.TB, root, path, data string) string {
	t.Helper()
	full := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(data), 0o666); err != nil {
		t.Fatal(err)
	}
	return full
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}
