package fslave

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// What was asked to be opened before a change is open, whatever the change does
// to its name or its mode.
func TestOpenBeforeChange(t *testing.T) {
	root := t.TempDir()
	c := dial(t, root, Config{})
	for name, change := range map[string]func(name string, id fsyscall.NodeID) (fsyscall.Op, fsyscall.Message){
		"unlink": func(name string, _ fsyscall.NodeID) (fsyscall.Op, fsyscall.Message) {
			return fsyscall.OpUnlink, &fsyscall.Unlink{Dir: fsyscall.RootNode, Name: name}
		},
		"rename over": func(name string, _ fsyscall.NodeID) (fsyscall.Op, fsyscall.Message) {
			put(t, root, "over", "over")
			return fsyscall.OpRename, &fsyscall.Rename{Dir: fsyscall.RootNode, Name: "over", NewDir: fsyscall.RootNode, NewName: name}
		},
		"rename": func(name string, _ fsyscall.NodeID) (fsyscall.Op, fsyscall.Message) {
			return fsyscall.OpRename, &fsyscall.Rename{Dir: fsyscall.RootNode, Name: name, NewDir: fsyscall.RootNode, NewName: name + ".new"}
		},
		"chmod": func(_ string, id fsyscall.NodeID) (fsyscall.Op, fsyscall.Message) {
			return fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: id, Mask: fsyscall.SetMode}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 200 {
				f := fmt.Sprintf("%s %d", name, i)
				put(t, root, f, f)
				id, file := c.walk(f), fsyscall.FileID(c.id())
				op, m := change(f, id)
				_, opened := c.send(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: file, Flags: fsyscall.OpenReadWrite})
				_, changed := c.send(op, m)
				if a := c.last(opened); a.h.Errno != 0 {
					t.Fatalf("open %d: %v", i, unix.Errno(a.h.Errno))
				}
				if a := c.last(changed); a.h.Errno != 0 {
					t.Fatalf("change %d: %v", i, unix.Errno(a.h.Errno))
				}
				if got := c.read(file, 0, 100); got != f {
					t.Fatalf("read %d: %q", i, got)
				}
				c.release(file)
			}
		})
	}
}
