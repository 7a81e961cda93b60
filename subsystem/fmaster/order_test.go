package fmaster_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
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
