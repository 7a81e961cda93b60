package fslave

import (
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// maxQueued bounds the revocations that wait to be sent. Past it all leases
// are taken back at once, which is one message.
const maxQueued = 16 * fsyscall.MaxRevocations

// revocations gathers what is to be revoked and sends it in batches.
type revocations struct {
	s     *Server
	mu    sync.Mutex
	index map[leaseKey]int // into items
	items []fsyscall.Revocation
	all   bool // everything is revoked; items is empty
	wake  chan struct{}
	done  chan struct{}
	send  sync.Mutex // held while a batch is taken and sent, to keep the order
}

type leaseKey struct {
	id   fsyscall.NodeID
	name string
}

func newRevocations(s *Server) *revocations {
	return &revocations{
		s: s, index: map[leaseKey]int{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// add revokes one thing. Of two revocations of one name the wider stays.
func (q *revocations) add(id fsyscall.NodeID, name string, what fsyscall.RevokeWhat) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all {
		return
	}
	key := leaseKey{id, name}
	if i, ok := q.index[key]; ok {
		q.items[i].What = wider(q.items[i].What, what)
		return
	}
	if len(q.items) == maxQueued {
		q.everything()
		return
	}
	q.index[key] = len(q.items)
	q.items = append(q.items, fsyscall.Revocation{Node: id, Name: name, What: what})
	q.signal()
}

// breadth orders revocations by what they take back.
func breadth(w fsyscall.RevokeWhat) int {
	switch w {
	case fsyscall.RevokeAttr:
		return 0
	case fsyscall.RevokeData:
		return 1
	case fsyscall.RevokeEntry:
		return 2
	case fsyscall.RevokeLink:
		return 3
	}
	return 4
}

func wider(a, b fsyscall.RevokeWhat) fsyscall.RevokeWhat {
	if breadth(b) > breadth(a) {
		return b
	}
	return a
}

// addAll revokes everything.
func (q *revocations) addAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.everything()
}

func (q *revocations) everything() {
	q.all, q.items = true, nil
	clear(q.index)
	q.signal()
}

func (q *revocations) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run sends batches until stop.
func (q *revocations) run() {
	for {
		select {
		case <-q.wake:
		case <-q.done:
			return
		}
		select {
		case <-time.After(queueDelay):
		case <-q.done:
			return
		}
		q.flush()
	}
}

func (q *revocations) stop() { close(q.done) }

// flush sends what waits.
func (q *revocations) flush() {
	q.send.Lock()
	defer q.send.Unlock()
	q.mu.Lock()
	items := q.items
	if q.all {
		items = []fsyscall.Revocation{{Node: fsyscall.RootNode, What: fsyscall.RevokeTree}}
	}
	q.items, q.all = nil, false
	clear(q.index)
	q.mu.Unlock()
	q.s.stats.revoked.Add(uint64(len(items)))
	for len(items) > 0 {
		n := min(len(items), fsyscall.MaxRevocations)
		q.sendBatch(items[:n])
		items = items[n:]
	}
}

func (q *revocations) sendBatch(items []fsyscall.Revocation) {
	h := fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpRevoke}
	b, err := fsyscall.AppendMessage(nil, h, &fsyscall.Revoke{Items: items})
	if err != nil {
		// A name that the protocol cannot say is one that was never leased.
		b, _ = fsyscall.AppendMessage(nil, h, &fsyscall.Revoke{
			Items: []fsyscall.Revocation{{Node: fsyscall.RootNode, What: fsyscall.RevokeTree}},
		})
	}
	q.s.send(b)
}
