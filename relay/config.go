package relay

import (
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Config has a link's settings. The zero value is good. Both ends must use
// the same Window: an end assumes it of the other before it hears of it.
type Config struct {
	// Window is how many bytes, with 256 for each frame, the peer may send on
	// a stream ahead of its reader. At least MinWindow; nil: DefaultWindow.
	Window func(id uint32) int
	// MaxWindow is what the window of a stream may grow to while its reader
	// keeps up; it also bounds what is kept here until the peer has
	// acknowledged it. Never below Window; nil: DefaultMaxWindow.
	MaxWindow func(id uint32) int
	// Priority is a stream's class, 0 the most urgent; nil: DefaultPriority.
	Priority func(id uint32) int
	// KeepaliveInterval is the silence after which the peer is asked for a
	// sign of life; zero: 15 s; negative: never.
	KeepaliveInterval time.Duration
	// KeepaliveTimeout is how long the peer may then stay silent before the
	// link counts as lost; zero: 45 s.
	KeepaliveTimeout time.Duration
	// CloseTimeout is how long Close waits without any progress; zero: 5 s.
	CloseTimeout time.Duration
	// BulkInFlight fixes how many bytes of class PriorityBulk may be under
	// way on one byte stream; zero: twice what the measured rate and round
	// trip need. It keeps queues below the link short, and so the way of a
	// keystroke.
	BulkInFlight int
	// MaxStreams bounds the streams that are open at once; zero: 1024.
	MaxStreams int
	// MaxUnclaimed bounds the streams among them that the peer has sent on
	// and that nobody here has asked for; zero: 128.
	MaxUnclaimed int
	// Compress allows compression both ways, where the peer allows it too.
	Compress bool
}

// Classes of priority.
const (
	PriorityControl     = 0 // always first
	PriorityInteractive = 1 // calls, terminals
	PriorityBulk        = 2 // everything else, in turn
	priorities          = 3
)

// MinWindow is the smallest window a stream can have: room for a frame of
// some use while the credit for another is under way.
const MinWindow = 8 << 10

// The numbers of the link, and why.
const (
	// windowControl: a Hello and an Exec with a big environment are sent in
	// pieces anyway; nothing else there is large.
	windowControl = 256 << 10
	// windowCalls: ten thousand small calls or replies; at 80 ms, 50 MB/s.
	windowCalls = 4 << 20
	// windowBulk: 1 Gbit/s at 80 ms is 10 MB under way, and half as much
	// again while credit returns in quarters of the window.
	windowBulk = 16 << 20
	// windowStdio: what a slow reader makes us hold, times hundreds of
	// commands; grows to windowStdioMax (1 Gbit/s at 30 ms) under a fast one.
	windowStdio    = 256 << 10
	windowStdioMax = 4 << 20

	// maxBatch bounds one Write: enough to make the cost of a system call
	// small, little enough to be through soon.
	maxBatch = 256 << 10
	// quantum is what a stream sends before it is the turn of the next of its
	// class.
	quantum = 64 << 10
	// queueAhead bounds what waits in one bulk stream for its turn, so that its
	// frames are made when it is known how long they should be, and memory is
	// taken by what is under way only.
	queueAhead = 1 << 20
	// readBuffer: one system call for a hundred small frames. The rest of a
	// large one is read straight to where it stays, and so not copied.
	readBuffer = 16 << 10
	// ackEvery is how much may arrive before it is acknowledged unasked.
	ackEvery = 64 << 10
	// slowRate, in bytes per second: below it bulk frames have slowPayload
	// bytes at most, since a full one would hold up a keystroke for over 8 ms.
	slowRate    = 8e6
	slowPayload = 16<<10 - headerSize
	// copyBelow: frames shorter than this are copied together.
	copyBelow = 32 << 10

	defaultKeepaliveInterval = 15 * time.Second
	// defaultKeepaliveTimeout: above any stall of a working mobile network.
	defaultKeepaliveTimeout = 45 * time.Second
	defaultCloseTimeout     = 5 * time.Second
	// lastWords is how long an aborted link may take to tell the peer why.
	lastWords = 500 * time.Millisecond
	// writeGrace is how long after a failed Write the reader may still find
	// the peer's goodbye, which explains it.
	writeGrace = 2 * time.Second

	// defaultMaxStreams: 250 commands at once with four streams each.
	defaultMaxStreams = 1024
	// defaultMaxUnclaimed times windowStdio is 32 MiB: what a hostile peer
	// can make us hold on streams nobody reads.
	defaultMaxUnclaimed = 128

	// pathsMax bounds the byte streams of one link: eight SSH channels of
	// 2 MiB carry 1 Gbit/s at 130 ms.
	pathsMax = 16
)

// stdioSlot returns the slot of a command's stream.
func stdioSlot(id uint32) (slot uint32, ok bool) {
	first := fsyscall.StdioStream(0, 0)
	if id < first {
		return 0, false
	}
	return (id - first) % (fsyscall.StdioStream(1, 0) - first), true
}

// DefaultWindow is part of version 1 of the link.
func DefaultWindow(id uint32) int {
	switch id {
	case fsyscall.StreamControl:
		return windowControl
	case fsyscall.StreamCalls:
		return windowCalls
	case fsyscall.StreamOrdered, fsyscall.StreamBulk:
		return windowBulk
	}
	return windowStdio
}

// DefaultMaxWindow is DefaultWindow, and more for commands' streams except
// terminals, where what is under way when ^C is typed still has to be seen.
func DefaultMaxWindow(id uint32) int {
	if slot, ok := stdioSlot(id); ok && slot != fsyscall.TerminalSlot {
		return windowStdioMax
	}
	return DefaultWindow(id)
}

// DefaultPriority puts the control stream first, then calls and terminals.
func DefaultPriority(id uint32) int {
	if id == fsyscall.StreamControl {
		return PriorityControl
	}
	if slot, ok := stdioSlot(id); ok && slot == fsyscall.TerminalSlot || id == fsyscall.StreamCalls {
		return PriorityInteractive
	}
	return PriorityBulk
}

// filled returns the configuration with its defaults filled in.
func (c Config) filled() Config {
	if c.Window == nil {
		c.Window = DefaultWindow
		if c.MaxWindow == nil {
			c.MaxWindow = DefaultMaxWindow
		}
	}
	if c.MaxWindow == nil {
		c.MaxWindow = c.Window
	}
	if c.Priority == nil {
		c.Priority = DefaultPriority
	}
	orDuration(&c.KeepaliveInterval, defaultKeepaliveInterval)
	orDuration(&c.KeepaliveTimeout, defaultKeepaliveTimeout)
	orDuration(&c.CloseTimeout, defaultCloseTimeout)
	if c.MaxStreams == 0 {
		c.MaxStreams = defaultMaxStreams
	}
	if c.MaxUnclaimed == 0 {
		c.MaxUnclaimed = defaultMaxUnclaimed
	}
	return c
}

func orDuration(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}
