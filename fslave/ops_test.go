package fslave

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// each runs a test with both ways of resolving.
func each(t *testing.T, f func(t *testing.T, c *client, root string)) {
	for name, old := range map[string]bool{"openat2": false, "openat": true} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			f(t, dial(t, root, Config{NoOpenat2: old}), root)
		})
	}
}

func TestFileLife(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		put(t, root, "dir/sub/old", "hello")
		dir := c.walk("dir/sub")
		id, f := c.create(dir, "new", 0o640)
		c.write(f, 0, "0123456789")
		if got := c.read(f, 3, 100); got != "3456789" {
			t.Errorf("read %q", got)
		}
		if got := c.names(dir); !slices.Equal(got, []string{"new", "old"}) {
			t.Errorf("listed %q", got)
		}
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: dir, Name: "new", NewDir: dir, NewName: "old"}, 0)
		if a := c.attr(id); a.Size != 10 || a.Mode != unix.S_IFREG|0o640 {
			t.Errorf("after rename: %+v", a)
		}
		c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: dir, Name: "old"}, 0)
		// Unlinked but open.
		if a := c.attr(id); a.Nlink != 0 || a.Size != 10 {
			t.Errorf("unlinked: %+v", a)
		}
		c.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: id, File: f, Mask: fsyscall.SetSize, Size: 4}, 0)
		if got := c.read(f, 0, 100); got != "0123" {
			t.Errorf("read %q", got)
		}
		second := c.open(id, fsyscall.OpenReadOnly)
		if got := c.read(second, 0, 100); got != "0123" {
			t.Errorf("read %q", got)
		}
		c.release(f)
		c.release(second)
		c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: id}, unix.ESTALE)
		c.do(fsyscall.OpRead, &fsyscall.Read{File: f, Size: 1}, unix.EBADF)
	})
}

// Calls that name what an unanswered call makes need not wait for its answer.
func TestPipelined(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	put(t, root, "a/b/c/file", "content")
	for range 200 {
		a, b, d, id, f := c.id(), c.id(), c.id(), c.id(), fsyscall.FileID(c.id())
		c.send(fsyscall.OpLookup, &fsyscall.Lookup{Dir: fsyscall.RootNode, Name: "a", ID: a})
		c.send(fsyscall.OpLookup, &fsyscall.Lookup{Dir: a, Name: "b", ID: b})
		c.send(fsyscall.OpLookup, &fsyscall.Lookup{Dir: b, Name: "c", ID: d})
		c.send(fsyscall.OpLookup, &fsyscall.Lookup{Dir: d, Name: "file", ID: id})
		c.send(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: f})
		_, ch := c.send(fsyscall.OpRead, &fsyscall.Read{File: f, Size: 100})
		c.send(fsyscall.OpRelease, &fsyscall.Release{File: f})
		got := c.last(ch)
		if got.h.Errno != 0 || string(got.body.(*fsyscall.Data).Data) != "content" {
			t.Fatalf("%v", got)
		}
		x, y := c.id(), c.id()
		c.send(fsyscall.OpLookup, &fsyscall.Lookup{Dir: a, Name: "none", ID: x})
		_, ch = c.send(fsyscall.OpLookup, &fsyscall.Lookup{Dir: x, Name: "none", ID: y})
		if got := c.last(ch); unix.Errno(got.h.Errno) != unix.ENOENT && unix.Errno(got.h.Errno) != unix.ESTALE {
			t.Fatalf("below what does not exist: %v", got.h)
		}
		c.send(fsyscall.OpForget, &fsyscall.Forget{IDs: []fsyscall.NodeID{a, b, d, id}})
	}
	c.do(fsyscall.OpBarrier, nil, 0)
	c.s.nodes.mu.RLock()
	defer c.s.nodes.mu.RUnlock()
	if c.s.nodes.count != 1 || len(c.s.nodes.at) != 0 {
		t.Errorf("%d nodes, %d places left", c.s.nodes.count, len(c.s.nodes.at))
	}
}

func TestLinkFollowsInode(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		id, f := c.create(fsyscall.RootNode, "tmp_obj", 0o444)
		c.write(f, 0, "object")
		c.release(f)
		c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: fsyscall.RootNode, Name: "ab", ID: 500, Mode: 0o755}, 0)
		c.do(fsyscall.OpLink, &fsyscall.Link{ID: id, Dir: 500, Name: "cdef"}, 0)
		c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: fsyscall.RootNode, Name: "tmp_obj"}, 0)
		if a := c.attr(id); a.Nlink != 1 {
			t.Errorf("%+v", a)
		}
		g := c.open(id, fsyscall.OpenReadOnly)
		if got := c.read(g, 0, 10); got != "object" {
			t.Errorf("read %q", got)
		}
	})
}

func TestTmpFile(t *testing.T) {
	each(t, func(t *testing.T, c *client, root string) {
		id, f := c.id(), fsyscall.FileID(c.id())
		c.do(fsyscall.OpTmpFile, &fsyscall.TmpFile{
			Dir: fsyscall.RootNode, ID: id, File: f, Flags: fsyscall.OpenReadWrite, Mode: 0o600,
		}, 0)
		c.write(f, 0, "unnamed")
		if got := c.names(fsyscall.RootNode); len(got) != 0 {
			t.Errorf("listed %q", got)
		}
		c.do(fsyscall.OpLink, &fsyscall.Link{ID: id, Dir: fsyscall.RootNode, Name: "named"}, 0)
		c.release(f)
		if a := c.attr(id); a.Size != 7 || a.Nlink != 1 {
			t.Errorf("%+v", a)
		}
		got, err := os.ReadFile(filepath.Join(root, "named"))
		if err != nil || string(got) != "unnamed" {
			t.Errorf("%q, %v", got, err)
		}
	})
}
