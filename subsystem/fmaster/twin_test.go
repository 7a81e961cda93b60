package fmaster_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fslave"
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
	client := t.TempDir()
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
	files := []struct {
		name        string
		here, there byte
		hereSize    int
		hereTime    time.Time
	}{
		{"same", 'a', 'a', size, then},
		{"other", 'b', 'a', size, then},                // digests differ
		{"later", 'a', 'a', size, then.Add(time.Hour)}, // not asked for one
		{"longer", 'a', 'a', size + 1, then},           // nor this
	}
	uses := []fsyscall.PathUse{{Path: "/opt", What: fsyscall.UseName}}
	for _, f := range files {
		write("/", f.name, f.here, f.hereSize, f.hereTime)
		write(client, f.name, f.there, size, then)
		uses = append(uses, fsyscall.PathUse{Path: "/opt/" + f.name, What: fsyscall.UseContent})
	}
	w := showWorld(t, client, fslave.Config{})
	w.srv.Expect(uses)
	for deadline := time.Now().Add(20 * time.Second); w.stat("fetch") < 3 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	w.settled()
	if d, n := w.stat("digest"), w.stat("fetch"); d != 2 || n != 3 {
		t.Errorf("%d digests, %d files fetched\n%s", d, n, w.srv.Stats())
	}
	for _, f := range files {
		if got := w.sh("cat opt/" + f.name); got != strings.Repeat(string(f.there), size) {
			t.Errorf("%s: %d bytes, first %q", f.name, len(got), got[:min(len(got), 1)])
		}
	}
	if n := w.stat("open"); n != 0 {
		t.Errorf("%d files were opened\n%s", n, w.srv.Stats())
	}
}
