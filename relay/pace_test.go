package relay

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// TestKeystroke holds a keystroke's round trip short while bulk data
// saturates an emulated link whose own queue would delay it by 640 ms, and
// the bulk data fast.
func TestKeystroke(t *testing.T) {
	const rate, rtt, buffer = 12.5e6, 20 * time.Millisecond, 8 << 20
	x, y := newWAN(rate, rtt, buffer)
	a, b := start(t, x, y, Config{})
	bulk, moved := saturate(a, b, 4)
	defer bulk()
	terminal := fsyscall.StdioStream(0, fsyscall.TerminalSlot)
	go func() {
		s := a.Stream(terminal)
		for b := make([]byte, 1); ; {
			if _, err := s.Read(b); err != nil {
				return
			}
			s.Write(b)
		}
	}()
	time.Sleep(300 * time.Millisecond)
	s := b.Stream(terminal)
	from, began := moved(), time.Now()
	var took []time.Duration
	for range 20 {
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
	got := float64(moved()-from) / time.Since(began).Seconds()
	slices.Sort(took)
	t.Logf("median %v, longest %v; %.1f MB/s of %.1f; %s", took[len(took)/2], took[len(took)-1], got/1e6, rate/1e6, paceString(a))
	if m := took[len(took)/2]; m > 5*rtt {
		t.Errorf("a keystroke's round trip took %v, the link's is %v", m, rtt)
	}
	if got < 0.7*rate {
		t.Errorf("%.1f MB/s of %.1f", got/1e6, rate/1e6)
	}
}

func paceString(l *Link) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := ""
	for _, p := range l.paths {
		s += fmt.Sprintf("[rate %.1f MB/s, round trip %v, bound %d KiB] ", p.pace.rate()/1e6, p.pace.minRTT, p.pace.bound()>>10)
	}
	return s
}

// TestLongFat fills 1 Gbit/s at 80 ms over striped paths and over one.
func TestLongFat(t *testing.T) {
	for _, attached := range []int{0, 4} {
		t.Run(fmt.Sprint(attached, " attached"), func(t *testing.T) {
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
			stop, moved := saturate(a, b, 1)
			defer stop()
			time.Sleep(1500 * time.Millisecond)
			from, began := moved(), time.Now()
			time.Sleep(time.Second)
			got := float64(moved()-from) / time.Since(began).Seconds()
			t.Logf("%.1f MB/s of %.1f; %s", got/1e6, rate/1e6, paceString(a))
			if got < 0.6*rate {
				t.Errorf("%.1f MB/s of %.1f", got/1e6, rate/1e6)
			}
		})
	}
}
