package relay

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

var frameCases = []struct {
	name  string
	h     header
	bytes string
}{
	{"data", header{5, typeData, flagMore, 0x03, 0x0102}, "\x05\x00\x00\x00\x01\x01\x00\x00\x03\x00\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00"},
	{"longest data", header{MaxPayload, typeData, flagZstd, 1 << 31, 1<<64 - 2}, "\xec\xff\x00\x00\x01\x04\x00\x00\x00\x00\x00\x80\xfe\xff\xff\xff\xff\xff\xff\xff"},
	{"fin", header{0, typeData, flagFin, 16, 1}, "\x00\x00\x00\x00\x01\x02\x00\x00\x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"},
	{"credit", header{8, typeCredit, 0, 2, 7}, "\x08\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"},
	{"stop", header{0, typeStop, 0, 17, 0}, "\x00\x00\x00\x00\x03\x00\x00\x00\x11\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	{"ping", header{8, typePing, 0, 0, 0}, "\x08\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	{"pong", header{8, typePong, 0, 0, 0}, "\x08\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	{"bye", header{1, typeBye, 0, 0, 0}, "\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
}

func TestHeaderBytes(t *testing.T) {
	for _, c := range frameCases {
		var b [headerSize]byte
		c.h.put(b[:])
		if string(b[:]) != c.bytes {
			t.Errorf("%s: % x, want % x", c.name, b, c.bytes)
		}
		if h, err := parseHeader([]byte(c.bytes)); h != c.h || err != nil {
			t.Errorf("%s: %+v, %v", c.name, h, err)
		}
	}
}

func TestHeaderRefused(t *testing.T) {
	for name, h := range map[string]header{
		"type 0":                  {0, 0, 0, 0, 0},
		"type 7":                  {0, 7, 0, 0, 0},
		"long data":               {MaxPayload + 1, typeData, 0, 0, 0},
		"absurd length":           {1<<32 - 1, typeData, 0, 0, 0},
		"unknown flag":            {1, typeData, 16, 0, 0},
		"fin with payload":        {1, typeData, flagFin, 0, 0},
		"fin and more":            {0, typeData, flagFin | flagMore, 0, 0},
		"compressed nothing":      {0, typeData, flagZstd, 0, 0},
		"last number":             {1, typeData, 0, 0, 1<<64 - 1},
		"short credit":            {7, typeCredit, 0, 0, 0},
		"credit with flag":        {8, typeCredit, 1, 0, 0},
		"stop with payload":       {1, typeStop, 0, 0, 0},
		"stop with number":        {0, typeStop, 0, 0, 1},
		"ping on a stream":        {8, typePing, 0, 1, 0},
		"long pong":               {9, typePong, 0, 0, 0},
		"bye without payload":     {0, typeBye, 0, 0, 0},
		"bye with a long text":    {2 + maxReason, typeBye, 0, 0, 0},
		"bye with a stream":       {1, typeBye, 0, 9, 0},
		"credit with long length": {1 << 20, typeCredit, 0, 0, 0},
	} {
		var b [headerSize]byte
		h.put(b[:])
		if _, err := parseHeader(b[:]); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseHeader([]byte("\x01\x00\x00\x00\x01\x00\x01\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")); !errors.Is(err, ErrProtocol) {
		t.Error("reserved byte accepted")
	}
}

func TestPreambleBytes(t *testing.T) {
	p := preamble{Version, roleAttached, preambleZstd}
	const want = "\xcenexec\r\n\x01\x00\x01\x01\x00\x00\x00\x00"
	if got := string(p.append(nil)); got != want {
		t.Errorf("%q", got)
	}
	if got, err := parsePreamble([]byte(want)); got != p || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// decodeStream decodes a byte stream as a path does and returns what it would
// be when encoded again, and how much of the input that stands for.
func decodeStream(b []byte) (out []byte, used int) {
	if len(b) < preambleSize {
		return nil, 0
	}
	p, err := parsePreamble(b[:preambleSize])
	if err != nil {
		return nil, 0
	}
	out, used = p.append(out), preambleSize
	for len(b)-used >= headerSize {
		h, err := parseHeader(b[used : used+headerSize])
		end := used + headerSize + int(h.length)
		if err != nil || end > len(b) {
			return out, used
		}
		var hb [headerSize]byte
		h.put(hb[:])
		out = append(append(out, hb[:]...), b[used+headerSize:end]...)
		used = end
	}
	return out, used
}

// FuzzFrames holds the decoder to the law that what it accepts encodes to the
// same bytes again.
func FuzzFrames(f *testing.F) {
	for _, seed := range linkSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, used := decodeStream(b)
		if !bytes.Equal(out, b[:used]) {
			t.Fatalf("% x became % x", b[:used], out)
		}
	})
}

// linkSeeds are byte streams that a link may be fed: what a real one sent, and
// each frame by itself.
func linkSeeds() [][]byte {
	open := preamble{Version, roleFirst, 0}.append(nil)
	seeds := [][]byte{nil, open, preamble{Version, roleAttached, preambleZstd}.append(nil), []byte("Last login: yesterday\n")}
	for _, c := range frameCases {
		seeds = append(seeds, append(append(append([]byte(nil), open...), c.bytes...), make([]byte, min(c.h.length, 64))...))
	}
	all := append([]byte(nil), open...)
	for _, c := range []struct {
		h header
		p string
	}{
		{header{3, typeData, 0, 16, 1}, "two"},
		{header{3, typeData, flagMore, 16, 0}, "one"},
		{header{0, typeData, flagFin, 16, 2}, ""},
		{header{8, typePing, 0, 0, 0}, "pingping"},
		{header{0, typeStop, 0, 17, 0}, ""},
		{header{8, typeCredit, 0, 16, 0}, "\x00\x00\x05\x00\x00\x00\x00\x00"},
		{header{1, typeBye, 0, 0, 0}, "\x00"},
	} {
		var hb [headerSize]byte
		c.h.put(hb[:])
		all = append(append(all, hb[:]...), c.p...)
	}
	return append(seeds, all)
}

// deaf is a byte stream with a fixed input that takes any output.
type deaf struct{ io.Reader }

func (deaf) Write(b []byte) (int, error) { return len(b), nil }
func (deaf) Close() error                { return nil }

// FuzzLink feeds a whole link: it must end, and what it holds must stay within
// its windows.
func FuzzLink(f *testing.F) {
	for _, seed := range linkSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := New(deaf{bytes.NewReader(b)}, Config{
			Window:            func(uint32) int { return MinWindow },
			KeepaliveInterval: -1, MaxStreams: 8, MaxUnclaimed: 4, Compress: true,
		})
		s := l.Stream(16)
		s.WriteMessage(make([]byte, 100))
		s.Close()
		select {
		case <-l.Done():
		case <-time.After(5 * time.Second):
			t.Fatal("the link goes on")
		}
		held := 0
		for _, s := range l.streams {
			for f := s.recvQ.head; f != nil; f = f.next {
				held += len(f.buf)
			}
		}
		if held > 8*MinWindow {
			t.Fatalf("%d bytes held", held)
		}
		_, err := l.Stream(18).ReadMessage(nil)
		if err == nil && l.Err() == nil && !bytes.Contains(b, []byte{byte(typeBye)}) {
			t.Fatal("ended in good order without a bye")
		}
	})
}

func TestReadPreambleStopsEarly(t *testing.T) {
	x, y := io.Pipe()
	l := New(deaf{x}, Config{KeepaliveInterval: -1})
	go y.Write([]byte("$ "))
	err := l.Wait()
	if !errors.Is(err, ErrNotNexec) || !bytes.Contains([]byte(err.Error()), []byte(`"$ "`)) {
		t.Fatal(err)
	}
}
