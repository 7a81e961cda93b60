package fmaster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A file whose content is known when it is opened is not read through us, and
// its attributes stay known.
func TestGivenPages(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 10 {
		names = append(names, fmt.Sprintf("d/f%d", i))
	}
	w.write(names...)
	p := w.python()
	p.do("os.chdir('d'); open('f0').read()") // brings its neighbours
	w.settled()
	p.do("[os.stat('f%d' % i) for i in range(10)]")
	before := w.stat("kernel requests")
	p.do("got = [(open('f%d' % i).read(), os.stat('f%d' % i).st_size) for i in range(1, 10)]")
	if n := w.stat("kernel requests") - before; n > 2*9+2 {
		t.Errorf("%d requests for 9 files; an open and a release each were expected", n)
	}
	p.do("assert got == [('d/f%d' % i, 4) for i in range(1, 10)], got")
}

// What the session writes, and what the client does, is seen whatever content
// was given to the kernel meanwhile.
func TestGivenPagesAreNew(t *testing.T) {
	w := newWorld(t)
	w.write("f")
	const size = 3*4096 + 7
	reader := "while ! test -e stop; do cat f >/dev/null; done"
	done := make(chan string, 2)
	for range cap(done) {
		go func() {
			out, err := w.try(reader)
			done <- fmt.Sprint(out, err)
		}()
	}
	p := w.python()
	p.do("n = 0")
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		// The client's content, which takes the kernel's pages away ...
		w.onClient("f") // what is on its way would win
		text := strings.Repeat("c", size)
		if err := os.WriteFile(filepath.Join(w.client, "f"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		w.soon(fmt.Sprint(size), "cat f | tr -d '\\n' | grep -o c | wc -l")
		// ... and then the session's, part by part.
		p.do("n += 1; text = ('%c' % (97 + n % 20)) * 5000")
		p.do("f = open('f', 'r+'); f.seek(4000); f.write(text); f.close()")
		p.do("assert open('f').read() == 'c' * 4000 + text + 'c' * (" + fmt.Sprint(size) + " - 9000)")
		p.do("os.truncate('f', 4100); got = open('f').read(); assert got == 'c' * 4000 + text[:100], len(got)")
	}
	w.sh("touch stop")
	for range cap(done) {
		if out := <-done; out != "<nil>" {
			t.Error(out)
		}
	}
}
