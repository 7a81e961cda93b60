package fmaster

import (
	"net"
	"slices"
	"syscall"
	"testing"

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
