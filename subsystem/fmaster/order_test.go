package fmaster_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What a program has open stays open when it takes the name away at once, also
// if the file is larger than what comes with an open.
func TestOpenThenRemove(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		const files, size = 100, 300_000
		for i := range files {
			if err := os.WriteFile(filepath.Join(w.client, fmt.Sprintf("f%d", i)), bytes.Repeat([]byte{byte(i)}, size), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p := w.python()
		p.do("[os.stat('f%d' % i) for i in range(100)]")
		p.do("def take(i, flags, away): f = os.open('f%d' % i, flags); away('f%d' % i); b = os.read(f, 1000000); os.close(f); assert b == bytes([i]) * 300000, (i, len(b))")
		p.do("over = lambda name: (open('over', 'w').close(), os.rename('over', name))")
		p.do("[take(i, os.O_RDWR if i % 2 else os.O_RDONLY, over if i % 3 else os.unlink) for i in range(100)]")
	})
}

// A rename to another name of the same file does nothing, also if that is a
// symbolic link.
func TestRenameToSame(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		in := func(name string) string { return filepath.Join(w.client, name) }
		for _, err := range []error{
			os.Symlink("target", in("link")), unix.Link(in("link"), in("other")),
			os.WriteFile(in("file"), nil, 0o644), os.Link(in("file"), in("name")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		p := w.python()
		for range 2 { // the second time they are known
			p.do("os.rename('link', 'other'); os.rename('file', 'name')")
			p.do("assert sorted(os.listdir()) == ['file', 'link', 'name', 'other'], os.listdir()")
			p.do("assert os.readlink('link') == os.readlink('other') == 'target' and os.stat('file').st_nlink == 2")
		}
	})
}
