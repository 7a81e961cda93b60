package relay

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// rawPeer is the other end of a link, frame by frame.
type rawPeer struct {
	t    *testing.T
	conn net.Conn
}

func newRawPeer(t *testing.T, cfg Config) (*Link, *rawPeer) {
	t.Helper()
	x, y := net.Pipe()
	l := New(x, cfg)
	t.Cleanup(func() {
		y.Close()
		l.Abort(errors.New("test over"))
		l.Wait()
	})
	p := &rawPeer{t, y}
	go io.Copy(io.Discard, y)
	p.write(string(preamble{Version, roleFirst, 0}.append(nil)))
	return l, p
}

func (p *rawPeer) write(s string) {
	p.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	p.conn.Write([]byte(s)) // the link may hang up at any byte
}

func (p *rawPeer) frame(typ frameType, flags uint8, stream uint32, seq uint64, payload string) {
	var b [headerSize]byte
	header{uint32(len(payload)), typ, flags, stream, seq}.put(b[:])
	p.write(string(b[:]) + payload)
}

func u64(v uint64) string { return string(binary.LittleEndian.AppendUint64(nil, v)) }

func TestViolations(t *testing.T) {
	long := strings.Repeat("x", 4096)
	for _, c := range []struct {
		name string
		want string
		do   func(*rawPeer)
	}{
		{"unknown type", "frame of unknown type 9", func(p *rawPeer) { p.frame(9, 0, 0, 0, "") }},
		{"absurd length", "data frame of 4294967295 bytes where 65516 are allowed", func(p *rawPeer) {
			p.write("\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		}},
		{"window", "stream 7: 512 bytes beyond its window", func(p *rawPeer) {
			for seq := range uint64(3) {
				p.frame(typeData, 0, 7, seq, long)
			}
		}},
		{"many empty frames", "stream 7: frame 32 while waiting for 32 is outside the window", func(p *rawPeer) {
			for seq := range uint64(40) {
				p.frame(typeData, 0, 7, seq, "")
			}
		}},
		{"number outside the window", "stream 7: frame 40 while waiting for 0 is outside the window", func(p *rawPeer) { p.frame(typeData, 0, 7, 40, "x") }},
		{"data after the end", "stream 7: frame 1 after its end", func(p *rawPeer) {
			p.frame(typeData, flagFin, 7, 0, "")
			p.frame(typeData, 0, 7, 1, "x")
		}},
		{"end before data", "stream 7: end before frame 2", func(p *rawPeer) {
			p.frame(typeData, 0, 7, 2, "x")
			p.frame(typeData, flagFin, 7, 1, "")
		}},
		{"streams nobody wants", "stream 104: more than 4 streams that nobody asked for", func(p *rawPeer) {
			for id := range uint32(5) {
				p.frame(typeData, 0, 100+id, 0, "x")
			}
		}},
		{"ack of nothing", "stream 5: frame 8 acknowledged, which was never sent", func(p *rawPeer) { p.frame(typeCredit, 0, 5, 9, u64(1<<20)) }},
		{"credit taken back", "stream 5: credit taken back", func(p *rawPeer) { p.frame(typeCredit, 0, 5, 0, u64(1)) }},
		{"credit for nothing", "stream 6: credit for a stream that was never used", func(p *rawPeer) { p.frame(typeCredit, 0, 6, 0, u64(1<<20)) }},
		{"pong", "answer to a ping that was not sent", func(p *rawPeer) { p.frame(typePong, 0, 0, 0, u64(1)) }},
		{"bye with a text", "a reason for an end in good order", func(p *rawPeer) { p.frame(typeBye, 0, 0, 0, "\x00why") }},
		{"wrong role", "byte stream of role 1 where 0 was expected", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Window: func(uint32) int { return MinWindow }, MaxUnclaimed: 4}
			var l *Link
			if c.do == nil {
				x, y := net.Pipe()
				l = New(x, cfg)
				go io.Copy(io.Discard, y)
				go y.Write(preamble{Version, roleAttached, 0}.append(nil))
			} else {
				var p *rawPeer
				l, p = newRawPeer(t, cfg)
				l.Stream(5)
				c.do(p)
			}
			select {
			case <-l.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("the link goes on")
			}
			if err := l.Wait(); !errors.Is(err, ErrProtocol) || !strings.HasSuffix(err.Error(), c.want) {
				t.Fatalf("%v, want %s", err, c.want)
			}
		})
	}
}

func TestTooManyStreams(t *testing.T) {
	l, p := newRawPeer(t, Config{MaxStreams: 3, MaxUnclaimed: 3})
	for id := range uint32(3) {
		l.Stream(id)
	}
	p.frame(typeData, 0, 9, 0, "x")
	if err := l.Wait(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "more than 3 streams") {
		t.Fatal(err)
	}
}

func TestTooLongMessage(t *testing.T) {
	l, p := newRawPeer(t, Config{})
	go func() {
		for seq := range uint64(MaxMessage/MaxPayload + 1) {
			p.frame(typeData, flagMore, 3, seq, strings.Repeat("x", MaxPayload))
		}
	}()
	if _, err := l.Stream(3).ReadMessage(nil); !errors.Is(err, ErrProtocol) {
		t.Fatal(err)
	}
	if err := l.Stream(3).WriteMessage(make([]byte, MaxMessage+1)); !errors.Is(err, ErrTooLong) {
		t.Fatal(err)
	}
}

// TestTellsPeer: the end that is broken learns why.
func TestTellsPeer(t *testing.T) {
	a, b := pair(t, Config{})
	a.Abort(errors.New("disk on fire\n"))
	if err := b.Wait(); !errors.Is(err, ErrAborted) || !strings.Contains(err.Error(), `"disk on fire\n"`) {
		t.Fatal(err)
	}
	if err := a.Wait(); err == nil || err.Error() != "disk on fire\n" {
		t.Fatal(err)
	}
}

func TestWrongVersion(t *testing.T) {
	x, y := net.Pipe()
	l := New(x, Config{})
	go io.Copy(io.Discard, y)
	go y.Write(preamble{Version + 1, roleFirst, 0}.append(nil))
	if err := l.Wait(); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
}

func TestNotNexec(t *testing.T) {
	for in, want := range map[string]string{
		"Last login: Mon\x1b[2J\n":       `"Last login: Mon\x1b[2J\n"`,
		"\xcenexec\n":                    `"\xcenexec\n"`,
		strings.Repeat("spam", 40) + "!": `spamspam"…`,
	} {
		l := New(deaf{strings.NewReader(in)}, Config{})
		if err := l.Wait(); !errors.Is(err, ErrNotNexec) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestSilentPeer(t *testing.T) { synctest.Test(t, testSilentPeer) }

func testSilentPeer(t *testing.T) {
	x, y := net.Pipe()
	go io.Copy(io.Discard, y)
	l := New(x, Config{KeepaliveInterval: 20 * time.Millisecond, KeepaliveTimeout: 40 * time.Millisecond})
	if err := l.Wait(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "no sign of life") {
		t.Fatal(err)
	}
}

func TestKeepalive(t *testing.T) { synctest.Test(t, testKeepalive) }

func testKeepalive(t *testing.T) {
	const rtt = 4 * time.Second // no reason to take the other end for dead
	x, y := newWAN(1e6, rtt, 1<<20)
	a, b := start(t, x, y, Config{})
	time.Sleep(10 * time.Minute)
	if a.Err() != nil || b.Err() != nil {
		t.Fatal(a.Err(), b.Err())
	}
	if s := a.Stats(); s.RTT < rtt || s.RTT > rtt+rtt/100 || s.FramesIn < 10 || s.FramesIn > 200 {
		t.Fatalf("%+v", s)
	}
}

func TestCloseToDeafPeer(t *testing.T) { synctest.Test(t, testCloseToDeafPeer) }

func testCloseToDeafPeer(t *testing.T) {
	x, y := net.Pipe()
	defer y.Close()
	l := New(x, Config{CloseTimeout: 50 * time.Millisecond})
	go l.Stream(3).WriteMessage(make([]byte, 1<<20))
	if err := l.Close(); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
}
