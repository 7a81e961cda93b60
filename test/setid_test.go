package test

import (
	"testing"
)

// TestSetIDBits has a session take set-user-ID and set-group-ID bits away when
// it changes a file, and only when a local program would.
func TestSetIDBits(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct{ name, change string }{
		{"append", "echo x >>f"},
		{"overwrite", "printf y | dd of=f conv=notrunc status=none"},
		{"cut", "truncate -s 1 f"},
		{"empty", ": >f"},
		{"group", "chgrp $(id -g) f"},
		{"nothing", "cat f >/dev/null; touch f"},
	} {
		for _, mode := range []string{"4755", "6755", "2745", "6644"} {
			script := "rm -rf d; mkdir d; cd d; echo content >f; chmod " + mode + " f; " + c.change + "; stat -c '%a %s' f"
			want := s.local(t, script)
			if got := s.sh(t, script); got != want {
				t.Errorf("%s of %s: %q in the session, %q here", c.name, mode, got, want)
			}
			if got := s.local(t, "stat -c '%a %s' d/f"); got != want {
				t.Errorf("%s of %s: %q here after the session, %q without one", c.name, mode, got, want)
			}
			// Of a file that was there before the session.
			s.local(t, "rm -rf d; mkdir d; cd d; echo content >f; chmod "+mode+" f")
			if got := s.sh(t, "cd d; "+c.change+"; stat -c '%a %s' f"); got != want {
				t.Errorf("%s of %s, made here: %q in the session, %q here", c.name, mode, got, want)
			}
			if got := s.local(t, "stat -c '%a %s' d/f"); got != want {
				t.Errorf("%s of %s, made here: %q here after the session, %q without one", c.name, mode, got, want)
			}
		}
	}
}
