package client

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/relay"
)

const (
	// furtherMost is how many further byte streams a session opens. With
	// SSH's 2 MiB of window each, bulk data then has 8 MiB under way: 1 Gbit/s
	// at 64 ms, 100 Mbit/s at 640. With the first they are five of the ten
	// sessions that servers allow on a connection, and each costs the server
	// a waiting process.
	furtherMost = 4
	// furtherAfter is how much bulk data has to move before more is expected:
	// a compiler's files and the like never get there.
	furtherAfter = 4 << 20
	// furtherRTT is the round trip from which one window is in the way: below
	// it 2 MiB a round trip are over 500 MB/s, more than one connection's
	// cipher and the two file systems move.
	furtherRTT = 4 * time.Millisecond
	// furtherIdle is how long nothing may move before the byte streams are
	// given up, and with them the processes at their other ends.
	furtherIdle = time.Minute
)

// further opens further byte streams under a link when bulk data moves on a
// long line, and closes them when the session falls idle.
type further struct {
	link   *relay.Link
	open   Opener
	secret [32]byte
	after  uint64
	rtt    time.Duration
	idle   time.Duration
}

func newFurther(link *relay.Link, open Opener, secret [32]byte) *further {
	return &further{link: link, open: open, secret: secret, after: furtherAfter, rtt: furtherRTT, idle: furtherIdle}
}

// run works until the link ends. greeted is closed when the server has spoken.
func (f *further) run(greeted <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-f.link.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	select {
	case <-greeted:
	case <-ctx.Done():
	}
	// The first round trip had the start of the server's program in it.
	f.link.Ping()
	for ctx.Err() == nil {
		select {
		case <-f.link.Bulk(f.after):
		case <-ctx.Done():
			return
		}
		if f.link.Stats().MinRTT < f.rtt {
			continue // a shorter one may yet be found, a longer one not
		}
		streams := f.openAll(ctx)
		if len(streams) == 0 {
			return // the server does not want it
		}
		f.awaitIdle(ctx)
		for _, s := range streams {
			s.Close()
		}
	}
}

// openAll opens all byte streams at once, and returns those that it could
// open. Whether the server's end takes them is the link's to find out.
func (f *further) openAll(ctx context.Context) []io.Closer {
	var mu sync.Mutex
	var streams []io.Closer
	var wg sync.WaitGroup
	for range furtherMost {
		wg.Go(func() {
			rw, err := f.open(ctx)
			if err != nil {
				return
			}
			if _, err := rw.Write(relay.AppendJoin(nil, f.secret)); err != nil {
				rw.Close()
				return
			}
			if f.link.Attach(rw) == nil {
				mu.Lock()
				defer mu.Unlock()
				streams = append(streams, rw)
			}
		})
	}
	wg.Wait()
	return streams
}

// awaitIdle returns when no bulk data has moved for a while.
func (f *further) awaitIdle(ctx context.Context) {
	tick := time.NewTicker(f.idle)
	defer tick.Stop()
	moved := f.link.Bulk(1)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		select {
		case <-moved:
			moved = f.link.Bulk(1)
		default:
			return
		}
	}
}
