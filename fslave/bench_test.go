package fslave

import (
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// benchServer serves a tree and answers into done.
func benchServer(b *testing.B) (*pipe, chan int) {
	root := b.TempDir()
	put(b, root, "home/user/project/src/file", "content")
	p := &pipe{in: make(chan []byte)}
	done := make(chan int, 1)
	p.out = func(m []byte) { done <- len(m) }
	policy, err := NewPolicy("/", Defaults{Home: root + "/home"}.Rules(nil))
	must(b, err)
	s, err := New(Config{Policy: policy, Root: "/"}, p)
	must(b, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	b.Cleanup(func() {
		p.close()
		must(b, <-served)
	})
	dir := fsyscall.RootNode
	for i, name := range components(root + "/home/user/project/src") {
		id := fsyscall.NodeID(100 + i)
		p.in <- encode(b, fsyscall.OpAttach, &fsyscall.Attach{Dir: dir, Name: name, ID: id})
		dir = id
	}
	p.in <- encode(b, fsyscall.OpAttach, &fsyscall.Attach{Dir: dir, Name: "src", ID: 98})
	p.in <- encode(b, fsyscall.OpLookup, &fsyscall.Lookup{Dir: dir, Name: "file", ID: 99})
	<-done
	b.ReportAllocs()
	b.ResetTimer()
	return p, done
}

func BenchmarkGetAttr(b *testing.B) {
	p, done := benchServer(b)
	m := encode(b, fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: 99})
	for b.Loop() {
		p.in <- m
		<-done
	}
}

func BenchmarkFetch(b *testing.B) {
	p, done := benchServer(b)
	m := encode(b, fsyscall.OpFetch, &fsyscall.Fetch{ID: 99, Size: 4096})
	for b.Loop() {
		p.in <- m
		<-done
	}
}

func BenchmarkWrite(b *testing.B) {
	p, done := benchServer(b)
	p.in <- encode(b, fsyscall.OpOpen, &fsyscall.Open{ID: 99, File: 1, Flags: fsyscall.OpenWriteOnly})
	<-done
	m := encode(b, fsyscall.OpWrite, &fsyscall.Write{File: 1, Data: make([]byte, fsyscall.MaxData)})
	b.SetBytes(fsyscall.MaxData)
	for b.Loop() {
		p.in <- m
		<-done
	}
}
