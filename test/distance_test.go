package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// TestEndsWithItsChanges measures commands at a distance of 150 ms: one that writes
// files and one whose output goes to a file cost no round trip more than one that
// does nothing, and all is there when they end.
func TestEndsWithItsChanges(t *testing.T) {
	s := newSite(t)
	p, err := s.StartNexecd(harness.ServerOptions{Alias: "near"})
	if err != nil {
		t.Fatal(err)
	}
	const rtt = 150 * time.Millisecond
	link, err := harness.NewLink(harness.Shape{Delay: rtt / 2}, fmt.Sprintf("127.0.0.1:%d", p.Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	if err := s.AddHost("far", link.Port()); err != nil {
		t.Fatal(err)
	}
	// What a busy machine does late is no round trip: the best of three counts.
	best := func(script string, toFile bool) time.Duration {
		least := time.Hour
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			cmd := s.Nexec(ctx, "far", "sh", "-ec", script)
			if toFile {
				out, err := os.Create(filepath.Join(s.Work, "out"))
				must(t, err)
				defer out.Close()
				cmd.Stdout = out
			}
			began := time.Now()
			err := cmd.Run()
			least = min(least, time.Since(began))
			cancel()
			if err != nil {
				t.Fatalf("%s: %v", script, err)
			}
		}
		return least
	}
	nothing := best("true", false)
	for _, c := range []struct {
		script string
		toFile bool
		want   map[string]string
	}{
		{"for i in 1 2 3; do echo $i >f$i; done; mv f1 g; rm f2", false, map[string]string{"g": "1\n", "f3": "3\n"}},
		{"echo hello", true, map[string]string{"out": "hello\n"}},
	} {
		if took := best(c.script, c.toFile); took > nothing+rtt/2 {
			t.Errorf("%s took %v, and what does nothing %v", c.script, took, nothing)
		}
		for name, want := range c.want {
			if got := s.read(t, name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
}
