package fslave

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// file is an open file of the server's. It is made when the call that opens it
// arrives and ready when that call has ended.
type file struct {
	t      *fileTable
	id     fsyscall.FileID
	fd     int
	n      *node
	write  bool // open for writing
	mode   Mode // what the policy let be done with it when it was opened
	inode  inode
	ready  chan struct{}
	err    error
	refs   int  // guarded by fileTable.mu
	closed bool // released; the last user closes fd
	out    writeout
}

// fileTable holds the open files, and which of them are open on a node.
type fileTable struct {
	mu   sync.Mutex
	byID map[fsyscall.FileID]*file
	on   map[inode]int // files open on an inode
	max  int
}

func newFileTable(max int) *fileTable {
	return &fileTable{byID: map[fsyscall.FileID]*file{}, on: map[inode]int{}, max: max}
}

// reserve takes the number id for a file that is about to be opened.
func (t *fileTable) reserve(id fsyscall.FileID) (*file, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case id == 0 || t.byID[id] != nil:
		return nil, unix.EINVAL
	case len(t.byID) >= t.max:
		return nil, unix.ENFILE
	}
	f := &file{t: t, id: id, fd: -1, ready: make(chan struct{}), refs: 1}
	t.byID[id] = f
	return f, nil
}

// settle ends what reserve began. On success f is open on n.
func (t *fileTable) settle(f *file, n *node, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.err = err
	if err != nil {
		delete(t.byID, f.id)
	} else {
		f.n = n
		n.files = append(n.files, f)
		t.on[f.inode]++
	}
	close(f.ready)
}

// pin returns the file that id names, whether or not the call that opens it
// has ended. The caller calls put on it.
func (t *fileTable) pin(id fsyscall.FileID) (*file, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byID[id]
	if f == nil {
		return nil, unix.EBADF
	}
	f.refs++
	return f, nil
}

func (f *file) put() {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.refs--
	if f.refs == 0 && f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// finish is put for the call that released f: where nobody else still uses it,
// the error is that of close(2).
func (f *file) finish() error {
	f.t.mu.Lock()
	f.refs--
	fd := f.fd
	if f.refs == 0 {
		f.fd = -1
	}
	last := f.refs == 0 && fd >= 0
	f.t.mu.Unlock()
	if !last {
		return nil
	}
	if err := unix.Close(fd); err != unix.EINTR {
		return err
	}
	return nil // closed all the same
}

// anyOf returns a file that is open on n, or nil.
func (t *fileTable) anyOf(n *node) *file {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(n.files) == 0 {
		return nil
	}
	f := n.files[0]
	f.refs++
	return f
}

// release takes the number of f back. It reports whether no other file is open
// on the same inode any more.
func (t *fileTable) release(f *file) (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.closed {
		return false
	}
	f.closed = true
	f.refs--
	delete(t.byID, f.id)
	for i, o := range f.n.files {
		if o == f {
			f.n.files = append(f.n.files[:i], f.n.files[i+1:]...)
			break
		}
	}
	if t.on[f.inode]--; t.on[f.inode] > 0 {
		return false
	}
	delete(t.on, f.inode)
	return true
}

// closeAll closes every file at the end of the connection.
func (t *fileTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, f := range t.byID {
		delete(t.byID, id)
		if f.refs--; f.refs == 0 && f.fd >= 0 {
			unix.Close(f.fd)
			f.fd = -1
		}
	}
}
