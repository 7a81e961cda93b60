package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestCompression(t *testing.T) {
	text := new(bytes.Buffer)
	for i := range 50_000 {
		fmt.Fprintf(text, "line %d of a file that compresses well enough\n", i*7919)
	}
	noise := make([]byte, text.Len())
	r := rand.New(rand.NewPCG(5, 5))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, c := range []struct {
		name  string
		data  []byte
		there bool
		want  bool
	}{
		{"text", text.Bytes(), true, true},
		{"noise", noise, true, false},
		{"text, not allowed there", text.Bytes(), false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := newWAN(2.5e6, 5*time.Millisecond, 64<<10)
				a, b := New(x, Config{Compress: true}), New(y, Config{Compress: c.there})
				go func() {
					for d := c.data; len(d) > 0; d = d[min(len(d), 300_000):] {
						if a.Stream(16).WriteMessage(d[:min(len(d), 300_000)]) != nil {
							return
						}
					}
					a.Stream(16).CloseWrite()
				}()
				var got []byte
				for {
					m, err := b.Stream(16).ReadMessage(nil)
					if err == io.EOF {
						break
					} else if err != nil {
						t.Fatal(err)
					}
					got = append(got, m...)
				}
				if !bytes.Equal(got, c.data) {
					t.Fatal("not what was sent")
				}
				s := a.Stats()
				if c.want != (s.BytesOut < uint64(len(c.data)*3/4)) || c.want != (s.Plain > 0) {
					t.Errorf("%d bytes took %d; %d became %d", len(c.data), s.BytesOut, s.Plain, s.Compressed)
				}
				if err := errors.Join(a.Close(), b.Wait()); err != nil {
					t.Fatal(err)
				}
				s = a.Stats()
				if r := b.Stats(); s.PlainOut() < uint64(len(c.data)) || r.PlainIn() != s.PlainOut() || r.BytesIn != s.BytesOut || c.want != (s.PlainOut() > s.BytesOut) {
					t.Errorf("sent %d bytes, without compression %d; received %d, %d", s.BytesOut, s.PlainOut(), r.BytesIn, r.PlainIn())
				}
			})
		})
	}
}

// TestPays: compression is on where the link is what data waits for, and off
// where the link is faster, the data does not shrink, or nothing waits.
func TestPays(t *testing.T) {
	const psPerByte = 1e12
	for _, c := range []struct {
		name  string
		rate  float64 // of the link, bytes per second
		zstd  float64 // what the processor compresses, bytes per second
		ratio float64 // of compressed size to plain
		ahead uint64  // what waits for its turn
		want  bool
	}{
		{"100 Mbit/s, text", 12.5e6, 250e6, 0.3, 1 << 20, true},
		{"100 Mbit/s, noise", 12.5e6, 250e6, 1, 1 << 20, false},
		{"100 Mbit/s, nothing waits", 12.5e6, 250e6, 0.3, 0, false},
		{"100 Mbit/s, shrinks a little, slow processor", 12.5e6, 50e6, 0.8, 1 << 20, false},
		{"1 Gbit/s, text", 125e6, 250e6, 0.3, 1 << 20, true},
		{"1 Gbit/s, shrinks by a third", 125e6, 250e6, 0.67, 1 << 20, false},
		{"loopback, text", 1e9, 250e6, 0.3, 1 << 20, false},
		{"loopback, fast processor", 1e9, 2e9, 0.3, 1 << 20, true},
		{"not yet known", 0, 250e6, 0.3, 1 << 20, false},
	} {
		l := &Link{cfg: Config{}.filled()}
		// Of two byte streams the rates add up.
		for range 2 {
			p := &path{l: l}
			p.pace.rates[3] = c.rate / 2
			l.paths = append(l.paths, p)
		}
		l.zstd.perByte.Store(int64(psPerByte / c.zstd))
		s := newStream(l, 3)
		s.gain.ratio = c.ratio
		s.sendCost = c.ahead
		if got := s.pays(64 << 10); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// TestCompressedBytes reads compressed frames as bytes, in small pieces.
func TestCompressedBytes(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, p := newRawPeer(t, Config{Compress: true})
	want := strings.Repeat("abc", 20_000)
	p.frame(typeData, flagZstd, 16, 0, string(enc.EncodeAll([]byte(want), nil)))
	p.frame(typeData, 0, 16, 1, "plain")
	p.frame(typeData, flagFin, 16, 2, "")
	var got []byte
	for b := make([]byte, 777); ; {
		n, err := l.Stream(16).Read(b)
		got = append(got, b[:n]...)
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if string(got) != want+"plain" {
		t.Fatalf("%d bytes", len(got))
	}
}

func TestBadCompression(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := string(enc.EncodeAll(make([]byte, 8<<20), nil))
	for _, c := range []struct {
		name, payload, want string
		allowed             bool
	}{
		{"bomb", bomb, "that do not expand to a frame", true},
		{"garbage", "garbage", "that do not expand to a frame", true},
		{"nothing", string(enc.EncodeAll([]byte{}, make([]byte, 0, 1))) + "\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00", "that do not expand to a frame", true},
		{"not allowed", "x", "which was not allowed", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, p := newRawPeer(t, Config{Compress: c.allowed})
			p.frame(typeData, flagZstd, 3, 0, c.payload)
			if _, err := l.Stream(3).ReadMessage(nil); !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			if err := l.Wait(); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), c.want) {
				t.Fatal(err)
			}
		})
	}
}
