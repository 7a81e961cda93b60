package relay

import (
	"math/bits"
	"sync"
)

// frame is a frame in memory: queued, kept until acknowledged, or received.
type frame struct {
	buf   []byte // header and payload
	seq   uint64
	flags uint8
	next  *frame
	bulk  bool
	off   int    // bytes of the payload that a reader has taken
	taken uint64 // cost of the received frame

	// Where a sent frame went; see resend.
	path *path
	sent bool
	// busy: so many Writes are using buf. acked: free it when none is.
	busy   int
	acked  bool
	pacing sample
}

func (f *frame) payload() []byte { return f.buf[headerSize:] }

// cost is what the frame takes of its stream's window.
func (f *frame) cost() uint64 { return cost(len(f.buf) - headerSize) }

func cost(payload int) uint64 { return frameCost + uint64(payload) }

// pool keeps frames by the size of their buffers, powers of two from 512
// bytes to 64 KiB: what is kept takes at most twice what it costs.
type pool [8]sync.Pool

const poolSmallest = 9 // log2 of the smallest buffer

func poolClass(size int) int {
	return max(bits.Len(uint(size-1)), poolSmallest) - poolSmallest
}

// get returns a frame with room for n bytes of payload, n ≤ MaxPayload.
func (p *pool) get(n int) *frame {
	size := headerSize + n
	c := poolClass(size)
	if f, ok := p[c].Get().(*frame); ok {
		f.buf = f.buf[:size]
		return f
	}
	return &frame{buf: make([]byte, size, 1<<(c+poolSmallest))}
}

// put takes a frame back that nothing refers to any more.
func (p *pool) put(f *frame) {
	c := poolClass(cap(f.buf))
	*f = frame{buf: f.buf}
	p[c].Put(f)
}

// frames is a queue of frames.
type frames struct{ head, tail *frame }

func (q *frames) push(f *frame) {
	if q.tail == nil {
		q.head = f
	} else {
		q.tail.next = f
	}
	q.tail = f
}

func (q *frames) pop() *frame {
	f := q.head
	q.head = f.next
	if q.head == nil {
		q.tail = nil
	}
	f.next = nil
	return f
}
