package client

import (
	"math/bits"
	"sync"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// outbox holds what is still to be written to StreamControl. Its writer may
// block on a dead link; those who post never do. It is bounded: there is one
// Hello, one Exec per command, and signals and sizes that wait are merged, as
// the kernel merges a pending signal.
type outbox struct {
	mu      *sync.Mutex
	changed chan struct{} // capacity one
	over    chan struct{}
	queue   [][]byte
	signals map[uint32]uint64
	sizes   map[uint32]fsyscall.Size
}

func newOutbox() outbox {
	return outbox{
		mu: new(sync.Mutex), changed: make(chan struct{}, 1), over: make(chan struct{}),
		signals: map[uint32]uint64{}, sizes: map[uint32]fsyscall.Size{},
	}
}

func (o *outbox) update(f func()) {
	o.mu.Lock()
	f()
	o.mu.Unlock()
	offer(o.changed, struct{}{})
}

func (o *outbox) post(msg []byte) { o.update(func() { o.queue = append(o.queue, msg) }) }

func (o *outbox) signal(cmd uint32, sig uint8) {
	o.update(func() { o.signals[cmd] |= 1 << (sig - 1) })
}

func (o *outbox) resize(cmd uint32, size fsyscall.Size) {
	o.update(func() { o.sizes[cmd] = size })
}

// close ends run, which must not be blocked in writing by then.
func (o *outbox) close() { close(o.over) }

// run writes what is posted until close is called or writing fails; why is
// then the reader's to say.
func (o *outbox) run(ctl interface{ WriteMessage(...[]byte) error }) {
	for {
		select {
		case <-o.over:
			return
		case <-o.changed:
		}
		for _, msg := range o.take() {
			if ctl.WriteMessage(msg) != nil {
				return
			}
		}
	}
}

// take returns everything that waits. Sizes come before signals: SIGCONT
// follows the size it is to be drawn at.
func (o *outbox) take() [][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	msgs := o.queue
	o.queue = nil
	for cmd, size := range o.sizes {
		msgs = append(msgs, notice(fsyscall.OpWinsize, &fsyscall.Winsize{Cmd: cmd, Size: size}))
	}
	clear(o.sizes)
	for cmd, set := range o.signals {
		for ; set != 0; set &= set - 1 {
			sig := uint8(bits.TrailingZeros64(set) + 1)
			msgs = append(msgs, notice(fsyscall.OpSignal, &fsyscall.Signal{Cmd: cmd, Sig: sig}))
		}
	}
	clear(o.signals)
	return msgs
}

// notice encodes a message of numbers only, which cannot break a bound.
func notice(op fsyscall.Op, m fsyscall.Message) []byte {
	b, _ := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, m)
	return b
}
