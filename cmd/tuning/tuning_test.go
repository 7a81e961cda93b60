package tuning

import "testing"

func TestPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 12 << 20: 400, 24 << 20: 200, 48 << 20: 100, 1 << 30: 100} {
		if got := percent(live); got != want {
			t.Errorf("%d bytes in use: %d, want %d", live, got, want)
		}
	}
}

func TestProcessors(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 2, 64: 32} {
		if got := processors(n); got != want {
			t.Errorf("%d processors: %d, want %d", n, got, want)
		}
	}
}
