package fslave

import (
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// What is written in order to a large file is due for the disk step by step;
// nothing of a small one is, or of one written here and there.
func TestWriteoutDue(t *testing.T) {
	const size = 1 << 20
	inOrder := func(i int64) int64 { return i * size }
	for _, tt := range []struct {
		name   string
		offset func(i int64) int64
		writes int64
		steps  int
	}{
		{"large", inOrder, 64, 5}, // one of writeoutFrom, and 4
		{"small", inOrder, 31, 0},
		{"scattered", func(i int64) int64 { return writeoutFrom + 2*i*size }, 64, 0},
		{"appended", func(i int64) int64 { return 1<<30 + i*size }, 16, 2},
	} {
		var w writeout
		steps, end := 0, tt.offset(0)
		for i := range tt.writes {
			begun, length := w.due(tt.offset(i), size)
			if length == 0 {
				continue
			}
			if steps++; begun != end || begun+length != tt.offset(i)+size {
				t.Errorf("%s: %d bytes from %d after a step to %d", tt.name, length, begun, end)
			}
			end = begun + length
			w.begun = w.next
		}
		if steps != tt.steps {
			t.Errorf("%s: %d steps, want %d", tt.name, steps, tt.steps)
		}
	}
}

// What is on its way to the disk keeps neither the file open nor its server.
func TestWriteoutEnds(t *testing.T) {
	c := dial(t, t.TempDir(), Config{})
	text := strings.Repeat("x", fsyscall.MaxData)
	_, id := c.create(fsyscall.RootNode, "large", 0o644)
	f, err := c.s.files.pin(id)
	must(t, err)
	for i := range uint64(writeoutFrom/fsyscall.MaxData + 16) {
		c.write(id, i*fsyscall.MaxData, text)
	}
	if f.out.begun < writeoutFrom {
		t.Errorf("%d bytes were told to go", f.out.begun)
	}
	f.put()
	c.release(id)
	c.close()
	if f.fd != -1 {
		t.Error("the file is open after the end")
	}
}
