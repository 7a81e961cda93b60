package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// writes counts the calls of Write.
type writes struct {
	io.ReadWriter
	n int
}

func (w *writes) Write(b []byte) (int, error) {
	w.n++
	return w.ReadWriter.Write(b)
}

func TestMessageConnBytes(t *testing.T) {
	var buf bytes.Buffer
	c := NewMessageConn(&buf)
	if err := errors.Join(c.WriteMessage([]byte("ab"), nil, []byte("c")), c.WriteMessage()); err != nil {
		t.Fatal(err)
	}
	if got := buf.String(); got != "\x03\x00\x00\x00abc\x00\x00\x00\x00" {
		t.Fatalf("%q", got)
	}
	for _, want := range []string{"abc", ""} {
		if m, err := c.ReadMessage(nil); string(m) != want || err != nil {
			t.Fatalf("%q, %v", m, err)
		}
	}
	if _, err := c.ReadMessage(nil); err != io.EOF {
		t.Fatal(err)
	}
}

func TestMessageConnRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"\x03\x00\x00\x00ab": io.ErrUnexpectedEOF,
		"\x03\x00":           io.ErrUnexpectedEOF,
		"\xff\xff\xff\xff":   ErrTooLong,
	} {
		if _, err := NewMessageConn(bytes.NewBufferString(in)).ReadMessage(nil); !errors.Is(err, want) {
			t.Errorf("%q: %v", in, err)
		}
	}
	var buf bytes.Buffer
	if err := NewMessageConn(&buf).WriteMessage(make([]byte, MaxMessage), []byte{0}); !errors.Is(err, ErrTooLong) || buf.Len() != 0 {
		t.Error(err)
	}
}

// TestMessageConnCoalesces: writers that wait for each other share a Write.
func TestMessageConnCoalesces(t *testing.T) {
	x, y := net.Pipe()
	w := &writes{ReadWriter: x}
	c := NewMessageConn(w)
	const writers = 50
	var wg sync.WaitGroup
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.WriteMessage([]byte("message")); err != nil {
				t.Error(err)
			}
		}()
	}
	// Nobody reads yet: one is in Write, and all others wait.
	eventually(t, "all wait", func() bool { return c.waiting.Load() == writers-1 })
	r := NewMessageConn(y)
	for range writers {
		if m, err := r.ReadMessage(nil); string(m) != "message" || err != nil {
			t.Fatalf("%q, %v", m, err)
		}
	}
	wg.Wait()
	if w.n > 2 {
		t.Errorf("%d writes", w.n)
	}
}

func TestMessageConnErrorSticks(t *testing.T) {
	x, y := net.Pipe()
	y.Close()
	c := NewMessageConn(x)
	for range 2 {
		if err := c.WriteMessage([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Fatal(err)
		}
	}
}

// reply encodes a message as the file service sends it.
func reply(t *testing.T, kind fsyscall.Kind, op fsyscall.Op, tag uint32, m fsyscall.Message) []byte {
	t.Helper()
	b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: kind, Op: op, Tag: tag}, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func spliced(t *testing.T) (server *Link, service *MessageConn, raw net.Conn, done chan error) {
	t.Helper()
	server, client := pair(t, Config{})
	x, y := socketpair(t)
	done = make(chan error, 1)
	go func() { done <- Splice(client, NewMessageConn(x), nil) }()
	t.Cleanup(func() { y.Close() })
	return server, NewMessageConn(y), y, done
}

// counted counts the writes.
type counted struct {
	net.Conn
	writes atomic.Int32
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

// TestBatch: calls that have come together go on together, and the last of them
// waits for nobody.
func TestBatch(t *testing.T) {
	server, client := pair(t, Config{})
	const calls = 500
	for tag := range uint32(calls) {
		call := reply(t, fsyscall.KindCall, fsyscall.OpBarrier, tag+1, &fsyscall.Empty{})
		if err := server.Stream(fsyscall.StreamOrdered).WriteMessage(call); err != nil {
			t.Fatal(err)
		}
	}
	for client.Stats().FramesIn < calls {
		time.Sleep(time.Millisecond)
	}
	x, y := socketpair(t)
	defer y.Close()
	out := &counted{Conn: x}
	go Splice(client, NewMessageConn(out), nil)
	service := NewMessageConn(y)
	for tag := range uint32(calls) {
		m, err := service.ReadMessage(nil)
		if want := reply(t, fsyscall.KindCall, fsyscall.OpBarrier, tag+1, &fsyscall.Empty{}); err != nil || !bytes.Equal(m, want) {
			t.Fatalf("call %d: %x, %v", tag, m, err)
		}
	}
	if n := out.writes.Load(); n > calls/100 {
		t.Errorf("%d calls took %d writes", calls, n)
	}
}

func TestSplice(t *testing.T) {
	server, service, _, done := spliced(t)
	call := reply(t, fsyscall.KindCall, fsyscall.OpBarrier, 1, &fsyscall.Empty{})
	for _, id := range []uint32{fsyscall.StreamCalls, fsyscall.StreamOrdered} {
		if err := server.Stream(id).WriteMessage(call); err != nil {
			t.Fatal(err)
		}
		if m, err := service.ReadMessage(nil); !bytes.Equal(m, call) || err != nil {
			t.Fatalf("%x, %v", m, err)
		}
	}
	data := func(n int) *fsyscall.Data { return &fsyscall.Data{Data: make([]byte, n)} }
	for _, c := range []struct {
		m  []byte
		to uint32
	}{
		{reply(t, fsyscall.KindReply, fsyscall.OpRead, 1, data(10)), fsyscall.StreamCalls},
		{reply(t, fsyscall.KindReply, fsyscall.OpRead, 2, data(smallReply)), fsyscall.StreamBulk},
		{reply(t, fsyscall.KindMore, fsyscall.OpList, 3, &fsyscall.ListReply{}), fsyscall.StreamBulk},
		{reply(t, fsyscall.KindReply, fsyscall.OpList, 4, &fsyscall.ListReply{}), fsyscall.StreamCalls},
		{reply(t, fsyscall.KindMore, fsyscall.OpList, 3, &fsyscall.ListReply{}), fsyscall.StreamBulk},
		{reply(t, fsyscall.KindReply, fsyscall.OpList, 3, &fsyscall.ListReply{}), fsyscall.StreamBulk},
		{reply(t, fsyscall.KindReply, fsyscall.OpList, 3, &fsyscall.ListReply{}), fsyscall.StreamCalls},
		{reply(t, fsyscall.KindNotice, fsyscall.OpRevoke, 0, &fsyscall.Revoke{}), fsyscall.StreamCalls},
	} {
		if err := service.WriteMessage(c.m); err != nil {
			t.Fatal(err)
		}
		if m, err := server.Stream(c.to).ReadMessage(nil); !bytes.Equal(m, c.m) || err != nil {
			t.Fatalf("%x, %v", m, err)
		}
	}
	server.Stream(fsyscall.StreamCalls).CloseWrite()
	server.Stream(fsyscall.StreamOrdered).CloseWrite()
	if _, err := service.ReadMessage(nil); err != io.EOF {
		t.Fatal(err)
	}
	// A last answer after the last call still arrives.
	last := reply(t, fsyscall.KindReply, fsyscall.OpRead, 9, data(1))
	if err := service.WriteMessage(last); err != nil {
		t.Fatal(err)
	}
	service.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if m, err := server.Stream(fsyscall.StreamCalls).ReadMessage(nil); !bytes.Equal(m, last) || err != nil {
		t.Fatalf("%x, %v", m, err)
	}
	if _, err := server.Stream(fsyscall.StreamCalls).ReadMessage(nil); err != io.EOF {
		t.Fatal(err)
	}
}

// TestSpliceOvertakes: a small reply does not wait for large ones before it
// that nobody reads.
func TestSpliceOvertakes(t *testing.T) {
	server, service, _, _ := spliced(t)
	large := reply(t, fsyscall.KindReply, fsyscall.OpRead, 1, &fsyscall.Data{Data: make([]byte, fsyscall.MaxData)})
	small := reply(t, fsyscall.KindReply, fsyscall.OpRead, 2, &fsyscall.Data{})
	go func() {
		for range 24 { // the stream's window and half of the backlog
			service.WriteMessage(large)
		}
		service.WriteMessage(small)
	}()
	if m, err := server.Stream(fsyscall.StreamCalls).ReadMessage(nil); !bytes.Equal(m, small) || err != nil {
		t.Fatalf("%x, %v", m, err)
	}
	for range 24 {
		if m, err := server.Stream(fsyscall.StreamBulk).ReadMessage(nil); len(m) != len(large) || err != nil {
			t.Fatal(len(m), err)
		}
	}
}

func TestSpliceEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(server *Link, raw net.Conn)
		want error
	}{
		{"file service dies", func(_ *Link, raw net.Conn) { raw.Close() }, nil}, // EOF, EPIPE or ECONNRESET
		{"file service sends garbage", func(_ *Link, raw net.Conn) { raw.Write([]byte("\x02\x00\x00\x00no")) }, fsyscall.ErrMalformed},
		{"file service sends an absurd length", func(_ *Link, raw net.Conn) { raw.Write([]byte("\xff\xff\xff\xff")) }, ErrTooLong},
		{"link is closed", func(server *Link, _ net.Conn) { server.Close() }, ErrClosed},
		{"link is aborted", func(server *Link, _ net.Conn) { server.Abort(nil) }, ErrAborted},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, service, raw, done := spliced(t)
			// Both sides are full when it happens.
			for _, id := range []uint32{fsyscall.StreamCalls, fsyscall.StreamOrdered} {
				go func() {
					for server.Stream(id).WriteMessage(make([]byte, 1<<20)) == nil {
					}
				}()
			}
			if c.name != "file service sends garbage" && c.name != "file service sends an absurd length" {
				m := reply(t, fsyscall.KindReply, fsyscall.OpRead, 1, &fsyscall.Data{Data: make([]byte, fsyscall.MaxData)})
				go func() {
					for service.WriteMessage(m) == nil {
					}
				}()
			}
			eventually(t, "calls go through", func() bool { return server.Stats().BytesOut > 4<<20 })
			c.end(server, raw)
			err := <-done
			if c.want != nil && !errors.Is(err, c.want) || c.want == nil && !strings.HasPrefix(fmt.Sprint(err), "file service: ") {
				t.Fatal(err)
			}
		})
	}
}

// TestPipesOfStdio runs this test's program as a child that speaks the link on
// its standard input and output, over pipes and over one socket for both.
func TestPipesOfStdio(t *testing.T) {
	if os.Getenv("RELAY_TEST_CHILD") != "" {
		fmt.Fprintln(os.Stderr, childLink())
		os.Exit(0)
	}
	for _, socket := range []bool{false, true} {
		t.Run(fmt.Sprint("socket ", socket), func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run", "^TestPipesOfStdio$")
			cmd.Env = append(os.Environ(), "RELAY_TEST_CHILD=1")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			var ours io.ReadWriteCloser
			if socket {
				x, y := socketpair(t)
				f, err := y.(*net.UnixConn).File()
				if err != nil {
					t.Fatal(err)
				}
				y.Close()
				defer f.Close()
				cmd.Stdin, cmd.Stdout, ours = f, f, x
			} else {
				r1, w1, err1 := os.Pipe()
				r2, w2, err2 := os.Pipe()
				p, err3 := NewPipes(r1, w2)
				if err := errors.Join(err1, err2, err3); err != nil {
					t.Fatal(err)
				}
				defer w1.Close()
				defer r2.Close()
				cmd.Stdin, cmd.Stdout, ours = r2, w1, p
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			l := New(ours, Config{})
			if m, err := l.Stream(0).ReadMessage(nil); string(m) != "hello" || err != nil {
				t.Errorf("%q, %v", m, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil || stderr.String() != "<nil>\n" {
				t.Errorf("child: %v, %q", err, stderr.String())
			}
		})
	}
}

func childLink() error {
	p, err := NewPipes(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Println("this goes to /dev/null, not into the link")
	l := New(p, Config{})
	if err := l.Stream(0).WriteMessage([]byte("hello")); err != nil {
		return err
	}
	return l.Wait()
}

// TestQueueMessage: the answers to messages that came together leave together,
// and none waits while the reader does.
func TestQueueMessage(t *testing.T) {
	x, y, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var out bytes.Buffer
	w := &writes{ReadWriter: &out}
	c := NewMessageConn(struct {
		io.Reader
		io.Writer
	}{x, w})
	send := func(messages ...string) {
		t.Helper()
		var all []byte
		for _, m := range messages {
			all = append(all, byte(len(m)), 0, 0, 0)
			all = append(all, m...)
		}
		if _, err := y.Write(all); err != nil {
			t.Fatal(err)
		}
	}
	read := func(want string) {
		t.Helper()
		if m, err := c.ReadMessage(nil); err != nil || string(m) != want {
			t.Fatalf("%q, %v", m, err)
		}
	}
	answer := func(m string, writes int) {
		t.Helper()
		if err := c.QueueMessage([]byte(m)); err != nil || w.n != writes {
			t.Fatalf("%s: %d writes, %v", m, w.n, err)
		}
	}
	send("a", "b", "c", "notice")
	read("a")
	answer("A", 0)
	read("b")
	answer("B", 0)
	read("c")
	answer("C", 0)
	read("notice") // has no answer
	done := make(chan struct{})
	go func() {
		defer close(done)
		read("d") // must not wait with the answers kept
		answer("D", 2)
	}()
	for deadline := time.Now().Add(10 * time.Second); c.late.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("answers wait for the next message")
		}
	}
	send("d")
	<-done
	if got, want := out.String(), "\x01\x00\x00\x00A\x01\x00\x00\x00B\x01\x00\x00\x00C\x01\x00\x00\x00D"; got != want {
		t.Errorf("%q", got)
	}
}
