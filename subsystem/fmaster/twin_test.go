package fmaster_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// A file that this machine has as well is not sent, and one that only looks
// like it is.
func TestTwin(t *testing.T) {
	// The tests have a mount namespace to themselves.
	if err := unix.Mount("none", "/opt", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount("/opt", unix.MNT_DETACH)
	w := newWorld(t)
	then := time.Unix(1_700_000_000, 0)
	write := func(root, name string, fill byte, size int, at time.Time) {
		t.Helper()
		p := filepath.Join(root, "opt", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, bytes.Repeat([]byte{fill}, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	const size = 100_000
	for _, f := range []struct {
		name           string
		here, there    byte
		hereSize       int
		hereTime       time.Time
		digested, read bool
	}{
		{"same", 'a', 'a', size, then, true, false},
		{"other", 'b', 'a', size, then, true, true},
		{"later", 'a', 'a', size, then.Add(time.Hour), false, true},
		{"longer", 'a', 'a', size + 1, then, false, true},
	} {
		write("/", f.name, f.here, f.hereSize, f.hereTime)
		write(w.client, f.name, f.there, size, then)
		digests, reads := w.stat("digest"), w.stat("fetch")+w.stat("open")
		w.srv.Expect([]fsyscall.PathUse{{Path: "/opt", What: fsyscall.UseName}, {Path: "/opt/" + f.name, What: fsyscall.UseContent}})
		if got, want := w.sh("cat opt/"+f.name), strings.Repeat(string(f.there), size); got != want {
			t.Errorf("%s: %d bytes, first %q", f.name, len(got), got[:min(len(got), 1)])
		}
		if d := w.stat("digest") - digests; (d > 0) != f.digested {
			t.Errorf("%s: %d digests", f.name, d)
		}
		if n := w.stat("fetch") + w.stat("open") - reads; (n > 0) != f.read {
			t.Errorf("%s: read %d times\n%s", f.name, n, w.srv.Stats())
		}
	}
}
