package fslave

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writeout has what is written to a large file in order go to the disk while
// more of it is on its way here. Left alone the kernel keeps it until a tenth of
// the memory is dirty, and an fsync at the end waits for all of it while the
// link has nothing to do.
type writeout struct {
	next  int64 // where a write in order goes on; with begun, of the calls that are executed in turn
	begun int64 // what is before this was told to go
	busy  atomic.Bool
}

const (
	// writeoutFrom: what is smaller is often removed soon, and then never
	// needs to reach the disk.
	writeoutFrom = 32 << 20
	// writeoutStep is long enough for any disk, and as much as a link of
	// 1 Gbit/s brings in 70 ms.
	writeoutStep = 8 << 20
)

// due takes note of a write and returns what should now go to the disk, if
// anything.
func (w *writeout) due(off int64, n int) (begun, length int64) {
	if off != w.next {
		w.begun = off
	}
	w.next = off + int64(n)
	if w.next < writeoutFrom || w.next-w.begun < writeoutStep {
		return 0, 0
	}
	return w.begun, w.next - w.begun
}

// wrote takes note of a write to f, which the caller keeps from being closed.
func (s *Server) wrote(f *file, off int64, n int) {
	w := &f.out
	begun, length := w.due(off, n)
	if length == 0 || !w.busy.CompareAndSwap(false, true) {
		return // nothing is due, or the disk has not taken what was
	}
	if _, err := s.files.pin(f.id); err != nil {
		w.busy.Store(false)
		return
	}
	w.begun = w.next
	s.others.Go(func() {
		// Only speed depends on it: an error of the disk is fsync's to report.
		_ = unix.SyncFileRange(f.fd, begun, length, unix.SYNC_FILE_RANGE_WRITE)
		w.busy.Store(false)
		f.put()
	})
}
