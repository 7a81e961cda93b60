package fslave

import (
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// TestDirectoryRenumbered: names move and go by any number of their directory, also
// of what is known below another one that the server has taken back.
func TestDirectoryRenumbered(t *testing.T) {
	const root = fsyscall.RootNode
	type step func(*nodeTable)
	attach := func(dir fsyscall.NodeID, name string, id fsyscall.NodeID, ino uint64) step {
		return func(n *nodeTable) {
			t.Helper()
			if err := n.attach(dir, name, id, 1, ino); err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(n *nodeTable, dir fsyscall.NodeID, name string) place { return place{n.byID[dir], name} }
	begin := []step{
		attach(root, "a", 2, 102), attach(2, "d", 3, 103), attach(3, "f", 4, 104),
		// The numbers 2 and 3 are given anew, and 4 keeps its.
		func(n *nodeTable) { n.forget([]fsyscall.NodeID{3, 2}) },
		attach(root, "a", 12, 102), attach(12, "d", 13, 103),
	}
	for name, c := range map[string]struct {
		step step
		path string // of number 4; empty: gone
	}{
		"nothing":        {func(*nodeTable) {}, "/a/d/f"},
		"renamed":        {func(n *nodeTable) { n.renamed(at(n, 13, "f"), at(n, 13, "g"), false) }, "/a/d/g"},
		"moved up":       {func(n *nodeTable) { n.renamed(at(n, 13, "f"), at(n, 12, "g"), false) }, "/a/g"},
		"not moved":      {func(n *nodeTable) { n.renamed(at(n, 13, "f"), at(n, 13, "f"), false) }, "/a/d/f"},
		"exchanged":      {func(n *nodeTable) { n.renamed(at(n, 13, "x"), at(n, 13, "f"), true) }, "/a/d/x"},
		"renamed over":   {func(n *nodeTable) { n.renamed(at(n, 13, "x"), at(n, 13, "f"), false) }, ""},
		"removed":        {func(n *nodeTable) { n.unlinked(at(n, 13, "f")) }, ""},
		"moved by other": {func(n *nodeTable) { n.followed(at(n, 13, "f"), at(n, 13, "g"), inode{1, 104}) }, "/a/d/g"},
		"above renamed":  {func(n *nodeTable) { n.renamed(at(n, 12, "d"), at(n, root, "e"), false) }, "/e/f"},
		"two names": {func(n *nodeTable) {
			attach(13, "f", 4, 104)(n)
			n.renamed(at(n, 13, "f"), at(n, 13, "g"), false)
		}, "/a/d/g"},
	} {
		n := newNodeTable(100)
		for _, s := range begin {
			s(n)
		}
		c.step(n)
		got := ""
		if four := n.byID[4]; !four.gone {
			_, names, err := n.chain(four)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, part := range names {
				got = "/" + part + got
			}
			if len(four.alts) > 0 {
				t.Errorf("%s: further names %v", name, four.alts)
			}
		}
		if got != c.path {
			t.Errorf("%s: %q, want %q", name, got, c.path)
		}
		if four := n.doubt(at(n, 13, "f")); name == "nothing" && (len(four) != 1 || !four[0].doubt) {
			t.Errorf("%d nodes are in doubt", len(four))
		}
		n.forget([]fsyscall.NodeID{4, 12, 13})
		if len(n.at) != 0 || n.count != 1 {
			t.Errorf("%s: %d places and %d nodes are left", name, len(n.at), n.count)
		}
	}
}
