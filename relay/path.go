package relay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// path is one byte stream of a link, with a goroutine that reads and one that
// writes.
type path struct {
	l    *Link
	rw   io.ReadWriteCloser
	role role

	wakeup  chan struct{} // capacity 1: something may have become sendable
	written chan struct{} // closed when write has returned
	readEnd chan struct{} // closed when read has returned

	// Under Link.mu.
	up   bool // the peer's preamble has come
	dead bool
	pace pace
	// newest is the last acknowledged frame that pace has not learned from.
	newest sample
	learn  bool
}

func newPath(l *Link, rw io.ReadWriteCloser, r role) *path {
	return &path{
		l: l, rw: rw, role: r,
		wakeup:  make(chan struct{}, 1),
		written: make(chan struct{}),
		readEnd: make(chan struct{}),
		pace:    newPace(l.cfg.BulkInFlight),
	}
}

func (p *path) first() bool { return p.role == roleFirst }

func (p *path) wake() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// failed is told why the path's reader or writer cannot go on. The link lives
// as long as its first path, and while nothing but losses happens to others.
// What came instead of an attached path's preamble was no peer's.
func (p *path) failed(err error) {
	if p.first() || p.isUp() && !errors.Is(err, ErrLost) {
		p.l.fail(err)
		return
	}
	p.l.dropPath(p)
	p.rw.Close()
}

func (p *path) isUp() bool {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	return p.up
}

// read runs until the peer's bye or the end of the byte stream.
func (p *path) read() {
	defer p.l.wg.Done()
	defer close(p.readEnd)
	if err := p.readFrames(); err != nil {
		if !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrNotNexec) &&
			!errors.Is(err, ErrVersion) && !errors.Is(err, ErrAborted) {
			err = lost(err)
		}
		p.failed(err)
	}
}

// counter counts what is read, for the statistics and as a sign of life.
type counter struct{ p *path }

func (c counter) Read(b []byte) (int, error) {
	n, err := c.p.rw.Read(b)
	c.p.l.stats.bytesIn.Add(uint64(n))
	return n, err
}

func (p *path) readFrames() error {
	br := bufio.NewReaderSize(counter{p}, readBuffer)
	if err := p.readPreamble(br); err != nil {
		return err
	}
	for {
		b, err := br.Peek(headerSize)
		if err != nil {
			if len(b) != 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		h, err := parseHeader(b)
		if err != nil {
			return err
		}
		br.Discard(headerSize)
		p.l.stats.framesIn.Add(1)
		if h.typ == typeData {
			err = p.readData(br, h)
		} else if !p.first() {
			err = broken("%s frame on an attached byte stream", h.typ)
		} else {
			err = p.readControl(br, h)
		}
		if err != nil {
			return err
		}
		if h.typ == typeBye {
			return nil
		}
	}
}

// readPreamble fails on the first byte that is wrong, since a peer that is no
// link may send a few bytes and then wait.
func (p *path) readPreamble(br *bufio.Reader) error {
	for n := 1; n <= preambleSize; n++ {
		b, err := br.Peek(n)
		if err != nil {
			if len(b) > 0 {
				err = noEOF(err)
			}
			return err
		}
		if n <= len(magic) && b[n-1] != magic[n-1] {
			b, _ = br.Peek(br.Buffered())
			return notNexec(b)
		}
	}
	b, _ := br.Peek(preambleSize)
	pre, err := parsePreamble(b)
	if err != nil {
		return err
	}
	br.Discard(preambleSize)
	if pre.role != p.role {
		return broken("byte stream of role %d where %d was expected", pre.role, p.role)
	}
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	p.up = true
	if !p.first() {
		p.l.bulk.attached++
	}
	if p.first() && p.l.cfg.Compress && pre.flags&preambleZstd != 0 {
		p.l.zstd.allowed.Store(true)
	}
	p.wake()
	return nil
}

func (p *path) readData(br *bufio.Reader, h header) error {
	f := p.l.pool.get(int(h.length))
	if _, err := io.ReadFull(br, f.payload()); err != nil {
		return noEOF(err)
	}
	f.seq, f.flags = h.seq, h.flags
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	if err := p.l.received(h.stream, f); err != nil {
		return err
	}
	// The order of arrival over several paths is anyone's guess: what came
	// over this one last may be what the sender's Close waits for.
	if !p.first() {
		p.l.bulk.striped += headerSize + uint64(h.length)
		if br.Buffered() < headerSize {
			p.l.ackSoon()
		}
	}
	return nil
}

func (p *path) readControl(br *bufio.Reader, h header) error {
	b, err := br.Peek(int(h.length))
	if err != nil {
		return noEOF(err)
	}
	err = p.l.control(h, b)
	br.Discard(int(h.length))
	return err
}

// noEOF is for an end within a frame.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// write sends what the scheduler picks until the link ends.
func (p *path) write() {
	defer p.l.wg.Done()
	defer close(p.written)
	var flags uint8
	if p.l.cfg.Compress {
		flags = preambleZstd
	}
	b := newBatch(p.rw)
	b.small(preambleSize, func(buf []byte) { preamble{Version, p.role, flags}.append(buf[:0]) })
	for {
		more := p.l.collect(p, b)
		if b.size == 0 {
			if !more {
				return
			}
			select {
			case <-p.wakeup:
			case <-p.l.ending:
			}
			continue
		}
		err := b.flush(&p.l.stats)
		b.bye = b.bye && err == nil
		p.l.flushed(b)
		if err != nil {
			p.writeFailed(fmt.Errorf("write: %w", err))
			return
		}
	}
}

// writeFailed gives the reader a moment: a peer that is gone may have left a
// word that says why.
func (p *path) writeFailed(err error) {
	if p.first() {
		t := time.NewTimer(writeGrace)
		defer t.Stop()
		select {
		case <-p.readEnd:
		case <-t.C:
		case <-p.l.ending:
		}
		if p.l.peerLeft() {
			p.l.fail(nil)
			return
		}
	}
	p.failed(lost(err))
}

// acked and measure tell the path's pace what an acknowledgement says. Both
// are called with Link.mu held.
func (p *path) acked(f *frame, now time.Duration) {
	p.pace.acked(len(f.buf), f.pacing, now)
	p.newest, p.learn = f.pacing, true
}

func (p *path) measure(now time.Duration) {
	if p.learn {
		p.learn = false
		p.pace.measure(p.newest, now)
		r := p.pace.rate()
		p.l.slow.Store(r > 0 && r < slowRate)
		p.wake()
	}
}

// batch is what one flush writes: small frames copied together, large ones
// from where they are.
type batch struct {
	w       io.Writer
	scratch []byte   // never grows: parts refer to it
	from    int      // the start in scratch of the part being filled
	parts   [][]byte // finished
	size    int
	count   uint64
	bye     bool     // our bye is in it
	frames  []*frame // whose buffers parts refer to
}

func newBatch(w io.Writer) *batch {
	return &batch{w: w, scratch: make([]byte, 0, maxBatch+2*copyBelow)}
}

// small adds a frame of n bytes that fill writes.
func (b *batch) small(n int, fill func([]byte)) {
	at := len(b.scratch)
	b.scratch = b.scratch[:at+n]
	fill(b.scratch[at:])
	b.size += n
	b.count++
}

// add adds a queued frame. Called with Link.mu held.
func (b *batch) add(f *frame) {
	if len(f.buf) < copyBelow {
		b.scratch = append(b.scratch, f.buf...)
	} else {
		b.cut()
		f.busy++
		b.parts = append(b.parts, f.buf)
		b.frames = append(b.frames, f)
	}
	b.size += len(f.buf)
	b.count++
}

func (b *batch) cut() {
	if b.from < len(b.scratch) {
		b.parts = append(b.parts, b.scratch[b.from:])
		b.from = len(b.scratch)
	}
}

func (b *batch) flush(c *counters) error {
	b.cut()
	err := writeAll(b.w, b.parts)
	c.bytesOut.Add(uint64(b.size))
	c.framesOut.Add(b.count)
	return err
}

func (b *batch) reset() {
	clear(b.parts)
	clear(b.frames)
	b.scratch, b.parts, b.frames = b.scratch[:0], b.parts[:0], b.frames[:0]
	b.from, b.size, b.count, b.bye = 0, 0, 0, false
}
