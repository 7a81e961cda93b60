package fmaster_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/subsystem/fmaster"
)

// What a walk asks about the file system, once for each directory here, is one
// question to the client, and was asked ahead.
func TestStatFS(t *testing.T) {
	w := newWorld(t)
	w.write("d/a", "e/b")
	var want unix.Statfs_t
	if err := unix.Statfs(w.client, &want); err != nil {
		t.Fatal(err)
	}
	got := w.sh("stat -f -c '%b %S %l' d")
	if got != fmt.Sprintf("%d %d %d", want.Blocks, want.Frsize, want.Namelen) {
		t.Errorf("%q where the client has %+v", got, want)
	}

	// An answer is good for a second, which a busy machine may take.
	ahead := false
	for try := 0; try < 20 && !ahead; try++ {
		before := w.stat("statfs")
		w.srv.Prepare("/d", false)
		w.sh("stat -f d e d . >/dev/null")
		ahead = w.stat("statfs")-before <= 1
	}
	if !ahead {
		t.Errorf("each question went to the client\n%s", w.srv.Stats())
	}

	for range 3 {
		before := w.stat("statfs")
		w.sh("echo more >>d/a; stat -f d >/dev/null")
		if w.stat("statfs") == before {
			t.Error("an answer from before a change of the session's own was given after it")
		}
	}
}

func TestStatFSAsksWithoutCache(t *testing.T) {
	w := newWorld(t, func(c *fmaster.Config) { c.Hello.NoCache = true })
	w.write("a")
	w.sh("stat -f . . . >/dev/null")
	if n := w.stat("statfs"); n != 3 {
		t.Errorf("%d questions where 3 were asked\n%s", n, w.srv.Stats())
	}
}
