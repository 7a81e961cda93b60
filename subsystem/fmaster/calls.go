package fmaster

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// Bounds of what is on its way to the client and unanswered. Writers wait for
// room, so a program that writes faster than the link is slowed.
const (
	maxPostedBytes = 32 << 20 // above the ordered stream's window, so that the link is never idle
	maxPosted      = 16384    // changes of a few dozen bytes each
)

// caller sends calls to fslave and matches the replies.
type caller struct {
	link    *relay.Link
	urgent  *relay.Stream
	ordered *relay.Stream
	bulk    *relay.Stream
	stats   *counters

	mu      sync.Mutex
	cond    sync.Cond    // posted, bytes or err changed
	wake    [2]sync.Cond // a sender has something to do
	timer   *time.Timer  // wakes the ordered sender
	pending map[uint32]*pendingCall
	tag     uint32
	posted  int // changes unanswered
	bytes   int
	queue   [2][]outgoing  // by path: messages waiting for their sender
	queued  int            // bytes in queue[1]
	hurry   bool           // somebody waits for an ordered message
	unsent  []*pendingCall // taken out of queue[1]: the ordered sender says that they are done
	err     error

	failed atomic.Bool // a call could not even be sent

	bufs messagePool // for replies
	wg   sync.WaitGroup
}

// smallCall has room for nearly every call but for the data of a write.
const smallCall = 64

type pendingCall struct {
	reply fsyscall.Message // filled before done is called
	// more takes the parts of a streamed reply. It is called by the reader.
	more func(fsyscall.Message)
	// done is called once, by the reader or by stop, without locks held.
	done func(h fsyscall.Header, err error)
	// cost is what the call took of the bound on posted changes.
	cost int
	lazy bool // nobody waits for the reply
	op   fsyscall.Op
	data *node // whose content the call carries, if it is one that may be dropped
	// buffer is the message that a reply of type Data is a part of. Whoever
	// takes the data may give it back to caller.bufs, once nothing uses it.
	buffer []byte
}

// messagePool has buffers for long messages, so that a stream of reads takes no
// new memory. The garbage collector empties it.
type messagePool struct{ pool sync.Pool }

func (p *messagePool) get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

func (p *messagePool) put(b []byte) {
	if cap(b) >= partSize {
		p.pool.Put(&b)
	}
}

func newCaller(l *relay.Link, st *counters) *caller {
	c := &caller{
		link:    l,
		urgent:  l.Stream(fsyscall.StreamCalls),
		ordered: l.Stream(fsyscall.StreamOrdered),
		bulk:    l.Stream(fsyscall.StreamBulk),
		stats:   st,
		pending: make(map[uint32]*pendingCall),
	}
	c.cond.L, c.wake[0].L, c.wake[1].L = &c.mu, &c.mu, &c.mu
	c.timer = time.AfterFunc(time.Hour, c.flush)
	c.timer.Stop()
	return c
}

// start begins to read replies; revoke takes the client's notices.
func (c *caller) start(revoke func(*fsyscall.Revoke)) {
	c.wg.Add(4)
	go c.read(c.urgent, revoke)
	go c.read(c.bulk, revoke)
	go c.send(0, c.urgent)
	go c.send(1, c.ordered)
}

// stop fails everything outstanding with err. The readers end when the link's
// streams do.
func (c *caller) stop(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	err = c.err
	calls := c.pending
	c.pending = make(map[uint32]*pendingCall)
	for _, p := range calls {
		c.settle(p)
	}
	c.cond.Broadcast()
	c.wake[0].Signal()
	c.wake[1].Signal()
	c.timer.Stop()
	c.mu.Unlock()
	for _, p := range calls {
		p.done(fsyscall.Header{Op: p.op, Errno: fsyscall.Errno(syscall.EIO)}, err)
	}
}

func (c *caller) read(st *relay.Stream, revoke func(*fsyscall.Revoke)) {
	defer c.wg.Done()
	var buf []byte
	for {
		if buf == nil && st == c.bulk {
			buf = c.bufs.get()
		}
		msg, err := st.ReadMessage(buf)
		if err == nil {
			buf = msg
			err = c.deliver(msg, revoke)
			if errors.Is(err, errKeepsBuffer) {
				buf, err = nil, nil
			}
		}
		if err != nil {
			c.stop(err)
			if errors.Is(err, fsyscall.ErrMalformed) {
				c.link.Abort(err)
			}
			return
		}
	}
}

// errKeepsBuffer tells the reader that the reply aliases its buffer.
var errKeepsBuffer = errors.New("the reply keeps the buffer")

func (c *caller) deliver(msg []byte, revoke func(*fsyscall.Revoke)) error {
	h, body, err := fsyscall.ParseHeader(msg)
	if err != nil {
		return err
	}
	if h.Kind == fsyscall.KindNotice && h.Op == fsyscall.OpRevoke {
		var r fsyscall.Revoke
		if err := fsyscall.Decode(body, &r); err != nil {
			return err
		}
		revoke(&r)
		return nil
	}
	if h.Kind != fsyscall.KindReply && h.Kind != fsyscall.KindMore {
		return fmt.Errorf("%w: %s from the client", fsyscall.ErrMalformed, h.Op)
	}
	return c.reply(h, msg, body)
}

func (c *caller) reply(h fsyscall.Header, msg, body []byte) error {
	c.mu.Lock()
	p := c.pending[h.Tag]
	if p != nil && h.Kind == fsyscall.KindReply {
		delete(c.pending, h.Tag)
		c.settle(p)
	}
	closed := c.err
	c.mu.Unlock()
	if p == nil {
		if closed != nil {
			return closed
		}
		return fmt.Errorf("%w: %s: a reply without a call", fsyscall.ErrMalformed, h.Op)
	}
	if h.Op != p.op {
		return fmt.Errorf("%w: a reply of %s to %s", fsyscall.ErrMalformed, h.Op, p.op)
	}
	if h.Kind == fsyscall.KindMore {
		m := h.NewBody()
		if err := fsyscall.Decode(body, m); err != nil {
			p.done(fsyscall.Header{Op: h.Op, Errno: fsyscall.Errno(syscall.EIO)}, err)
			return err
		}
		p.more(m)
		return nil
	}
	var keeps error
	if h.Errno == 0 && p.reply != nil {
		if err := fsyscall.Decode(body, p.reply); err != nil {
			p.done(fsyscall.Header{Op: h.Op, Errno: fsyscall.Errno(syscall.EIO)}, err)
			return err
		}
		switch r := p.reply.(type) {
		case *fsyscall.Data:
			p.buffer, keeps = msg, errKeepsBuffer
		case *fsyscall.OpenReply:
			// It is kept for long: a small file should not hold a large buffer.
			if len(r.Data) >= cap(msg)/2 {
				keeps = errKeepsBuffer
			} else {
				r.Data = slices.Clone(r.Data)
			}
		}
	}
	p.done(h, nil)
	return keeps
}

// settle gives back the room that a change took. c.mu is held.
func (c *caller) settle(p *pendingCall) {
	if p.cost > 0 {
		c.posted--
		c.bytes -= p.cost
		p.cost = 0
		c.cond.Broadcast()
	}
}

// register gives a call a tag.
func (c *caller) register(p *pendingCall) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	for {
		c.tag++
		if _, used := c.pending[c.tag]; c.tag != 0 && !used {
			break
		}
	}
	c.pending[c.tag] = p
	return c.tag, nil
}

// path is the stream that a message takes.
type path bool

const (
	// urgent messages overtake changes that wait for the link.
	urgent path = false
	// ordered messages arrive after all changes posted before them.
	ordered path = true
)

// notice sends a message that has no reply.
func (c *caller) notice(via path, op fsyscall.Op, m fsyscall.Message) {
	b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, m)
	if err != nil {
		return
	}
	c.transmit(via, outgoing{b: b}, op == fsyscall.OpInterrupt)
}

// attach and forget tell the client of numbers for nodes. Like post they do
// not block and may be called with the tree locked.
func (c *caller) attach(via path, m *fsyscall.Attach) { c.notice(via, fsyscall.OpAttach, m) }

func (c *caller) forget(id fsyscall.NodeID, via path) {
	c.notice(via, fsyscall.OpForget, &fsyscall.Forget{IDs: []fsyscall.NodeID{id}})
}

// begin sends a call without waiting. p.done is called exactly once, from
// another goroutine, also when the call could not be sent. The body is encoded
// before begin returns. begin does not block.
func (c *caller) begin(via path, op fsyscall.Op, m fsyscall.Message, p *pendingCall) uint32 {
	p.op = op
	if via == ordered && p.cost > 0 && c.join(m, p) {
		return 0
	}
	c.stats.call(op)
	tag, err := c.register(p)
	if err == nil {
		var o outgoing
		o, err = c.encode(fsyscall.Header{Kind: fsyscall.KindCall, Op: op, Tag: tag}, m, p.cost)
		if err == nil {
			o.data = p.data
			c.transmit(via, o, p.cost == 0 && !p.lazy)
			return tag
		}
	}
	c.mu.Lock()
	mine := tag == 0 || c.pending[tag] == p
	delete(c.pending, tag)
	c.settle(p)
	c.mu.Unlock()
	c.failed.Store(true)
	if mine { // else stop has called done
		errno := syscall.EIO
		if errors.Is(err, fsyscall.ErrMalformed) {
			errno = syscall.EINVAL
		}
		go p.done(fsyscall.Header{Op: op, Errno: fsyscall.Errno(errno)}, err)
	}
	return tag
}

// expect takes the reply to a call with the tag that somebody else sends.
func (c *caller) expect(tag uint32, op fsyscall.Op, p *pendingCall) {
	p.op = op
	c.stats.call(op)
	c.mu.Lock()
	c.pending[tag] = p
	c.tag = max(c.tag, tag)
	c.mu.Unlock()
}

// result is the end of a call.
type result struct {
	errno  syscall.Errno
	leased bool
}

func (r result) ok() bool { return r.errno == 0 }

// call sends a call and waits for its reply. It is counted as one round trip
// waited for.
func (c *caller) call(via path, op fsyscall.Op, m, reply fsyscall.Message) result {
	return c.await(via, op, m, &pendingCall{reply: reply})
}

// await is call for a pendingCall whose done is not set.
func (c *caller) await(via path, op fsyscall.Op, m fsyscall.Message, p *pendingCall) result {
	ch := make(chan result, 1)
	p.done = func(h fsyscall.Header, _ error) {
		ch <- result{syscall.Errno(h.Errno), h.Leased}
	}
	c.begin(via, op, m, p)
	defer c.stats.wait()()
	return <-ch
}

// callInterruptible is call for operations that may block for ever: when
// cancel is closed the client is asked to give up.
func (c *caller) callInterruptible(cancel <-chan struct{}, via path, op fsyscall.Op, m, reply fsyscall.Message) result {
	ch := make(chan result, 1)
	tag := c.begin(via, op, m, &pendingCall{reply: reply, done: func(h fsyscall.Header, _ error) {
		ch <- result{syscall.Errno(h.Errno), h.Leased}
	}})
	defer c.stats.wait()()
	select {
	case r := <-ch:
		return r
	case <-cancel:
		c.notice(via, fsyscall.OpInterrupt, &fsyscall.Interrupt{Tag: tag})
		return <-ch
	}
}

// changing tells whether changes are on their way.
func (c *caller) changing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.posted > 0
}

// reserve waits for room for a change of n bytes; every successful reserve is
// followed by one post with the same number.
func (c *caller) reserve(n int) error {
	n += postOverhead
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && (c.posted >= maxPosted || c.bytes > 0 && c.bytes+n > maxPostedBytes) {
		c.cond.Wait()
	}
	if c.err != nil {
		return c.err
	}
	c.posted++
	c.bytes += n
	return nil
}

// postOverhead is what a change costs of the bound beside its data.
const postOverhead = 128

// unreserve gives back what reserve took, when no post follows.
func (c *caller) unreserve(n int) {
	c.mu.Lock()
	c.posted--
	c.bytes -= n + postOverhead
	c.cond.Broadcast()
	c.mu.Unlock()
}

// post sends a change without waiting for it, after a reserve(n). It does not
// block and may be called with the tree locked, which is what keeps the order
// of the changes that of the tree's states.
func (c *caller) post(n int, op fsyscall.Op, m, reply fsyscall.Message, done func(h fsyscall.Header)) {
	c.postData(nil, n, op, m, reply, done)
}

// postData is post for a change that is not needed once data is removed.
func (c *caller) postData(data *node, n int, op fsyscall.Op, m, reply fsyscall.Message, done func(h fsyscall.Header)) {
	c.begin(ordered, op, m, &pendingCall{
		reply: reply, cost: n + postOverhead, data: data,
		done: func(h fsyscall.Header, _ error) { done(h) },
	})
}

// unanswered tells whether any posted change is.
func (c *caller) unanswered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.posted > 0
}

// barrier asks the client to answer when it has carried out everything posted so
// far. done is called before what belongs to later answers is. It returns the
// call's tag.
func (c *caller) barrier(done func(syscall.Errno)) uint32 {
	return c.begin(ordered, fsyscall.OpBarrier, &fsyscall.Empty{}, &pendingCall{reply: &fsyscall.Empty{}, done: func(h fsyscall.Header, _ error) {
		done(syscall.Errno(h.Errno))
	}})
}
