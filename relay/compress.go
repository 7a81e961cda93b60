package relay

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// codec is a link's compression. Each frame is compressed by itself, since
// frames take different paths.
type codec struct {
	allowed           atomic.Bool   // by both ends, for sending
	plain, compressed atomic.Uint64 // of what was sent
	expanded, wire    atomic.Uint64 // of what was received, after and before
	perByte           atomic.Int64  // what compressing costs, in ps per byte

	start sync.Once
	enc   *zstd.Encoder
	dec   *zstd.Decoder
	err   error
}

const (
	// compressLeast is the shortest payload worth the trouble.
	compressLeast = 1 << 10
	// compressTry: of frames that compression does not pay for, one in so many
	// is tried nevertheless, to learn of a change; that costs under 1 %.
	compressTry = 512
	// compressCost is the first guess at perByte: 250 MB/s.
	compressCost = 4000
)

func (c *codec) ready() error {
	c.start.Do(func() {
		c.perByte.Store(compressCost)
		c.enc, c.err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(64<<10), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		if c.err == nil {
			c.dec, c.err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(MaxPayload))
		}
	})
	return c.err
}

// learn takes note of a measured cost. It is quick to believe that compressing
// is cheap: a dear measurement is as a rule one during which another process
// had the processor.
func (c *codec) learn(took int64) {
	old := c.perByte.Load()
	if took < old {
		c.perByte.Store((old + took) / 2)
	} else {
		c.perByte.Store((7*old + min(took, 2*old)) / 8)
	}
}

// gain is what a stream has learned of its data; its writer has it.
type gain struct {
	never   bool
	ratio   float64 // compressed size by plain size, a running mean
	skipped int
}

func newGain(id uint32, class int) gain {
	slot, ok := stdioSlot(id)
	return gain{never: class == PriorityControl || ok && slot == fsyscall.TerminalSlot, ratio: 0.5}
}

// squeeze compresses a frame that is about to be queued, where that pays: the
// link is what the data waits for, and the time that the smaller frame saves
// it is longer than compressing takes.
func (s *Stream) squeeze(f *frame) *frame {
	l := s.l
	n := len(f.payload())
	if !l.zstd.allowed.Load() || s.gain.never || n < compressLeast || l.zstd.ready() != nil {
		return f
	}
	if !s.pays(n) {
		if s.gain.skipped++; s.gain.skipped < compressTry {
			return f
		}
	}
	s.gain.skipped = 0
	g := l.pool.get(n)
	began := time.Now()
	out := l.zstd.enc.EncodeAll(f.payload(), g.buf[headerSize:headerSize])
	l.zstd.learn(time.Since(began).Nanoseconds() * 1000 / int64(n))
	s.gain.ratio = (3*s.gain.ratio + float64(len(out))/float64(n)) / 4
	if len(out) > n*9/10 {
		l.pool.put(g)
		return f
	}
	l.zstd.plain.Add(uint64(n))
	l.zstd.compressed.Add(uint64(len(out)))
	g.buf = append(g.buf[:headerSize], out...)
	g.flags = f.flags | flagZstd
	l.pool.put(f)
	return g
}

// pays tells whether compressing n bytes would make them arrive earlier.
func (s *Stream) pays(n int) bool {
	l := s.l
	l.mu.Lock()
	rate := 0.0
	for _, p := range l.paths {
		rate += p.pace.rate()
	}
	ahead := float64(s.sendCost - s.sentCost)
	l.mu.Unlock()
	cost := float64(l.zstd.perByte.Load()) / 1e12
	return rate > 0 && ahead/rate > 2*cost*float64(n) && (1-s.gain.ratio)/rate > 1.2*cost
}

// expand undoes a frame's compression. The reader calls it on the frame that
// it reads next.
func (s *Stream) expand(f *frame) error {
	if f.flags&flagZstd == 0 {
		return nil
	}
	l := s.l
	if err := l.zstd.ready(); err != nil {
		return err
	}
	g := l.pool.get(MaxPayload)
	out, err := l.zstd.dec.DecodeAll(f.payload(), g.buf[headerSize:headerSize])
	if err != nil || len(out) == 0 || len(out) > MaxPayload {
		err = broken("stream %d: %d bytes that do not expand to a frame: %v", s.id, len(f.payload()), err)
		l.fail(err)
		return err
	}
	l.zstd.expanded.Add(uint64(len(out)))
	l.zstd.wire.Add(uint64(len(f.payload())))
	g.buf = append(g.buf[:headerSize], out...)
	f.buf, g.buf = g.buf, f.buf
	f.flags &^= flagZstd
	l.pool.put(g)
	return nil
}

// checkCompressed refuses compressed data that this end did not allow.
func (l *Link) checkCompressed(id uint32, f *frame) error {
	if f.flags&flagZstd != 0 && !l.cfg.Compress {
		return broken("stream %d: compressed data, which was not allowed", id)
	}
	return nil
}
