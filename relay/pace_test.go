package relay

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// TestKeystroke holds a keystroke's round trip short while bulk data
// saturates an emulated link whose own queue would delay it by far more, and
// the bulk data fast.
func TestKeystroke(t *testing.T) {
	for _, c := range []struct {
		rate   float64
		rtt    time.Duration
		buffer int
		most   time.Duration
	}{
		{12.5e6, 20 * time.Millisecond, 8 << 20, 100 * time.Millisecond},  // else 640 ms
		{1.25e6, 20 * time.Millisecond, 1 << 20, 150 * time.Millisecond},  // else 820 ms
		{12.5e6, 80 * time.Millisecond, 16 << 20, 250 * time.Millisecond}, // else 1.3 s
	} {
		t.Run(fmt.Sprintf("%g MB per s, %v", c.rate/1e6, c.rtt), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := newWAN(c.rate, c.rtt, c.buffer)
				a, b := start(t, x, y, Config{})
				stop := saturate(a, b, 4)
				defer stop()
				moved := func() uint64 { return b.Stats().BytesIn }
				time.Sleep(time.Second) // the first half of it learns
				from, began := moved(), time.Now()
				took := keystrokes(t, a, b, 25)
				got := float64(moved()-from) / time.Since(began).Seconds()
				slices.Sort(took)
				median := took[len(took)/2]
				t.Logf("median %v, longest %v; %.1f MB/s; %s", median, took[len(took)-1], got/1e6, paceString(a))
				if median > c.most {
					t.Errorf("a keystroke's round trip took %v", median)
				}
				if got < 0.5*c.rate {
					t.Errorf("%.1f MB/s of %.1f", got/1e6, c.rate/1e6)
				}
			})
		})
	}
}

// keystrokes measures round trips from b on a terminal's stream.
func keystrokes(t *testing.T, a, b *Link, count int) (took []time.Duration) {
	t.Helper()
	id := fsyscall.StdioStream(0, fsyscall.TerminalSlot)
	go func() {
		s := a.Stream(id)
		for b := make([]byte, 1); ; {
			if _, err := s.Read(b); err != nil {
				return
			}
			s.Write(b)
		}
	}()
	s := b.Stream(id)
	for range count {
		at := time.Now()
		if _, err := s.Write([]byte("k")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(at))
		time.Sleep(30 * time.Millisecond)
	}
	return took
}

func paceString(l *Link) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := ""
	for _, p := range l.paths {
		s += fmt.Sprintf("[rate %.1f MB/s, round trip %v, ping %v, bound %d KiB] ", p.pace.rate()/1e6, p.pace.minRTT, time.Duration(l.rtt.Load()), p.pace.bound()>>10)
	}
	return s
}

// TestAfterABurst: what a small burst took, a round trip, is not held to be the
// path's rate, so that a larger one after it goes out at once.
func TestAfterABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, rtt = 12.5e6, 80 * time.Millisecond
		x, y := newWAN(rate, rtt, 16<<20)
		a, b := start(t, x, y, Config{})
		out, in := a.Stream(fsyscall.StreamBulk), b.Stream(fsyscall.StreamBulk)
		sizes := []int{70 << 10, 20 << 10, 300 << 10} // the first is enough to be acknowledged
		for i, size := range sizes {
			began := time.Now()
			go out.WriteMessage(make([]byte, size))
			if _, err := in.ReadMessage(nil); err != nil {
				t.Fatal(err)
			}
			took, least := time.Since(began), rtt/2+time.Duration(float64(size)/rate*1e9)
			if took > least+5*time.Millisecond {
				t.Errorf("message %d of %d bytes took %v, where the path needs %v; %s", i, size, took, least, paceString(a))
			}
			time.Sleep(time.Second)
		}
	})
}

// TestLongFat fills a path of 80 ms, over striped byte streams and over one.
func TestLongFat(t *testing.T) {
	for _, attached := range []int{0, 4} {
		t.Run(fmt.Sprint(attached, " attached"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const rate, rtt = 125e6, 80 * time.Millisecond
				paths := max(attached, 1)
				x, y := newWAN(rate/float64(paths), rtt, 4<<20)
				a, b := start(t, x, y, Config{})
				for range attached {
					x, y := newWAN(rate/float64(paths), rtt, 4<<20)
					if err := a.Attach(x); err != nil {
						t.Fatal(err)
					}
					if err := b.Attach(y); err != nil {
						t.Fatal(err)
					}
				}
				stop := saturate(a, b, 1)
				defer stop()
				moved := func() uint64 { return b.Stats().BytesIn }
				time.Sleep(1500 * time.Millisecond)
				from, began := moved(), time.Now()
				time.Sleep(time.Second)
				got := float64(moved()-from) / time.Since(began).Seconds()
				t.Logf("%.1f MB/s of %.1f; %s", got/1e6, rate/1e6, paceString(a))
				if got < 0.5*rate {
					t.Errorf("%.1f MB/s of %.1f", got/1e6, rate/1e6)
				}
			})
		})
	}
}
