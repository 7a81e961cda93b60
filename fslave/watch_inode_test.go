package fslave

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// A file that the session may only read, and that has a further name where
// nothing is watched, is leased all the same, and what happens to it by way of that name is told.
func TestSharedInode(t *testing.T) {
	root := t.TempDir()
	put(t, root, "seen/f", "old")
	put(t, root, "seen/alone", "")
	if err := os.Mkdir(filepath.Join(root, "elsewhere"), 0o700); err != nil {
		t.Fatal(err)
	}
	second := filepath.Join(root, "elsewhere/second")
	must(t, os.Link(filepath.Join(root, "seen/f"), second))
	for name, look := range map[string]func(c *client, dir fsyscall.NodeID) fsyscall.Attr{
		"list": func(c *client, dir fsyscall.NodeID) fsyscall.Attr {
			for _, e := range c.entries(dir) {
				if e.Name == "f" {
					return e.Attr
				}
			}
			t.Fatal("not listed")
			return fsyscall.Attr{}
		},
		"lookup": func(c *client, dir fsyscall.NodeID) fsyscall.Attr {
			return c.do(fsyscall.OpLookup, &fsyscall.Lookup{Dir: dir, Name: "f", ID: c.id()}, 0).(*fsyscall.AttrReply).Attr
		},
		"getattr": func(c *client, dir fsyscall.NodeID) fsyscall.Attr {
			id := c.id()
			c.send(fsyscall.OpAttach, &fsyscall.Attach{Dir: dir, Name: "f", ID: id})
			return c.attr(id)
		},
	} {
		for change, make := range map[fsyscall.RevokeWhat]func(){
			fsyscall.RevokeData: func() { must(t, os.WriteFile(second, []byte("new"), 0)) },
			fsyscall.RevokeAttr: func() { must(t, os.Chtimes(second, time.Now(), time.Now())) },
		} {
			t.Run(name+" "+map[fsyscall.RevokeWhat]string{fsyscall.RevokeData: "content", fsyscall.RevokeAttr: "times"}[change], func(t *testing.T) {
				c := dial(t, root, Config{Policy: newPolicy(t, root, rule("/", ModeReadOnly))})
				dir := c.walk("seen")
				if a := look(c, dir); a.Nlink != 2 || a.Flags&fsyscall.AttrUnwatched != 0 {
					t.Fatalf("%+v", a)
				}
				c.settled()
				c.takeRevoked()
				make()
				c.awaitRevoked(fsyscall.Revocation{Node: dir, Name: "f", What: change})
			})
		}
	}
}

// The watches of inodes end with the names they were made for, and are bounded.
func TestSharedInodesEnd(t *testing.T) {
	root := t.TempDir()
	put(t, root, "dir/f", "")
	for _, name := range []string{"g", "h", "i"} {
		must(t, os.Link(filepath.Join(root, "dir/f"), filepath.Join(root, "dir", name)))
	}
	readOnly := newPolicy(t, root, rule("/", ModeReadOnly))
	c := dial(t, root, Config{Policy: readOnly})
	dir := c.walk("dir")
	c.do(fsyscall.OpList, &fsyscall.List{ID: dir}, 0)
	count := func() (inodes, places int) {
		w := c.s.watch
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drain()
		for _, x := range w.inodes {
			places += len(x.places)
		}
		return len(w.inodes), places
	}
	if n, p := count(); n != 1 || p != 4 {
		t.Fatalf("%d inodes, %d places", n, p)
	}
	must(t, os.Rename(filepath.Join(root, "dir/h"), filepath.Join(root, "dir/j")))
	must(t, unix.Unlink(filepath.Join(root, "dir/i")))
	if n, p := count(); n != 1 || p != 2 {
		t.Errorf("after a rename and an unlink: %d inodes, %d places", n, p)
	}
	c.send(fsyscall.OpForget, &fsyscall.Forget{IDs: []fsyscall.NodeID{dir}})
	c.do(fsyscall.OpBarrier, nil, 0)
	if n, p := count(); n != 0 || p != 0 || len(c.s.watch.inodeAt) != 0 {
		t.Errorf("after the directory was forgotten: %d inodes, %d places", n, p)
	}

	few := dial(t, root, Config{Policy: readOnly, MaxWatches: inodeShare - 1})
	if a := few.attr(few.walk("dir/j")); a.Flags&fsyscall.AttrUnwatched == 0 {
		t.Errorf("with no watch to spare: %+v", a)
	}
}
