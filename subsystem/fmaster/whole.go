package fmaster

import "strings"

// A program that is mapped, or a file with an index, is read here and there. Of
// one that is not large, the rest is asked for in one flight after a few such
// reads, and of what looks like a program or a library at once: it costs what it
// takes to send, instead of a round trip for each.

const (
	// scattered is how many reads out of order show that more will come.
	scattered = 3
	// maxWholeDebt bounds what was asked for in this way, less twice what
	// programs have read of it: as long as a half of it is of use it goes on.
	maxWholeDebt = 32 << 20
)

// isProgram tells whether n is likely to be mapped by the kernel or by a dynamic
// linker.
func (n *node) isProgram() bool {
	return n.isRegular() && (n.attr.Mode&0o111 != 0 || strings.Contains(n.name, ".so"))
}

// wantsWhole counts a read out of order and tells whether the whole file is to
// be asked for. a.mu is held.
func (a *readAhead) wantsWhole(s *Server, via path, size uint64) bool {
	a.scattered++
	return a.bounded && !a.pinned && via == urgent && (a.program || a.scattered >= scattered) && size > 0 && size <= maxRecalled &&
		s.wholeDebt.Load()+int64(size) <= maxWholeDebt && s.aheadBytes.Load()+int64(size) <= maxAheadBytes
}

// askWhole asks for all of f, what is at off first. The parts stay until the
// file is closed, or known whole. a.mu is held.
func (s *Server) askWhole(f *file, off, size uint64) {
	a := &f.ahead
	a.reset(s)
	a.pinned = true
	a.owed = int64(size)
	s.wholeDebt.Add(a.owed)
	if a.collect(s, size); a.collector != nil {
		a.collector.whole = true
	}
	for at := uint64(0); at < size; at += partSize {
		a.parts = append(a.parts, &part{off: at, size: partSize, ready: make(chan struct{})})
		s.aheadBytes.Add(partSize)
		s.stats.read.Add(partSize)
	}
	first := int(off / partSize)
	for i := range a.parts {
		s.fetchPart(f, a.parts[(first+i)%len(a.parts)])
	}
}

// repay notes that n bytes of what was asked for were of use. a.mu is held.
func (a *readAhead) repay(s *Server, n int) {
	d := min(2*int64(n), a.owed)
	a.owed -= d
	s.wholeDebt.Add(-d)
}
