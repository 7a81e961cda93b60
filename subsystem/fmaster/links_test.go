package fmaster_test

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOtherNameOfOpenFile: a file that is open and has lost the name that it was
// opened by is the one that another name leads to, which the session sees for the
// first time.
func TestOtherNameOfOpenFile(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		w.write("x/a", "d/other")
		if err := os.Link(filepath.Join(w.client, "x/a"), filepath.Join(w.client, "d/b")); err != nil {
			t.Fatal(err)
		}
		script := `exec 3<>x/a; rm x/a; cat d/b; echo; stat -c %h d/b; echo changed >&3; cat d/b; stat -c '%s %h' d/b; echo more >>d/b; cat <&3; ln d/b x/c; stat -c %h d/b x/c`
		if got, want := w.sh(script), "x/a\n1\nchanged\n8 1\nmore\n2\n2"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := w.onClient("d/b"); got != "changed\nmore\n" {
			t.Errorf("on the client %q", got)
		}
	})
}
