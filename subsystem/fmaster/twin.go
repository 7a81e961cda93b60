package fmaster

import (
	"crypto/sha256"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Of two machines with the same release of a system most programs and libraries
// are the same files. Where the view takes them from the client, and this
// machine has one at the same path with the same size and time, the client is
// asked for a digest, and its content only if the digests differ.

const (
	// twinSize is the least that is worth a digest: less is sent sooner.
	twinSize = 32 << 10
	// twinWorkers bounds the files of this machine that are read at once.
	twinWorkers = 2
)

// twins reads files of this machine.
type twins struct {
	slots chan struct{} // held by who reads
	wg    sync.WaitGroup
}

// openTwin opens this machine's own file that may be the same as n, or returns
// nil. s.mu is held.
func (s *Server) openTwin(n *node) *os.File {
	if n.attr.Size < twinSize || !n.system() {
		return nil
	}
	fd, err := unix.Open(n.path(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || uint64(st.Size) != n.attr.Size || st.Mtim.Sec != n.attr.Mtime.Sec {
		unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), n.name)
}

// compare takes over own, which it closes, as the content of n if the client's
// digest says that it is, and fetches the content else. Nothing waits for it;
// until it has ended n.fetching is set. s.mu is held.
func (s *Server) compare(n *node, own *os.File) {
	if s.attach(n, inTurn) != 0 {
		own.Close()
		return
	}
	g := &gathering{n: n, gen: n.gen, ready: make(chan struct{}), left: 2}
	n.fetching, n.guessed = g.ready, 0
	size := n.attr.Size
	reply := &fsyscall.DigestReply{}
	var sum [sha256.Size]byte
	done := func() { // s.mu is held
		if g.left--; g.left > 0 {
			return
		}
		if n.fetching == g.ready {
			n.fetching = nil
		}
		if g.errno == 0 && sum == reply.Sum && n.gen == g.gen && n.pending == 0 && reply.Attr.Size == size && uint64(len(g.data)) == size {
			s.learn(n, &reply.Attr, g.leased || n.until.IsZero())
			s.takeContent(n, &reply.Attr, g.data)
			s.stats.twins.Add(1)
			s.stats.twinBytes.Add(int64(size))
		} else if n.gen == g.gen && n.parent != nil && n.pending == 0 && n.fetching == nil && !s.content.has(n) {
			s.whole(n)
		}
		close(g.ready)
	}
	s.twins.wg.Go(func() {
		s.twins.slots <- struct{}{}
		data := make([]byte, size)
		_, err := io.ReadFull(own, data)
		own.Close()
		if err == nil {
			sum = sha256.Sum256(data)
		}
		<-s.twins.slots
		s.mu.Lock()
		defer s.mu.Unlock()
		if g.data = data; err != nil {
			g.data = nil
		}
		done()
	})
	s.calls.begin(inTurn, fsyscall.OpDigest, &fsyscall.Digest{ID: n.wire, Size: size}, &pendingCall{reply: reply, done: func(h fsyscall.Header, _ error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		g.errno, g.leased = syscall.Errno(h.Errno), h.Leased
		done()
	}})
}
