package dial

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// maxJumps bounds how many hosts a connection may go through: configurations
// can name each other in a circle.
const maxJumps = 16

// link is a byte stream to a host, and what carries it.
type link struct {
	wire   *wire
	direct bool  // TCP from here to the host
	below  *Conn // the jump host, or nil
	proxy  *proxyCommand
	once   sync.Once
	err    error
}

// close flushes and closes everything, outermost last.
func (l *link) close() error {
	l.once.Do(func() {
		l.err = ignoreClosed(l.wire.Close())
		if l.proxy != nil {
			l.proxy.end()
		}
		if l.below != nil {
			l.err = errors.Join(l.err, l.below.Close())
		}
	})
	return l.err
}

// abort closes the stream without flushing it.
func (l *link) abort() { _ = l.wire.stream.Close() }

// reach opens the byte stream to a host: through jump hosts, a command, or
// directly.
func reach(ctx context.Context, o Options, cfg *Config, u *ui) (*link, error) {
	switch {
	case cfg.ProxyJump != "":
		return reachJump(ctx, o, cfg)
	case cfg.ProxyCommand != "":
		return reachCommand(ctx, cfg, u)
	}
	conn, err := dialTCP(ctx, cfg)
	if err != nil {
		return nil, err
	}
	u.verbose(1, "Connection established to %s.", conn.RemoteAddr())
	return &link{wire: newWire(conn, conn.LocalAddr(), conn.RemoteAddr()), direct: true}, nil
}

// reachJump goes through the last hop of ProxyJump, which goes through those
// before it. Each hop has its own configuration, host key check and
// authentication; of the command line it gets -F and -v only, as with
// OpenSSH.
func reachJump(ctx context.Context, o Options, cfg *Config) (*link, error) {
	if o.depth >= maxJumps {
		return nil, fmt.Errorf("ProxyJump: more than %d hosts on the way to %s: the configuration goes in a circle", maxJumps, printable(cfg.Typed))
	}
	hops, err := parseJump(cfg.ProxyJump)
	if err != nil {
		return nil, fmt.Errorf("ProxyJump: %w", err)
	}
	last := hops[len(hops)-1]
	if last.host == cfg.HostName && (last.port == cfg.Port || last.port == 0 && cfg.Port == 22) && (last.user == "" || last.user == cfg.User) {
		return nil, fmt.Errorf("jumphost loop via %s: take it out of its own ProxyJump", printable(last.host))
	}
	hop := Options{Destination: last.String(), ConfigFile: o.ConfigFile, Verbose: o.Verbose, Quiet: o.Quiet,
		Prompt: o.Prompt, Stderr: o.Stderr, Home: o.Home, SystemDir: o.SystemDir, depth: o.depth + 1}
	for i, h := range hops[:len(hops)-1] {
		if i > 0 {
			hop.Jump += ","
		}
		hop.Jump += h.String()
	}
	below, err := Dial(ctx, hop)
	if err != nil {
		return nil, fmt.Errorf("jump host %s: %w", printable(last.String()), err)
	}
	stream, err := below.openTCP(ctx, cfg.HostName, cfg.Port)
	if err != nil {
		return nil, errors.Join(err, below.Close())
	}
	addr := viaAddr(joinHostPort(cfg.HostName, cfg.Port))
	return &link{wire: newWire(stream, viaAddr("jump"), addr), below: below}, nil
}

// viaAddr is the name of an address that is known to a proxy only.
type viaAddr string

func (viaAddr) Network() string  { return "proxy" }
func (a viaAddr) String() string { return string(a) }

// handshakeGuard ends a handshake when its context ends, or when the server
// has not answered in time.
type handshakeGuard struct {
	timer   *time.Timer
	stopCtx func() bool
	mu      sync.Mutex
	late    bool
}

func guardHandshake(ctx context.Context, timeout time.Duration, l *link) *handshakeGuard {
	g := &handshakeGuard{}
	g.stopCtx = context.AfterFunc(ctx, l.abort)
	if timeout > 0 {
		g.timer = time.AfterFunc(timeout, func() {
			g.mu.Lock()
			g.late = true
			g.mu.Unlock()
			l.abort()
		})
	}
	return g
}

// answered stops the clock: what takes time now is the user.
func (g *handshakeGuard) answered() {
	if g.timer != nil {
		g.timer.Stop()
	}
}

// stop ends the guard and reports whether the time was over.
func (g *handshakeGuard) stop() bool {
	g.answered()
	g.stopCtx()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.late
}
