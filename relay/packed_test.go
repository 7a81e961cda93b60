package relay

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// A packed message arrives as the same one written does, on any link, and read
// in parts it is what it is in one piece.
func TestPacked(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	content := make([]byte, MaxMessage)
	random.Read(content)
	for _, tt := range []struct {
		name string
		cfg  Config
		slow bool
	}{
		{"usual", Config{}, false},
		{"compressed", Config{Compress: true}, false},
		{"small window", Config{Window: func(uint32) int { return 64 << 10 }}, false},
		{"slow", Config{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t, tt.cfg)
			const bulk = 3
			s, r := a.Stream(bulk), b.Stream(bulk)
			a.slow.Store(tt.slow)
			var m Received
			for _, size := range []int{0, 1, MaxPayload, MaxPayload + 1, 3*MaxPayload + 7, MaxMessage} {
				head := content[:size/3]
				sent := make(chan error, 2)
				go func() {
					p, err := a.Pack(head, content[len(head):size])
					if err == nil && p.Len() != size {
						err = fmt.Errorf("packed %d bytes of %d", p.Len(), size)
					}
					if err == nil {
						err = s.WritePacked(p)
					}
					sent <- err
					sent <- s.WriteMessage(content[:size])
				}()
				if err := r.ReadParts(&m); err != nil || !bytes.Equal(bytes.Join(m.Parts, nil), content[:size]) {
					t.Fatalf("%d bytes packed, read in parts: %v", size, err)
				}
				m.Free()
				if err := r.ReadParts(&m); err != nil || !bytes.Equal(bytes.Join(m.Parts, nil), content[:size]) {
					t.Fatalf("%d bytes written, read in parts: %v", size, err)
				}
				m.Free()
				for range 2 {
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

func TestPackedTooLong(t *testing.T) {
	a, _ := pair(t, Config{})
	if _, err := a.Pack(make([]byte, MaxMessage), []byte("x")); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

// The parts of a message stay as they came until it is freed, whatever comes
// after.
func TestReceivedStays(t *testing.T) {
	a, b := pair(t, Config{})
	s, r := a.Stream(3), b.Stream(3)
	go func() {
		for i := range 20 {
			s.WriteMessage(bytes.Repeat([]byte{byte(i)}, 100_000))
		}
	}()
	var kept [20]Received
	for i := range kept {
		if err := r.ReadParts(&kept[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range kept {
		if got := bytes.Join(kept[i].Parts, nil); !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 100_000)) {
			t.Errorf("message %d has changed", i)
		}
		kept[i].Free()
	}
}
