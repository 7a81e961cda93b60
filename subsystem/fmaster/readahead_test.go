package fmaster

import "testing"

// TestWindowGrows: the read-ahead of a program that has to wait doubles, up to
// twice what was read in order and to what the link carries.
func TestWindowGrows(t *testing.T) {
	const begun = 5 << 20 // it need not begin at the start
	a := &readAhead{begun: begun, window: firstWindow}
	for _, c := range []struct{ read, most, want int }{
		{128 << 10, maxWindow, 256 << 10}, // twice what was read
		{256 << 10, maxWindow, 512 << 10},
		{512 << 10, maxWindow, 1 << 20},
		{513 << 10, maxWindow, 1026 << 10},
		{4 << 20, maxWindow, 2052 << 10}, // twice what it was
		{4 << 20, 3 << 20, 3 << 20},      // what the link carries
		{4 << 20, 1 << 20, 3 << 20},      // never smaller
		{100 << 20, maxWindow, 6 << 20},
		{100 << 20, maxWindow, 10 << 20},
		{1 << 40, maxWindow, 10 << 20},
	} {
		if a.grow(begun+uint64(c.read), c.most); a.window != c.want {
			t.Fatalf("after %d KiB, with at most %d: %d, want %d", c.read>>10, c.most>>10, a.window>>10, c.want>>10)
		}
	}
}

// TestLate: only what was asked for and has not come is late.
func TestLate(t *testing.T) {
	came, comes := make(chan struct{}), make(chan struct{})
	close(came)
	a := &readAhead{parts: []*part{{off: 100, size: 50, ready: came}, {off: 150, size: 50, ready: comes}}}
	for _, c := range []struct {
		off  uint64
		size int
		want bool
	}{{0, 50, false}, {100, 50, false}, {100, 51, true}, {160, 10, true}, {199, 100, true}, {200, 100, false}} {
		if got := a.late(c.off, c.size); got != c.want {
			t.Errorf("%d bytes at %d: %v", c.size, c.off, got)
		}
	}
}
