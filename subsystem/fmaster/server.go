// Package fmaster is the server's end of file access: it answers what the
// kernel asks through FUSE from what it may keep under the client's leases,
// and asks the client for the rest.
//
// # State and locks
//
// One mutex, Server.mu, guards the tree, the attributes and the listings. It
// is never held while anything is waited for: not for the client, not for the
// kernel, not for room in a queue. A handler takes it, looks, decides, and
// either answers at once or lets go of it, calls the client and looks again.
// Each open file has a mutex of its own for its read-ahead. Order: Server.mu,
// readAhead.mu, caller.mu, notifier.mu.
//
// # What may be kept
//
// An answer that the client put under a lease is kept until the client
// revokes it. A generation number per directory decides whether an answer may
// still be kept when it arrives: it is raised by every revocation and every
// change that touches the directory, and an answer is kept only if it is the
// same as when the question was sent.
package fmaster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem/filecache"
	"github.com/SumiTomohiko/nexec/subsystem/fusedev"
)

// Config is what a Server needs to know of its session.
type Config struct {
	// Link carries the calls; fsyscall.StreamCalls, StreamOrdered and
	// StreamBulk are used by the Server alone.
	Link *relay.Link
	// Hello is the client's.
	Hello *fsyscall.Hello
	// UID and GID are the session's identity on the server. MappedIDs tells
	// whether every other number is valid in the mount's user namespace too.
	UID, GID  uint32
	MappedIDs bool
	// Mountpoints are the absolute paths of the view that something of the
	// server will be mounted on; the value says whether it is a directory.
	// They exist in the tree whether or not the client has them, and the
	// kernel is never told to forget them: that would detach what is mounted.
	Mountpoints map[string]bool
	// Hidden are paths of the view that are the server's but missing there:
	// they do not exist, whatever the client has.
	Hidden []string
	// Links are absolute paths of the view that are symbolic links of the
	// server's, with their texts, whatever the client has there.
	Links map[string]string
	// Cache, if not nil, has the content of files that sessions of this login
	// have read. It is not used where the Hello says that nothing may be kept.
	// Who made it closes it, after Close.
	Cache *filecache.Cache
	// Pinned are paths of the client's that something is mounted over once they
	// were read: the kernel is never told to forget them either.
	Pinned []string
}

// Server serves one FUSE mount. Its methods may be called concurrently.
type Server struct {
	fuse.RawFileSystem
	cfg   Config
	calls *caller
	ids   idMap
	clock clientClock
	stats counters
	token string // the hidden directory of the standard streams

	mu          sync.Mutex
	nodes       map[fsyscall.NodeID]*node // those that the kernel knows, by id
	wires       map[fsyscall.NodeID]*node // those that the client knows, by wire
	byInode     map[inodeKey]*node        // regular files, to join hard links
	root        *node
	lastNode    uint64
	lastFile    uint64
	lastIno     uint64
	mainDev     uint64
	files       map[fsyscall.FileID]*file
	dirs        map[uint64]*dirHandle
	lastDir     uint64
	changes     uint64 // see node.changed
	countNodes  int
	aheadUnused int
	linkAsks    int        // see learnLink
	cut         []cutGuess // what the budget of aheadUnused ended
	lost        []fsyscall.LostWrite
	lostN       int
	timeless    []*node // see sendShownTimes
	content     contentCache
	prefetch    prefetcher
	working     working
	again       again
	fileSystems []*fsAnswer // the newest first, at most maxFS
	twins       twins
	binding     map[stdioKey]*binding // asked for and not yet looked up
	aheadBytes  atomic.Int64
	collecting  atomic.Int64 // bytes being put together
	wholeDebt   atomic.Int64 // see maxWholeDebt

	notify *notifier
	device *fusedev.Device
}

// New makes a Server for a session; Serve starts it.
func New(cfg Config) *Server {
	if cfg.Hello.NoCache || cfg.Hello.Machine == ([32]byte{}) {
		cfg.Cache = nil
	}
	s := &Server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		cfg:           cfg,
		ids:           newIDMap(&cfg),
		nodes:         make(map[fsyscall.NodeID]*node),
		wires:         make(map[fsyscall.NodeID]*node),
		byInode:       make(map[inodeKey]*node),
		files:         make(map[fsyscall.FileID]*file),
		dirs:          make(map[uint64]*dirHandle),
		binding:       make(map[stdioKey]*binding),
		lastNode:      uint64(fsyscall.RootNode),
	}
	s.twins.slots = make(chan struct{}, twinWorkers)
	s.content.limit = contentLimit
	s.content.gone = s.unguess
	s.clock.observe(cfg.Hello.Now, time.Now())
	s.calls = newCaller(cfg.Link, &s.stats)
	s.notify = newNotifier(s)
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand's promise
	s.token = ".nexec-" + hex.EncodeToString(b[:])
	s.root = &node{id: fsyscall.RootNode, wire: fsyscall.RootNode, attached: attachedBoth, mounts: mountTree(&cfg), refs: 1}
	s.root.attr.Mode = modeDir | 0o755
	s.nodes[s.root.id] = s.root
	s.wires[s.root.wire] = s.root
	s.expectPrefetched(cfg.Hello)
	return s
}

// maxBackground bounds the kernel's read-ahead and write-back requests under
// way: 64 of at most 1 MiB fill a link of 80 ms at 6 Gbit/s.
const maxBackground = 64

// Serve answers the requests that arrive on dev, a /dev/fuse descriptor that is
// already mounted. It returns when the mount is gone or after Close; dev is
// then closed. An error means that service never began.
func (s *Server) Serve(dev *os.File) error {
	if err := s.start(dev); err != nil {
		return err
	}
	s.device.Serve()
	return s.Close()
}

func (s *Server) start(dev *os.File) error {
	opts := &fuse.MountOptions{
		AllowOther:               true,
		MaxBackground:            maxBackground,
		MaxWrite:                 fsyscall.MaxData,
		EnableLocks:              true,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		DisableSplice:            true,
		// The client's kernel takes set-user-ID bits away; ours need not ask for
		// security.capability before each write(2).
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2,
		Logger:            log.New(io.Discard, "", 0),
		PanicHandler:      s.panicked,
	}
	device, err := fusedev.Open(dev, s, opts)
	if err != nil {
		return err
	}
	s.device = device
	s.notify.start(device)
	s.calls.start(s.revoke)
	return nil
}

// panicked keeps a defect in one request from ending the session, and says so.
func (s *Server) panicked(v any) fuse.Status {
	fmt.Fprintf(os.Stderr, "nexec-server: internal error: %v at %s\n", v, panicSite())
	return fuse.EIO
}

// panicSite returns the first place of this package on the stack.
func panicSite() string {
	var pc [32]uintptr
	frames := runtime.CallersFrames(pc[:runtime.Callers(4, pc[:])])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/fmaster.") || !more {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
	}
}

// Close ends the service: what waits for the client fails with EIO, and what
// the kernel still asks is not answered any more. The mount itself is the
// namespace's to remove. Close waits for the notifier; the goroutines that use
// the link end with it, and Wait waits for them.
func (s *Server) Close() error {
	s.endAgain()
	s.calls.stop(errClosed)
	s.notify.stop()
	return nil
}

// Wait returns when nothing of the Server uses the link any more. It must be
// called after the end of the link (see relay.Link.Close), and after Serve has
// returned or was given up.
func (s *Server) Wait() {
	s.calls.wg.Wait()
	s.twins.wg.Wait()
}

var errClosed = errors.New("the session has ended")

// StdioPath returns the path below the root of the mount at which standard
// stream slot of command cmd can be opened, which is about to happen. It has a
// random part that only init is told, and no listing shows it.
func (s *Server) StdioPath(cmd uint32, slot int) string {
	s.mu.Lock()
	if key := (stdioKey{cmd, uint8(slot)}); s.binding[key] == nil && len(s.binding) < maxBinding {
		s.binding[key] = s.beginBind(key)
	}
	s.mu.Unlock()
	return fmt.Sprintf("%s/%d.%d", s.token, cmd, slot)
}

// Settle begins to wait until the client has answered every change made so far.
//
// wait does the waiting and returns the changes that failed without the program
// having been told, at most fsyscall.MaxLost of the number returned beside them.
// Each is returned once. after is the tag of the call that is waited for, if its
// answer says that all is well unless that to a change before it was an error;
// otherwise it is zero.
func (s *Server) Settle() (after uint32, wait func(context.Context) ([]fsyscall.LostWrite, int, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.sendShownTimes()
	if !sent && !s.calls.unanswered() {
		lost, n := s.takeLost()
		return 0, func(context.Context) ([]fsyscall.LostWrite, int, error) { return lost, n, nil }
	}
	failed := s.lostN > 0 || s.calls.failed.Load()
	var lost []fsyscall.LostWrite
	var n int
	answered := make(chan syscall.Errno, 1)
	after = s.calls.barrier(func(errno syscall.Errno) {
		s.mu.Lock()
		defer s.mu.Unlock()
		lost, n = s.takeLost() // those of the changes before, as the client sees it too
		answered <- errno
	})
	if failed {
		after = 0
	}
	return after, func(ctx context.Context) ([]fsyscall.LostWrite, int, error) {
		if failed {
			defer s.stats.wait()()
		}
		select {
		case errno := <-answered:
			if errno != 0 {
				return lost, n, fmt.Errorf("wait for the client: %w", errno)
			}
			return lost, n, nil
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// takeLost returns the changes that failed and were not told of yet. s.mu is held.
func (s *Server) takeLost() ([]fsyscall.LostWrite, int) {
	lost, n := s.lost, s.lostN
	s.lost, s.lostN = nil, 0
	return lost, n
}

// Sync is Settle and its wait.
func (s *Server) Sync(ctx context.Context) ([]fsyscall.LostWrite, int, error) {
	_, wait := s.Settle()
	return wait(ctx)
}

// clientClock estimates the client's clock from the times it sent. The
// estimate lags by the smallest one-way delay seen, so that a change made here
// never looks older than something on the client that led to it, nor newer
// than what the client does after seeing it.
type clientClock struct {
	offset atomic.Int64 // client minus server, in nanoseconds
}

func (c *clientClock) observe(t fsyscall.Time, at time.Time) {
	c.offset.Store(t.Sec*1e9 + int64(t.Nsec) - at.UnixNano())
}

func (c *clientClock) now() fsyscall.Time {
	n := time.Now().UnixNano() + c.offset.Load()
	return fsyscall.Time{Sec: n / 1e9, Nsec: uint32(n % 1e9)}
}
