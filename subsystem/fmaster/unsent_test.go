package fmaster

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// What was written to a file that is removed before the link has taken it is
// not sent, and every change is done all the same, in order.
func TestRemovedBeforeSent(t *testing.T) {
	a, b := net.Pipe()
	link := relay.New(a, relay.Config{})
	var st counters
	c := newCaller(link, &st)
	c.start(func(*fsyscall.Revoke) {})

	const writes = 24
	data := make([]byte, 1<<20)
	doomed, kept := &node{}, &node{}
	var done atomic.Int32
	write := func(n *node, file fsyscall.FileID) {
		if err := c.reserve(len(data)); err != nil {
			t.Error(err)
		}
		c.postData(n, len(data), fsyscall.OpWrite, &fsyscall.Write{File: file, Data: data}, &fsyscall.WriteReply{}, func(h fsyscall.Header) {
			if h.Errno != 0 {
				t.Errorf("file %d: errno %d", file, h.Errno)
			}
			done.Add(1)
		})
	}
	// The peer does not read yet.
	for range writes {
		write(doomed, 1)
	}
	write(kept, 2)
	c.dropData(doomed)
	write(kept, 2)
	if st.neverSent.Load() == 0 {
		t.Fatal("nothing was dropped")
	}

	peer := relay.New(b, relay.Config{})
	calls := peer.Stream(fsyscall.StreamOrdered)
	replies := peer.Stream(fsyscall.StreamCalls)
	var mu sync.Mutex
	got := map[fsyscall.FileID]int{}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			m, err := calls.ReadMessage(nil)
			if err != nil {
				return
			}
			h, body, err := fsyscall.ParseHeader(m)
			if err != nil {
				t.Error(err)
				return
			}
			var w fsyscall.Write
			if err := fsyscall.Decode(body, &w); err != nil {
				t.Error(err)
			}
			mu.Lock()
			got[w.File]++
			mu.Unlock()
			reply, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindReply, Op: h.Op, Tag: h.Tag}, &fsyscall.WriteReply{Count: 1})
			if err != nil {
				t.Error(err)
			}
			if replies.WriteMessage(reply) != nil {
				return
			}
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); done.Load() < writes+2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d changes are done", done.Load(), writes+2)
		}
	}
	mu.Lock()
	if got[1] > 4 || got[2] != 2 {
		t.Errorf("%d writes of the removed file were sent, and %d of the other", got[1], got[2])
	}
	mu.Unlock()
	if c.unanswered() {
		t.Error("changes count as unanswered")
	}
	link.Close()
	peer.Close()
	<-served
	c.wg.Wait()
}
