package fmaster

import (
	"bytes"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// unheard is a server that has a root only, and whose client never answers.
func unheard(t *testing.T) *Server {
	a, b := net.Pipe()
	l := relay.New(a, relay.Config{})
	t.Cleanup(func() {
		b.Close()
		l.Close()
	})
	return &Server{
		root: &node{attached: attachedBoth}, wires: map[fsyscall.NodeID]*node{},
		calls: newCaller(l, &counters{}),
	}
}

// A file of which one name is gone, without that being known, is reached by
// another; each is tried once.
func TestOtherNames(t *testing.T) {
	s := unheard(t)
	root := s.root
	n := &node{link: link{root, "a"}, more: []link{{root, "b"}, {root, "c"}}, wire: 7}
	var tried []string
	for try := 0; ; try++ {
		if try > 10 {
			t.Fatal("it never ends")
		}
		n.attached = attachedUrgent
		tried = append(tried, n.name)
		wire := n.wire
		if !s.mended(n, syscall.ESTALE, try) {
			break
		}
		if n.wire == wire {
			t.Errorf("try %d: the client is told of %q by the number of another name", try, n.name)
		}
	}
	want := []string{"a", "a", "a", "b", "c"}
	if !slices.Equal(tried, want) {
		t.Fatalf("tried %q, want %q", tried, want)
	}
	if s.mended(&node{link: link{root, "d"}}, syscall.ESTALE, maxMends) {
		t.Error("a file with one name is tried by another")
	}
}

// A file whose first name is in a directory that is gone is reached by another.
func TestNameInLostDirectory(t *testing.T) {
	s := unheard(t)
	root := s.root
	lost := &node{}
	n := &node{link: link{lost, "a"}, more: []link{{lost, "b"}, {root, "c"}}, wire: 7}
	if errno := s.attach(n, urgent); errno != 0 || n.link != (link{root, "c"}) {
		t.Errorf("%v by %q", errno, n.name)
	}
	if errno := s.attach(&node{link: link{lost, "a"}, more: []link{{lost, "b"}}}, urgent); errno != syscall.ESTALE {
		t.Errorf("no name is left, and yet %v", errno)
	}
}

// staleOnce answers calls as a client does whose number for a file leads to
// nothing any more when it is first opened: that open and the read that follows
// it fail, and all is well the next time.
func staleOnce(l *relay.Link, content []byte) {
	calls := l.Stream(fsyscall.StreamCalls)
	answer := func(h fsyscall.Header, errno syscall.Errno, m fsyscall.Message) {
		h.Kind, h.Errno = fsyscall.KindReply, fsyscall.Errno(errno)
		if errno != 0 {
			m = nil
		}
		b, err := fsyscall.AppendMessage(nil, h, m)
		if err == nil {
			_ = calls.WriteMessage(b)
		}
	}
	var held []fsyscall.Header
	failed := false
	for {
		b, err := calls.ReadMessage(nil)
		if err != nil {
			return
		}
		h, body, err := fsyscall.ParseHeader(b)
		if err != nil || h.Kind != fsyscall.KindCall {
			continue
		}
		if !failed {
			held = append(held, h)
			if h.Op == fsyscall.OpRead {
				failed = true
				for _, h := range held {
					answer(h, syscall.ESTALE, nil)
				}
			}
			continue
		}
		switch h.Op {
		case fsyscall.OpOpen:
			answer(h, 0, &fsyscall.OpenReply{Attr: fsyscall.Attr{Mode: modeRegular, Size: uint64(len(content)), Nlink: 1}})
		case fsyscall.OpRead:
			var m fsyscall.Read
			if fsyscall.Decode(body, &m) == nil {
				answer(h, 0, &fsyscall.Data{Data: content[m.Off:min(m.Off+uint64(m.Size), uint64(len(content)))]})
			}
		}
	}
}

// What is read behind an open that failed, and was repeated with success, is
// read again.
func TestReadBehindRepeatedOpen(t *testing.T) {
	a, b := net.Pipe()
	l, peer := relay.New(a, relay.Config{}), relay.New(b, relay.Config{})
	t.Cleanup(func() { peer.Close(); l.Close() })
	content := bytes.Repeat([]byte("content "), inlineMax/8+1) // more than comes with an open
	go staleOnce(peer, content)
	s := New(Config{Link: l, Hello: &fsyscall.Hello{}})
	s.calls.start(s.revoke)
	n := s.newNode()
	n.attr = fsyscall.Attr{Mode: modeRegular | 0o644, Size: uint64(len(content)), Nlink: 1, Access: accessR}
	n.known, n.refs = true, 1
	s.nodes[n.id] = n
	s.place(s.root, "f", n)
	s.told(n, urgent)

	var opened fuse.OpenOut
	if status := s.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: uint64(n.id)}}, &opened); status != fuse.OK {
		t.Fatal(status)
	}
	buf := make([]byte, 4096)
	r, status := s.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: uint64(n.id)}, Fh: opened.Fh, Size: uint32(len(buf))}, buf)
	if status != fuse.OK {
		t.Fatal(status)
	}
	if got, _ := r.Bytes(make([]byte, 4096)); !bytes.Equal(got, content[:4096]) {
		t.Errorf("read %q...", got[:min(len(got), 16)])
	}
}
