package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

var testSecret = [32]byte{0: 1, 15: 0xfe, 31: 0xff}

// joinBytes is the record of testSecret, byte for byte.
const joinBytes = "\xcejoin\r\n\x00\x01\x00\x00\x00\x00\x00\x00\x00" +
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff"

// input is a byte stream whose other end, the file, is to be written to.
func input(t testing.TB) (*Pipes, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPipes(r, out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(); w.Close() })
	return p, w
}

func TestJoinBytes(t *testing.T) {
	if b := AppendJoin([]byte("x"), testSecret); string(b) != "x"+joinBytes || len(joinBytes) != joinSize {
		t.Fatalf("%q", b)
	}
}

func TestReadOpening(t *testing.T) {
	bad := func(at int) string {
		b := []byte(joinBytes)
		b[at] ^= 0x40
		return string(b)
	}
	for _, c := range []struct {
		name, sent string
		joins      bool
		err        error
	}{
		{"join", joinBytes, true, nil},
		{"join and more", joinBytes + "the rest", true, nil},
		{"a link", string(preamble{Version, roleFirst, 0}.append(nil)) + "and frames", false, nil},
		{"a long text", string(bytes.Repeat([]byte("text "), 1000)), false, nil},
		{"one byte", "S", false, nil},
		{"nothing", "", false, nil},
		{"half the magic", joinBytes[:5], false, nil},
		{"stops short", joinBytes[:40], false, io.ErrUnexpectedEOF},
		{"version", bad(8), false, ErrVersion},
		{"reserved", bad(12), false, ErrProtocol},
		{"magic", bad(7), false, nil},
	} {
		for _, piecewise := range []bool{false, true} {
			p, w := input(t)
			go func() {
				defer w.Close()
				for i := 0; piecewise && i < len(c.sent) && i < 64; i++ {
					if _, err := w.WriteString(c.sent[i : i+1]); err != nil {
						return
					}
				}
				if rest := min(len(c.sent), 64); piecewise {
					w.WriteString(c.sent[rest:])
				} else {
					w.WriteString(c.sent)
				}
			}()
			o, err := ReadOpening(t.Context(), p, time.Minute)
			if !errors.Is(err, c.err) || o.Joins != c.joins {
				t.Fatalf("%s: %+v, %v", c.name, o, err)
			}
			if err != nil {
				continue
			}
			left := c.sent
			if o.Joins {
				left = left[joinSize:]
				if o.Secret != testSecret {
					t.Fatalf("%s: secret %x", c.name, o.Secret)
				}
			}
			if got, err := io.ReadAll(p); string(got) != left || err != nil {
				t.Fatalf("%s: %q is left, %v", c.name, got, err)
			}
		}
	}
}

func TestReadOpeningWaits(t *testing.T) {
	for _, sent := range []string{"", joinBytes[:3], joinBytes[:20]} {
		p, w := input(t)
		w.WriteString(sent)
		if _, err := ReadOpening(t.Context(), p, 10*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after %q: %v", sent, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := ReadOpening(ctx, p, time.Minute); !errors.Is(err, context.Canceled) {
			t.Fatalf("after %q: %v", sent, err)
		}
	}
}

// FuzzReadOpening: a byte stream is a joining one exactly when it begins with
// a record that would be written, and no byte of any is lost.
func FuzzReadOpening(f *testing.F) {
	f.Add([]byte(joinBytes + "x"))
	f.Add([]byte(joinBytes[:47]))
	f.Add([]byte(magic + "\x01\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("Last login"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		sent = sent[:min(len(sent), 4096)] // what the pipe takes at once
		p, w := input(t)
		w.Write(sent)
		w.Close()
		o, err := ReadOpening(t.Context(), p, time.Minute)
		if err != nil {
			if !bytes.HasPrefix(sent, []byte(joinMagic)) {
				t.Fatal(err)
			}
			return
		}
		rest, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		if o.Joins {
			rest = append(AppendJoin(nil, o.Secret), rest...)
		}
		if !bytes.Equal(rest, sent) {
			t.Fatalf("%q of %q", rest, sent)
		}
	})
}
