package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// socketpair returns two connected sockets.
func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) net.Conn {
		f := os.NewFile(uintptr(fd), "socketpair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return conn(fds[0]), conn(fds[1])
}

// pipes returns two ends joined by two pipes, as a child's standard input and
// output are.
func pipes(t testing.TB) (a, b io.ReadWriteCloser) {
	t.Helper()
	ends := make([]*os.File, 4)
	for i := 0; i < 4; i += 2 {
		var p [2]int
		if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		// As inherited: blocking.
		ends[i], ends[i+1] = os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
	}
	x, err := NewPipes(ends[0], ends[3])
	if err != nil {
		t.Fatal(err)
	}
	y, err := NewPipes(ends[2], ends[1])
	if err != nil {
		t.Fatal(err)
	}
	return x, y
}

var transports = map[string]func(testing.TB) (a, b io.ReadWriteCloser){
	"net.Pipe": func(testing.TB) (a, b io.ReadWriteCloser) { return net.Pipe() },
	"socketpair": func(t testing.TB) (a, b io.ReadWriteCloser) {
		x, y := socketpair(t)
		return x, y
	},
	"pipes": pipes,
}

func TestTransports(t *testing.T) {
	for name, make2 := range transports {
		t.Run(name, func(t *testing.T) {
			x, y := make2(t)
			a, b := start(t, x, y, Config{})
			echoed(t, a, b, 3, 8)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// echoed sends random messages from a to b and back on a stream, and ends it.
func echoed(t *testing.T, a, b *Link, id uint32, count int) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, uint64(id)))
	msgs := make([][]byte, count)
	for i := range msgs {
		msgs[i] = make([]byte, r.IntN(MaxMessage))
		for j := range msgs[i] {
			msgs[i][j] = byte(r.Uint32())
		}
	}
	go func() {
		for _, m := range msgs {
			a.Stream(id).WriteMessage(m)
		}
		a.Stream(id).CloseWrite()
	}()
	go func() {
		defer b.Stream(id).CloseWrite()
		for {
			m, err := b.Stream(id).ReadMessage(nil)
			if err != nil || b.Stream(id).WriteMessage(m) != nil {
				return
			}
		}
	}()
	for i, want := range msgs {
		m, err := a.Stream(id).ReadMessage(nil)
		if err != nil || !bytes.Equal(m, want) {
			t.Fatalf("message %d: %d bytes of %d, %v", i, len(m), len(want), err)
		}
	}
	if _, err := a.Stream(id).ReadMessage(nil); err != io.EOF {
		t.Fatal(err)
	}
}

// TestStriped sends over attached paths of different delays, so that frames
// overtake each other.
func TestStriped(t *testing.T) { synctest.Test(t, testStriped) }

func testStriped(t *testing.T) {
	x, y := newWAN(1e9, 2*time.Millisecond, 1<<20)
	a, b := start(t, x, y, Config{})
	for i := range 3 {
		x, y := newWAN(1e9, time.Duration(1+7*i)*time.Millisecond, 1<<20)
		if err := errors.Join(a.Attach(x), b.Attach(y)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(30 * time.Millisecond)
	echoed(t, a, b, 3, 20)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestStripedClose: Close waits for what went over attached paths.
func TestStripedClose(t *testing.T) { synctest.Test(t, testStripedClose) }

func testStripedClose(t *testing.T) {
	x, y := newWAN(1e9, 0, 1<<20)
	a, b := start(t, x, y, Config{})
	slow, slower := newWAN(1e9, 60*time.Millisecond, 1<<20)
	if err := errors.Join(a.Attach(slow), b.Attach(slower)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the path is up", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.paths[1].up
	})
	a.Stream(3).WriteMessage([]byte("the last word"))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if m, err := b.Stream(3).ReadMessage(nil); string(m) != "the last word" || err != nil {
		t.Fatalf("%q, %v", m, err)
	}
}

// TestAttachedDies cuts attached paths while they carry data: nothing is lost
// and nothing comes twice.
func TestAttachedDies(t *testing.T) { synctest.Test(t, testAttachedDies) }

func testAttachedDies(t *testing.T) {
	x, y := net.Pipe()
	a, b := start(t, x, y, Config{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; ; i++ {
			x, y := newWAN(1e9, time.Millisecond, 256<<10)
			a.Attach(x)
			b.Attach(y)
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+i%20) * time.Millisecond):
			}
			if i%2 == 0 {
				x.Close()
			} else {
				y.Close()
			}
		}
	}()
	for id := range uint32(4) {
		echoed(t, a, b, 100+id, 15)
	}
	close(stop)
	wg.Wait()
	if err := errors.Join(a.Err(), b.Err(), a.Close(), b.Wait()); err != nil {
		t.Fatal(err)
	}
}

// TestAttachGarbage: what comes in place of a preamble, or instead of the rest
// of one, is no peer's and costs the byte stream only.
func TestAttachGarbage(t *testing.T) {
	good := string(preamble{Version, roleAttached, 0}.append(nil))
	for name, first := range map[string]string{
		"text":         "motd",
		"nothing":      "",
		"half":         good[:9],
		"a first one":  string(preamble{Version, roleFirst, 0}.append(nil)),
		"version":      string(preamble{Version + 1, roleAttached, 0}.append(nil)),
		"a role later": string(preamble{Version, roleAttached + 1, 0}.append(nil)),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, Config{})
			x, y := net.Pipe()
			if err := a.Attach(x); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(y, make([]byte, preambleSize)); err != nil {
				t.Fatal(err)
			}
			io.WriteString(y, first)
			y.Close()
			eventually(t, "the byte stream is gone", func() bool { return a.Stats().Paths == 1 })
			echoed(t, a, b, 3, 2)
			if s := a.Stats(); s.Attached != 0 || s.Striped != 0 {
				t.Fatal(s)
			}
		})
	}
}

// TestAttachBroken: a peer that breaks the rules on an attached byte stream is
// the link's own peer.
func TestAttachBroken(t *testing.T) {
	a, _ := pair(t, Config{})
	x, y := net.Pipe()
	a.Attach(x)
	go io.Copy(io.Discard, y)
	y.Write(preamble{Version, roleAttached, 0}.append(nil))
	var ping [headerSize + 8]byte
	header{length: 8, typ: typePing}.put(ping[:])
	y.Write(ping[:])
	if err := a.Wait(); !errors.Is(err, ErrProtocol) {
		t.Fatal(err)
	}
	if err := a.Attach(x); !errors.Is(err, ErrProtocol) {
		t.Fatal(err)
	}
}

// TestStripedStats: what went over attached byte streams is counted at both
// ends, and Bulk tells when it is much.
func TestStripedStats(t *testing.T) {
	x, y := socketpair(t)
	a, b := start(t, x, y, Config{})
	far := a.Bulk(8 << 20)
	if s := a.Stats(); s.Striped != 0 || s.Attached != 0 {
		t.Fatal(s)
	}
	x, y = socketpair(t)
	if err := errors.Join(a.Attach(x), b.Attach(y)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the path is up", func() bool { return a.Stats().Attached == 1 && b.Stats().Attached == 1 })
	near := b.Bulk(1 << 20)
	msg := make([]byte, MaxMessage)
	done := make(chan error, 1)
	go func() { done <- a.Stream(3).WriteMessage(msg) }()
	if _, err := b.Stream(3).ReadMessage(nil); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	select {
	case <-near:
	case <-time.After(10 * time.Second):
		t.Fatal("a whole message is much")
	}
	select {
	case <-far:
		t.Fatal("one message is not that much")
	default:
	}
	for _, l := range []*Link{a, b} {
		if n := l.Stats().Striped; n < MaxMessage || n > MaxMessage+MaxMessage/100 {
			t.Fatalf("%d bytes striped", n)
		}
	}
}

// TestPing: the round trip can be measured again, and the shortest is kept.
func TestPing(t *testing.T) {
	a, _ := pair(t, Config{})
	eventually(t, "a first round trip", func() bool { return a.Stats().RTT > 0 })
	for range 20 {
		before := a.Stats().FramesIn
		a.Ping()
		eventually(t, "an answer", func() bool { return a.Stats().FramesIn > before })
		if s := a.Stats(); s.MinRTT <= 0 || s.MinRTT > s.RTT {
			t.Fatal(s)
		}
	}
}

// cutter passes a number of bytes, then fails.
type cutter struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	c.mu.Lock()
	n := min(c.left, len(b))
	c.left -= n
	c.mu.Unlock()
	if n < len(b) {
		c.Conn.Write(b[:n])
		c.Conn.Close()
		return n, errors.New("cut")
	}
	return c.Conn.Write(b)
}

// TestCut cuts the byte stream at random points: both ends must notice, and
// every reader and writer must get the link's error.
func TestCut(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		x, y := socketpair(t)
		a, b := New(&cutter{Conn: x, left: r.IntN(1 << r.IntN(24))}, Config{}), New(y, Config{})
		var wg sync.WaitGroup
		for _, l := range []*Link{a, b} {
			for _, id := range []uint32{0, 3, 16} {
				wg.Add(2)
				go func() {
					defer wg.Done()
					var err error
					for err == nil {
						err = l.Stream(id).WriteMessage(make([]byte, 50_000))
					}
					if !errors.Is(err, ErrLost) {
						t.Error(err)
					}
				}()
				go func() {
					defer wg.Done()
					var err error
					for err == nil {
						_, err = l.Stream(id).ReadMessage(nil)
					}
					if !errors.Is(err, ErrLost) {
						t.Error(err)
					}
				}()
			}
		}
		wg.Wait()
		for _, l := range []*Link{a, b} {
			if err := l.Wait(); !errors.Is(err, ErrLost) {
				t.Fatal(err)
			}
			if err := l.Close(); !errors.Is(err, ErrLost) {
				t.Fatal(err)
			}
		}
	}
}

// TestNoGoroutineLeft ends links in every way and counts.
func TestNoGoroutineLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	for i := range 60 {
		x, y := socketpair(t)
		a, b := New(x, Config{}), New(y, Config{})
		if i%2 == 0 {
			x, y := socketpair(t)
			a.Attach(x)
			b.Attach(y)
		}
		blocked := make(chan error, 2)
		go func() {
			_, err := a.Stream(16).Read(make([]byte, 1))
			blocked <- err
		}()
		go func() {
			_, err := b.Stream(17).Write(make([]byte, 4<<20))
			blocked <- err
		}()
		switch i % 5 {
		case 0:
			a.Close()
		case 1:
			go a.Close()
			b.Close()
		case 2:
			a.Abort(errors.New("enough"))
		case 3:
			x.Close()
		case 4:
			y.Write([]byte("between two frames, or within one"))
			x.Close()
		}
		a.Wait()
		b.Wait()
		for range 2 {
			if err := <-blocked; err == nil {
				t.Error("no error")
			}
		}
	}
	eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}

// TestBothClose closes both ends at once, over and over: neither may see a
// loss.
func TestBothClose(t *testing.T) {
	for name, make2 := range transports {
		for range 50 {
			x, y := make2(t)
			a, b := New(x, Config{}), New(y, Config{})
			a.Stream(0).WriteMessage([]byte("hello"))
			done := make(chan error, 1)
			go func() { done <- a.Close() }()
			if err := errors.Join(b.Close(), <-done); err != nil {
				t.Fatal(name, err)
			}
		}
	}
}

func BenchmarkMessages(b *testing.B) {
	for _, size := range []int{1 << 20, 64 << 10, 1 << 10} {
		for _, name := range []string{"net.Pipe", "socketpair", "pipes"} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				x, y := transports[name](b)
				l, m := start(b, x, y, Config{})
				benchmarkMessages(b, l, m, size)
			})
		}
	}
}

// BenchmarkCompressAllowed shows what it costs where it does not pay.
func BenchmarkCompressAllowed(b *testing.B) {
	msg := []byte(strings.Repeat("some text that could be compressed; ", 30_000))
	for i := 0; i < len(msg); i += 17 {
		msg[i] = byte(i * 31 >> 3)
	}
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprint(on), func(b *testing.B) {
			x, y := socketpair(b)
			l, m := start(b, x, y, Config{Compress: on})
			benchmarkMessage(b, l, m, msg)
			b.ReportMetric(float64(l.Stats().Plain)/float64(b.N*len(msg)), "compressed/plain")
		})
	}
}

// BenchmarkRoundTrip is a small call and its answer.
func BenchmarkRoundTrip(b *testing.B) {
	x, y := socketpair(b)
	l, m := start(b, x, y, Config{})
	go func() {
		var buf []byte
		for {
			msg, err := m.Stream(1).ReadMessage(buf)
			if err != nil || m.Stream(1).WriteMessage(msg) != nil {
				return
			}
			buf = msg
		}
	}()
	msg := []byte(strings.Repeat("x", 100))
	b.ReportAllocs()
	s := l.Stream(1)
	var buf []byte
	for range b.N {
		if err := s.WriteMessage(msg); err != nil {
			b.Fatal(err)
		}
		var err error
		if buf, err = s.ReadMessage(buf); err != nil {
			b.Fatal(err)
		}
	}
}
