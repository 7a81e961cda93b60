package fmaster

// The content of a small file that is known when a program opens it goes into
// the kernel's page cache before the answer: no read is asked for then, which
// would make the program wait for another change of process, and would take
// from the kernel the time of the last access, so that the next stat(2) asks.
//
// The kernel takes what it is given for what the file has by now. It must not
// come after a write of the session: nobody has the file open for writing or
// gets it so before it is through. What came after a change on the client is
// taken out again.

// givePages gives the content of n to the kernel if that is known and the kernel
// may need it. s.mu is held and let go of.
func (s *Server) givePages(n *node) {
	data := s.content.get(n)
	if s.cfg.Hello.NoCache || n.paged || n.paging != nil || n.pending > 0 || n.stdio != nil ||
		len(data) == 0 || len(data) > inlineMax || uint64(len(data)) != n.attr.Size {
		return
	}
	for _, o := range n.open {
		if o.writable() {
			return
		}
	}
	s.content.share(n)
	done := make(chan struct{})
	n.paged, n.paging = true, done
	s.mu.Unlock()
	err := s.device.StoreContent(uint64(n.id), data)
	s.mu.Lock()
	n.paging = nil
	close(done)
	if err != nil || !s.content.is(n, data) {
		n.paged = false
		s.notify.inode(n, true)
	}
}

// awaitPages returns when no content is on its way to the kernel. The caller has
// seen to it that none follows. s.mu is held and let go of.
func (s *Server) awaitPages(n *node) {
	if done := n.paging; done != nil {
		s.mu.Unlock()
		<-done
		s.mu.Lock()
	}
}
