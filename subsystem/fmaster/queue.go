package fmaster

import (
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// outgoing is a message that waits for its sender.
type outgoing struct {
	b      []byte
	packed *relay.Packed // in the place of b
	tag    uint32
	data   *node // whose content it carries, or nil
}

func (o *outgoing) len() int {
	if o.packed != nil {
		return o.packed.Len()
	}
	return len(o.b)
}

// packFrom is from how much data on a write is not joined with the next any more,
// but copied to where it is sent from.
const packFrom = 64 << 10

// encode makes the message of a call. The data of a large write is copied just
// once, to where the link sends it from.
func (c *caller) encode(h fsyscall.Header, m fsyscall.Message, cost int) (outgoing, error) {
	w, ok := m.(*fsyscall.Write)
	if !ok || len(w.Data) < packFrom || len(w.Data) > fsyscall.MaxData {
		b, err := fsyscall.AppendMessage(make([]byte, 0, smallCall+cost), h, m)
		return outgoing{b: b, tag: h.Tag}, err
	}
	head := *w
	head.Data = nil
	b, err := fsyscall.AppendMessage(make([]byte, 0, smallCall), h, &head)
	if err != nil {
		return outgoing{}, err
	}
	fsyscall.Announce(b, len(w.Data))
	packed, err := c.link.Pack(b, w.Data)
	return outgoing{packed: packed, tag: h.Tag}, err
}

// transmit hands a message to the sender of its stream. What waits there is
// bounded by the bounds of what may be posted, and by the number of requests
// that the kernel and the run-ahead have under way.
//
// A change that nobody waits for may wait a moment for others: each message
// that goes alone wakes four processes on its way to the client's disk.
func (c *caller) transmit(via path, o outgoing, waited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if via == urgent {
		c.queue[0] = append(c.queue[0], o)
		c.wake[0].Signal()
		return
	}
	first := len(c.queue[1]) == 0
	c.queue[1] = append(c.queue[1], o)
	c.queued += o.len()
	switch {
	case waited || c.queued >= batchBytes:
		c.hurry = true
		c.wake[1].Signal()
	case first:
		c.timer.Reset(batchDelay)
	}
}

// What a program writes in small pieces leaves in batches of batchBytes, or
// batchDelay after the first of them: nobody waits for it, so the delay costs
// nothing but the freshness of the client's file.
const (
	batchBytes = 256 << 10
	batchDelay = 5 * time.Millisecond
)

// flush lets the ordered sender go on: what waits has waited long enough.
func (c *caller) flush() {
	c.mu.Lock()
	c.hurry = true
	c.wake[1].Signal()
	c.mu.Unlock()
}

// send moves waiting messages into a stream of the link.
func (c *caller) send(i int, st *relay.Stream) {
	defer c.wg.Done()
	for {
		c.mu.Lock()
		for c.err == nil && (len(c.queue[i]) == 0 || i == 1 && !c.hurry) && (i == 0 || len(c.unsent) == 0) {
			c.wake[i].Wait()
		}
		q := c.dequeue(i)
		var unsent []*pendingCall
		if i == 1 {
			unsent, c.unsent = c.unsent, nil
		}
		err := c.err
		c.mu.Unlock()
		for _, p := range unsent {
			p.done(fsyscall.Header{Op: p.op}, nil)
		}
		if err != nil {
			return
		}
		for _, o := range q {
			var err error
			if o.packed != nil {
				err = st.WritePacked(o.packed)
			} else {
				err = st.WriteMessage(o.b)
			}
			if err != nil {
				c.stop(err)
				return
			}
		}
	}
}

// dequeue takes the messages that are to be sent next: of the ordered ones no
// more than the link takes soon, since some may turn out not to be needed.
func (c *caller) dequeue(i int) []outgoing {
	q := c.queue[i]
	if i == 0 {
		c.queue[0] = nil
		return q
	}
	if !c.hurry {
		return nil
	}
	n, size := 0, 0
	for n < len(q) && size < batchBytes {
		size += q[n].len()
		n++
	}
	c.queued -= size
	c.queue[1] = q[n:]
	if n == len(q) {
		c.queue[1], c.hurry = nil, false
	}
	return q[:n:n]
}

// dropData takes what was written to n and not sent out of the queue: n is
// about to be removed, and nobody has it open. It may be called with the tree
// locked.
func (c *caller) dropData(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.queue[1][:0]
	for _, o := range c.queue[1] {
		p := c.pending[o.tag]
		if o.data != n || p == nil {
			kept = append(kept, o)
			continue
		}
		delete(c.pending, o.tag)
		c.settle(p)
		c.unsent = append(c.unsent, p)
		c.queued -= o.len()
		c.stats.neverSent.Add(uint64(o.len()))
	}
	clear(c.queue[1][len(kept):])
	c.queue[1] = kept
	c.wake[1].Signal()
}
