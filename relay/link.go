package relay

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// state is how far a link's life has gone:
//
//	open ──Close──→ closing ──both byes──→ ended
//	  └──peer's bye──→ leaving ──our bye──→ ended
//	any ──fail──→ ended
type state uint8

const (
	open    state = iota
	closing       // Close was called: what is queued goes out, then our bye
	leaving       // the peer said bye: our bye goes out
	ended
)

// Link is one end of a link. Its methods may be called concurrently.
//
// Lock order: a stream's wmu or rmu, then Link.mu. Nothing blocks under mu.
type Link struct {
	cfg   Config
	pool  pool
	zstd  codec
	start time.Time

	mu        sync.Mutex
	state     state
	err       error // why the link ended; nil in good order
	streams   map[uint32]*Stream
	retired   idSet
	unclaimed int
	paths     []*path // [0] is the first; others come and go
	ready     [priorities]ring

	// Answers to the peer, taken by the first path's writer.
	acks      []*Stream // streams with something new to acknowledge or grant
	acksNow   bool      // do not wait for other traffic
	ackDebt   uint64    // cost received since acks were last sent
	stops     []*Stream
	pong      []byte // the last ping not yet answered, or nil
	ping      bool   // a ping is to be sent
	pingSent  uint64 // what it said; zero: none is unanswered
	farewell  []byte // why we give up, for a bye; empty: say nothing
	byeQueued bool   // our bye was handed to the first path's Write
	byeSent   bool
	byePeer   bool

	bulk bulkCount

	rtt   atomic.Int64
	slow  atomic.Bool // the measured rate is below slowRate
	stats counters

	ending chan struct{} // closed when state becomes ended
	done   chan struct{} // closed when every goroutine has returned
	wg     sync.WaitGroup
}

type counters struct {
	bytesIn, bytesOut, framesIn, framesOut atomic.Uint64
}

// Stats are a link's counters since its start.
type Stats struct {
	// Bytes on the byte streams, everything counted.
	BytesIn, BytesOut uint64
	// Frames of all types.
	FramesIn, FramesOut uint64
	// RTT is the last round trip measured by a ping, MinRTT the shortest that
	// is known; zero: none yet.
	RTT, MinRTT time.Duration
	// Rate is the measured rate of bulk data to the peer, in bytes per
	// second; zero: not known.
	Rate float64
	// Streams is how many streams are open, Paths how many byte streams.
	Streams, Paths int
	// Attached is how many byte streams were attached and came up, Striped the
	// bytes of frames that came and went over them.
	Attached int
	Striped  uint64
	// Plain and Compressed are the payload bytes that were compressed for
	// sending, before and after; Expanded and Wire those of received frames
	// that have been read, likewise.
	Plain, Compressed, Expanded, Wire uint64
}

// PlainIn and PlainOut are what BytesIn and BytesOut would be without
// compression.
func (s Stats) PlainIn() uint64  { return s.BytesIn + s.Expanded - s.Wire }
func (s Stats) PlainOut() uint64 { return s.BytesOut + s.Plain - s.Compressed }

// New starts a link over rw, whose Close must not block and must make blocked
// calls of Read and Write return. The link owns rw.
func New(rw io.ReadWriteCloser, cfg Config) *Link {
	l := &Link{
		cfg:     cfg.filled(),
		start:   time.Now(),
		streams: make(map[uint32]*Stream),
		ping:    true, // the round trip is good to know
		ending:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addPath(rw, roleFirst)
	if l.cfg.KeepaliveInterval > 0 {
		l.wg.Add(1)
		go l.keepalive()
	}
	go l.supervise()
	return l
}

// Attach adds a byte stream, over which data of class PriorityBulk then goes.
// The other end attaches its end of it. It is used once the peer's preamble
// has come through it. When it fails, what was under way on it is sent again
// on another. The link owns rw, also after an error.
func (l *Link) Attach(rw io.ReadWriteCloser) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.state != open:
		rw.Close()
		return fmt.Errorf("attach a byte stream: %w", l.closedErr())
	case len(l.paths) == pathsMax:
		rw.Close()
		return fmt.Errorf("attach a byte stream: the link has %d already", pathsMax)
	}
	l.addPath(rw, roleAttached)
	return nil
}

// addPath starts a path's goroutines. Called with mu held.
func (l *Link) addPath(rw io.ReadWriteCloser, r role) {
	p := newPath(l, rw, r)
	l.paths = append(l.paths, p)
	l.wg.Add(2)
	go p.read()
	go p.write()
}

// Stream returns the stream with a number, which both ends know; it need not
// be opened. Data that has come for it already is kept.
func (l *Link) Stream(id uint32) *Stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[id]
	switch {
	case s != nil:
	case l.state == ended:
		s = newStream(l, id)
	case l.retired.has(id):
		s = newStream(l, id)
		s.finish()
	default:
		s = newStream(l, id)
		l.streams[id] = s
		l.unclaimed++
	}
	if !s.claimed {
		s.claimed = true
		if l.streams[id] == s {
			l.unclaimed--
		}
	}
	return s
}

// Close ends the link in good order: writes from now on fail, everything
// written before is sent, and the peer is told. It returns when the byte
// streams are closed and every goroutine has returned, with nil when the peer
// has received everything, and is safe to call again.
func (l *Link) Close() error {
	l.mu.Lock()
	if l.state == open {
		l.state = closing
		l.wakeStreams()
		l.wakePaths()
	}
	l.mu.Unlock()
	tick := time.NewTicker(l.cfg.CloseTimeout)
	defer tick.Stop()
	before := l.moved()
	for {
		select {
		case <-l.done:
			return l.Err()
		case <-tick.C:
		}
		now := l.moved()
		if now == before {
			l.fail(fmt.Errorf("%w: the other end did not take the last data within %v", ErrLost, l.cfg.CloseTimeout))
		}
		before = now
	}
}

func (l *Link) moved() uint64 { return l.stats.bytesIn.Load() + l.stats.bytesOut.Load() }

// Abort ends the link at once with err, which every operation on it then
// returns. The peer is told its text if that takes no time. Abort does not
// wait; see Wait.
func (l *Link) Abort(err error) {
	if err == nil {
		err = ErrClosed
	}
	l.mu.Lock()
	l.farewell = []byte(err.Error())
	for _, s := range l.streams {
		s.discard()
	}
	l.mu.Unlock()
	l.fail(err)
}

// Wait waits until the link has ended and every goroutine of it has returned.
// It returns nil when either end closed it in good order.
func (l *Link) Wait() error {
	<-l.done
	return l.Err()
}

// Done is closed when Wait would return.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns why the link ended: nil while it has not, and after an end in
// good order.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Stats returns the counters.
func (l *Link) Stats() Stats {
	s := Stats{
		BytesIn: l.stats.bytesIn.Load(), BytesOut: l.stats.bytesOut.Load(),
		FramesIn: l.stats.framesIn.Load(), FramesOut: l.stats.framesOut.Load(),
		RTT:   time.Duration(l.rtt.Load()),
		Plain: l.zstd.plain.Load(), Compressed: l.zstd.compressed.Load(),
		Expanded: l.zstd.expanded.Load(), Wire: l.zstd.wire.Load(),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Streams, s.Paths = len(l.streams), len(l.paths)
	s.Attached, s.Striped, s.MinRTT = l.bulk.attached, l.bulk.striped, l.minRTT()
	for _, p := range l.paths {
		s.Rate += p.pace.rate()
	}
	return s
}

// closedErr is what operations return once the link is not open any more.
// Called with mu held.
func (l *Link) closedErr() error {
	if l.err != nil {
		return l.err
	}
	return ErrClosed
}

// fail ends the link. The first reason counts.
func (l *Link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(err)
}

// end is fail with mu held; a nil err is an end in good order.
func (l *Link) end(err error) {
	if l.state == ended {
		return
	}
	if errors.Is(err, ErrProtocol) && len(l.farewell) == 0 {
		l.farewell = []byte(err.Error())
	}
	l.state, l.err = ended, err
	l.wakeStreams()
	close(l.ending)
}

// supervise tears the link down, in order: the last word to the peer, the
// byte streams, the goroutines, the memory.
func (l *Link) supervise() {
	<-l.ending
	l.mu.Lock()
	paths, farewell := slices.Clone(l.paths), len(l.farewell) != 0
	l.mu.Unlock()
	if farewell {
		t := time.NewTimer(lastWords)
		select {
		case <-paths[0].written:
		case <-t.C:
		}
		t.Stop()
	}
	for _, p := range paths {
		p.rw.Close()
	}
	l.wg.Wait()
	l.mu.Lock()
	for _, s := range l.streams { // what came can still be read
		s.sendQ, s.unsent, s.early = frames{}, nil, nil
	}
	l.ready, l.acks, l.stops = [priorities]ring{}, nil, nil
	l.mu.Unlock()
	close(l.done)
}

// checkEnd ends the link once both ends have said bye. Called with mu held.
func (l *Link) checkEnd() {
	if l.byeSent && l.byePeer {
		l.end(nil)
	}
}

// wakeStreams makes every blocked reader and writer look again. Called with
// mu held.
func (l *Link) wakeStreams() {
	for _, s := range l.streams {
		s.rcond.Broadcast()
		s.wcond.Broadcast()
	}
}

func (l *Link) wakePaths() {
	for _, p := range l.paths {
		p.wake()
	}
}

// keepalive asks for a sign of life when there was none for the interval and
// ends the link when none comes. It counts ticks rather than reading the
// clock, so that a process that was stopped does not take its own absence for
// the peer's.
func (l *Link) keepalive() {
	defer l.wg.Done()
	const perInterval = 4
	step := max(l.cfg.KeepaliveInterval/perInterval, time.Millisecond)
	tick := time.NewTicker(step)
	defer tick.Stop()
	var seen uint64
	var silent time.Duration
	for {
		select {
		case <-l.ending:
			return
		case <-tick.C:
		}
		if n := l.stats.bytesIn.Load(); n != seen {
			seen, silent = n, 0
			continue
		}
		silent += step
		if silent > l.cfg.KeepaliveInterval+l.cfg.KeepaliveTimeout {
			l.fail(fmt.Errorf("%w: no sign of life for %v", ErrLost, silent.Round(time.Millisecond)))
			return
		}
		if silent >= l.cfg.KeepaliveInterval {
			l.mu.Lock()
			if l.pingSent == 0 {
				l.ping = true
				l.paths[0].wake()
			}
			l.mu.Unlock()
		}
	}
}

// now is the time since the link's start: monotonic, and cheap to keep.
func (l *Link) now() time.Duration { return time.Since(l.start) }
