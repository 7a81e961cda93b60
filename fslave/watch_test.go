package fslave

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func (c *client) takeRevoked() []fsyscall.Revocation {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.revoked
	c.revoked = nil
	return out
}

// awaitRevoked waits for a revocation and tells how long it took to come.
func (c *client) awaitRevoked(want ...fsyscall.Revocation) time.Duration {
	c.t.Helper()
	start := time.Now()
	for time.Since(start) < 5*time.Second {
		c.mu.Lock()
		found := true
		for _, w := range want {
			found = found && slices.Contains(c.revoked, w)
		}
		c.mu.Unlock()
		if found {
			return time.Since(start)
		}
		select {
		case <-c.got:
		case <-time.After(100 * time.Millisecond):
		}
	}
	c.t.Fatalf("not revoked: %v; got %v", want, c.takeRevoked())
	return 0
}

func (c *client) leased(op fsyscall.Op, m fsyscall.Message) bool {
	c.t.Helper()
	_, ch := c.send(op, m)
	return c.last(ch).h.Leased
}

// Every kind of change that a local program can make is told, at once.
func TestForeignChanges(t *testing.T) {
	const name = "f"
	entry := func(dir fsyscall.NodeID, name string) fsyscall.Revocation {
		return fsyscall.Revocation{Node: dir, Name: name, What: fsyscall.RevokeEntry}
	}
	tests := []struct {
		name   string
		change func(dir string) error
		want   func(dir fsyscall.NodeID) []fsyscall.Revocation
	}{
		{"content", func(d string) error {
			f, err := os.OpenFile(filepath.Join(d, name), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("X")
			return err
		}, func(dir fsyscall.NodeID) []fsyscall.Revocation {
			return []fsyscall.Revocation{{Node: dir, Name: name, What: fsyscall.RevokeData}}
		}},
		{"size", func(d string) error { return os.Truncate(filepath.Join(d, name), 1) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{{Node: dir, Name: name, What: fsyscall.RevokeData}}
			}},
		{"mode", func(d string) error { return os.Chmod(filepath.Join(d, name), 0o600) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{{Node: dir, Name: name, What: fsyscall.RevokeAttr}}
			}},
		{"xattr", func(d string) error { return unix.Setxattr(filepath.Join(d, name), "user.x", []byte("v"), 0) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{{Node: dir, Name: name, What: fsyscall.RevokeAttr}}
			}},
		{"new file", func(d string) error { return os.WriteFile(filepath.Join(d, "new"), nil, 0o666) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation { return []fsyscall.Revocation{entry(dir, "new")} }},
		{"further name", func(d string) error { return os.Link(filepath.Join(d, name), filepath.Join(d, "hard")) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{{Node: dir, Name: "hard", What: fsyscall.RevokeLink}}
			}},
		{"removed file", func(d string) error { return os.Remove(filepath.Join(d, name)) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation { return []fsyscall.Revocation{entry(dir, name)} }},
		{"rename over", func(d string) error {
			if err := os.WriteFile(filepath.Join(d, "..", "other"), []byte("other"), 0o666); err != nil {
				return err
			}
			return os.Rename(filepath.Join(d, "..", "other"), filepath.Join(d, name))
		}, func(dir fsyscall.NodeID) []fsyscall.Revocation { return []fsyscall.Revocation{entry(dir, name)} }},
		{"rename of a directory above", func(d string) error { return os.Rename(d, d+"-moved") },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{
					entry(fsyscall.RootNode, "dir"), entry(fsyscall.RootNode, "dir-moved"),
					{Node: dir, What: fsyscall.RevokeTree},
				}
			}},
		{"symlink retargeted", func(d string) error {
			if err := os.Symlink("elsewhere", filepath.Join(d, "tmp")); err != nil {
				return err
			}
			return os.Rename(filepath.Join(d, "tmp"), filepath.Join(d, "link"))
		}, func(dir fsyscall.NodeID) []fsyscall.Revocation { return []fsyscall.Revocation{entry(dir, "link")} }},
		{"directory's own mode", func(d string) error { return os.Chmod(d, 0o700) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{{Node: dir, What: fsyscall.RevokeAttr}}
			}},
		{"directory removed", func(d string) error { return os.RemoveAll(d) },
			func(dir fsyscall.NodeID) []fsyscall.Revocation {
				return []fsyscall.Revocation{{Node: dir, What: fsyscall.RevokeTree}, entry(fsyscall.RootNode, "dir")}
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root, "dir/"+name, "content")
			must(t, os.Symlink("target", filepath.Join(root, "dir/link")))
			c := dial(t, root, Config{})
			dir := c.walk("dir")
			if !c.leased(fsyscall.OpList, &fsyscall.List{ID: dir}) {
				t.Fatal("listing is not leased")
			}
			if !c.leased(fsyscall.OpLookup, &fsyscall.Lookup{Dir: dir, Name: "absent", ID: c.id()}) {
				t.Error("absence is not leased")
			}
			must(t, tt.change(filepath.Join(root, "dir")))
			took := c.awaitRevoked(tt.want(dir)...)
			t.Logf("told after %v", took)
		})
	}
}

// The delay from change to wire, over many changes: the median is what the
// design promises with room to spare, however busy the machine.
func TestRevokeDelay(t *testing.T) {
	root := t.TempDir()
	path := put(t, root, "f", "")
	c := dial(t, root, Config{})
	c.walk("f")
	var took []time.Duration
	for i := range 51 {
		time.Sleep(5 * time.Millisecond)
		c.takeRevoked()
		must(t, os.Chmod(path, os.FileMode(0o600+i%2)))
		took = append(took, c.awaitRevoked(fsyscall.Revocation{Node: fsyscall.RootNode, Name: "f", What: fsyscall.RevokeAttr}))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 20*time.Millisecond {
		t.Errorf("median %v, longest %v", median, took[len(took)-1])
	}
}

// settled waits until what has been changed so far would have been told.
func (c *client) settled() {
	probe := filepath.Join(c.root, "settled")
	os.Remove(probe)
	if err := os.Mkdir(probe, 0o777); err != nil {
		c.t.Fatal(err)
	}
	c.awaitRevoked(fsyscall.Revocation{Node: fsyscall.RootNode, Name: "settled", What: fsyscall.RevokeEntry})
}

// A long random workload of the server's own revokes nothing.
func TestOwnChangesRevokeNothing(t *testing.T) {
	root := t.TempDir()
	put(t, root, "keep", "x")
	c := dial(t, root, Config{})
	c.do(fsyscall.OpList, &fsyscall.List{ID: fsyscall.RootNode}, 0)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &workload{c: c, r: rand.New(rand.NewPCG(seed, 1)), dirs: []ownDir{{fsyscall.RootNode, map[string]ownFile{}}}}
	for range 10000 {
		w.step()
	}
	c.do(fsyscall.OpBarrier, nil, 0)
	c.settled()
	got := slices.DeleteFunc(c.takeRevoked(), func(r fsyscall.Revocation) bool { return r.Name == "settled" })
	if len(got) > 0 {
		t.Errorf("%d revocations, first %v", len(got), got[:min(5, len(got))])
	}
	if w.done < 2500 {
		t.Errorf("only %d operations succeeded", w.done)
	}
}

type ownFile struct {
	id   fsyscall.NodeID
	dir  bool
	file fsyscall.FileID
}

type ownDir struct {
	id    fsyscall.NodeID
	files map[string]ownFile
}

type workload struct {
	c    *client
	r    *rand.Rand
	dirs []ownDir
	done int
}

func (w *workload) do(op fsyscall.Op, m fsyscall.Message) bool {
	ok := w.c.call(op, m).h.Errno == 0
	if ok {
		w.done++
	}
	return ok
}

func (w *workload) step() {
	c := w.c
	d := w.dirs[w.r.IntN(len(w.dirs))]
	name := fmt.Sprintf("n%d", w.r.IntN(12))
	f, known := d.files[name]
	id, file := c.id(), fsyscall.FileID(c.id())
	switch w.r.IntN(16) {
	case 0, 1, 2:
		if w.do(fsyscall.OpCreate, &fsyscall.Create{Dir: d.id, Name: name, ID: id, File: file, Flags: fsyscall.OpenReadWrite, Mode: 0o644}) {
			d.files[name] = ownFile{id: id, file: file}
		}
	case 3:
		if w.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: d.id, Name: name, ID: id, Mode: 0o755}) {
			d.files[name] = ownFile{id: id, dir: true}
			w.dirs = append(w.dirs, ownDir{id, map[string]ownFile{}})
			c.call(fsyscall.OpList, &fsyscall.List{ID: id})
		}
	case 4:
		if w.do(fsyscall.OpSymlink, &fsyscall.Symlink{Dir: d.id, Name: name, ID: id, Target: "x"}) {
			d.files[name] = ownFile{id: id}
		}
	case 5, 6:
		if known && f.file != 0 {
			w.do(fsyscall.OpWrite, &fsyscall.Write{File: f.file, Append: true, Data: make([]byte, w.r.IntN(9000))})
		}
	case 7:
		if known {
			w.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: f.id, Mask: fsyscall.SetMode | fsyscall.SetMtimeNow, Mode: 0o700})
		}
	case 8:
		if known && f.file != 0 {
			w.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: f.id, Mask: fsyscall.SetSize, Size: uint64(w.r.IntN(5000))})
		}
	case 9:
		if known && f.file != 0 {
			w.do(fsyscall.OpRelease, &fsyscall.Release{File: f.file, Times: true, Mtime: fsyscall.Time{Sec: 1}})
			f.file = 0
			d.files[name] = f
		}
	case 10:
		if known && !f.dir && w.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: d.id, Name: name}) {
			delete(d.files, name)
		} else if known && f.dir && w.do(fsyscall.OpRmdir, &fsyscall.Rmdir{Dir: d.id, Name: name}) {
			delete(d.files, name)
		}
	case 11, 12:
		w.rename(d, name, f, known)
	case 13:
		if known && !f.dir {
			to := fmt.Sprintf("n%d", w.r.IntN(12))
			if w.do(fsyscall.OpLink, &fsyscall.Link{ID: f.id, Dir: d.id, Name: to}) {
				d.files[to] = ownFile{id: f.id}
			}
		}
	case 14, 15: // which has a file of several names watched itself
		if known {
			w.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: f.id})
		}
	}
}

func (w *workload) rename(d ownDir, name string, f ownFile, known bool) {
	to := w.dirs[w.r.IntN(len(w.dirs))]
	newName := fmt.Sprintf("n%d", w.r.IntN(12))
	other, exists := to.files[newName]
	flags := []fsyscall.RenameFlags{0, fsyscall.RenameNoReplace, fsyscall.RenameExchange}[w.r.IntN(3)]
	if !known || (d.id == to.id && name == newName) || f.id == other.id {
		return
	}
	if !w.do(fsyscall.OpRename, &fsyscall.Rename{Dir: d.id, Name: name, NewDir: to.id, NewName: newName, Flags: flags}) {
		return
	}
	delete(d.files, name)
	to.files[newName] = f
	if flags == fsyscall.RenameExchange && exists {
		d.files[name] = other
	}
}

// A directory that someone moves is followed, and nodes below it stay good.
func TestForeignMoveFollowed(t *testing.T) {
	root := t.TempDir()
	put(t, root, "a/sub/file", "content")
	put(t, root, "b/other", "")
	c := dial(t, root, Config{})
	file := c.walk("a/sub/file")
	b := c.walk("b")
	c.do(fsyscall.OpList, &fsyscall.List{ID: b}, 0)
	must(t, os.Rename(filepath.Join(root, "a/sub"), filepath.Join(root, "b/moved")))
	c.awaitRevoked(fsyscall.Revocation{Node: b, Name: "moved", What: fsyscall.RevokeEntry})
	if got := c.read(c.open(file, 0), 0, 100); got != "content" {
		t.Errorf("read %q", got)
	}
	// Out of what is watched, it is lost.
	must(t, os.Mkdir(filepath.Join(root, "b/far"), 0o777))
	must(t, os.Rename(filepath.Join(root, "b/moved"), filepath.Join(root, "b/far/away")))
	c.awaitRevoked(fsyscall.Revocation{Node: b, Name: "far", What: fsyscall.RevokeEntry})
	time.Sleep(2 * queueDelay)
	if a := c.call(fsyscall.OpReadLink, &fsyscall.ReadLink{ID: file}); unix.Errno(a.h.Errno) != unix.ENOENT && unix.Errno(a.h.Errno) != unix.ESTALE {
		t.Errorf("after the move: %v", a.h)
	}
}

// Without watches left, answers are right but not leased, and a directory
// given up for another is revoked first.
func TestWatchLimit(t *testing.T) {
	root := t.TempDir()
	for i := range 6 {
		put(t, root, fmt.Sprintf("d%d/f", i), "")
	}
	c := dial(t, root, Config{MaxWatches: 2})
	var dirs []fsyscall.NodeID
	for i := range 6 {
		id := c.walk(fmt.Sprintf("d%d", i))
		dirs = append(dirs, id)
		if !c.leased(fsyscall.OpList, &fsyscall.List{ID: id}) {
			t.Errorf("d%d: not leased", i)
		}
	}
	c.awaitRevoked(
		fsyscall.Revocation{Node: dirs[0], What: fsyscall.RevokeTree},
		fsyscall.Revocation{Node: dirs[1], What: fsyscall.RevokeTree},
	)
	if st := c.s.Stats(); st.WatchesDropped == 0 {
		t.Errorf("%+v", st)
	}

	none := dial(t, root, Config{NoWatch: true})
	id := none.walk("d0")
	if none.leased(fsyscall.OpList, &fsyscall.List{ID: id}) {
		t.Error("leased without a watch")
	}
	if got := none.names(id); !slices.Equal(got, []string{"f"}) {
		t.Errorf("listed %q", got)
	}
}

// What changes by way of a second name of a directory is foreign to the first.
func TestSecondNodeIsForeign(t *testing.T) {
	root := t.TempDir()
	put(t, root, "dir/f", "")
	c := dial(t, root, Config{})
	one, two := c.walk("dir"), c.walk("dir")
	c.do(fsyscall.OpList, &fsyscall.List{ID: one}, 0)
	c.do(fsyscall.OpList, &fsyscall.List{ID: two}, 0)
	c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: one, Name: "f"}, 0)
	c.awaitRevoked(fsyscall.Revocation{Node: two, Name: "f", What: fsyscall.RevokeEntry})
	if got := c.takeRevoked(); slices.ContainsFunc(got, func(r fsyscall.Revocation) bool { return r.Node == one }) {
		t.Errorf("revoked from who did it: %v", got)
	}
}

// More changes than are worth telling apart take everything back in a few
// messages, and do not hold up anything else.
func TestMassChange(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	c.do(fsyscall.OpList, &fsyscall.List{ID: fsyscall.RootNode}, 0)
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(root, fmt.Sprint(i)), nil, 0o666))
	}
	if got := len(c.names(fsyscall.RootNode)); got != 3000 {
		t.Errorf("%d names", got)
	}
	last := fsyscall.Revocation{Node: fsyscall.RootNode, Name: "2999", What: fsyscall.RevokeEntry}
	c.awaitRevoked(last)

	q := newRevocations(c.s)
	for i := range maxQueued + 1 {
		q.add(fsyscall.NodeID(i+2), "", fsyscall.RevokeAttr)
	}
	if !q.all || len(q.items) != 0 {
		t.Errorf("%d queued", len(q.items))
	}
}

func TestForgottenIsUnwatched(t *testing.T) {
	root := t.TempDir()
	put(t, root, "dir/f", "")
	c := dial(t, root, Config{})
	dir := c.walk("dir")
	c.do(fsyscall.OpList, &fsyscall.List{ID: dir}, 0)
	c.send(fsyscall.OpForget, &fsyscall.Forget{IDs: []fsyscall.NodeID{dir}})
	c.do(fsyscall.OpBarrier, nil, 0)
	c.s.watch.mu.Lock()
	n := len(c.s.watch.byWD)
	c.s.watch.mu.Unlock()
	if n != 1 {
		t.Errorf("%d watches, want that of the root", n)
	}
}
