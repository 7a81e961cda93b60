package fmaster_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The times that the session has shown are those that the client has in the
// end, of whatever kind.
func TestShownTimesStay(t *testing.T) {
	w := newWorld(t)
	const names = "dir dir/file dir/sub dir/link dir/fifo moved set"
	w.sh(`mkdir dir dir/sub set; echo text >dir/file; ln -s to dir/link; mkfifo dir/fifo
		mkdir old; echo text >old/file; mv old moved; rm moved/file; touch -d 2001-02-03T04:05:06.789 set; sleep 0.05; touch dir/sub/late; chmod 700 dir`)
	shown := strings.Fields(w.sh("for f in " + names + "; do stat -c '%y' $f | tr ' ' _; done"))
	if _, _, err := w.srv.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, name := range strings.Fields(names) {
		st, err := os.Lstat(filepath.Join(w.client, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := st.ModTime().Format("2006-01-02_15:04:05.000000000_-0700"); got != shown[i] {
			t.Errorf("%s: the session has shown %s, the client has %s", name, shown[i], got)
		}
	}
	// What the client changes afterwards is the client's time.
	late := time.Date(2011, 1, 2, 3, 4, 5, 6, time.UTC)
	if err := os.Chtimes(filepath.Join(w.client, "dir"), late, late); err != nil {
		t.Fatal(err)
	}
	w.soon("1293937445", "stat -c %Y dir")
	if _, _, err := w.srv.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(w.client, "dir")); err != nil || !st.ModTime().Equal(late) {
		t.Errorf("%v, %v", st.ModTime(), err)
	}
}
