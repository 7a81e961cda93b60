package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Conn is an authenticated connection to a host. Its methods are safe for
// concurrent use.
//
// Teardown, in this order: Close (or the peer, or a keepalive that is not
// answered) ends the SSH connection, which ends every channel; then the byte
// stream is flushed and closed; then the connection it went through; then the
// proxy command is ended and reaped; then the goroutines are joined.
type Conn struct {
	cfg    *Config
	ui     *ui
	client ssh.Conn
	link   *link
	shared bool   // over the control socket of an ssh: no global requests
	agent  string // the socket of the agent that the server may ask, or ""

	requesting sync.Mutex // held while a request for a subsystem is sent

	work      sync.WaitGroup
	quit      chan struct{}
	closeOnce sync.Once
	closeErr  error

	ended   chan struct{} // the connection is over
	endErr  error         // valid once ended is closed
	closing atomic.Bool
	agents  atomic.Int32 // channels to the agent
	silent  atomic.Bool  // given up for want of an answer
}

// Dial connects to a host and authenticates. It takes until the server lets
// the user in, the user gives up, ctx ends, or ConnectTimeout passes with no
// answer.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	cfg, err := Resolve(ctx, o)
	if err != nil {
		return nil, err
	}
	return dialConfig(ctx, o, cfg)
}

func dialConfig(ctx context.Context, o Options, cfg *Config) (*Conn, error) {
	u := newUI(o, cfg)
	if c := dialControl(ctx, cfg, u); c != nil {
		return c, nil
	}
	if cfg.RekeyInterval != 0 { // an ssh that is asked above can
		return nil, errors.New("RekeyLimit with a time needs an OpenSSH client: install one and use --ssh ssh, or leave the time out for this host")
	}
	l, err := reach(ctx, o, cfg, u)
	if err != nil {
		return nil, err
	}
	return handshake(ctx, cfg, u, l)
}

// handshake makes an SSH connection of a link. It owns the link.
func handshake(ctx context.Context, cfg *Config, u *ui, l *link) (*Conn, error) {
	host := newHostVerifier(cfg, u, l.direct, l.wire.RemoteAddr())
	if err := host.order(ctx); err != nil {
		l.close()
		return nil, err
	}
	auth := newAuthenticator(ctx, cfg, u, host)
	defer auth.close()
	guard := guardHandshake(ctx, cfg.ConnectTimeout, l)
	client, chans, reqs, err := ssh.NewClientConn(l.wire, joinHostPort(cfg.HostName, cfg.Port), &ssh.ClientConfig{
		Config: ssh.Config{
			KeyExchanges:   supported(cfg.KexAlgorithms, func(a ssh.Algorithms) []string { return a.KeyExchanges }),
			Ciphers:        supported(cfg.Ciphers, func(a ssh.Algorithms) []string { return a.Ciphers }),
			MACs:           supported(cfg.MACs, func(a ssh.Algorithms) []string { return a.MACs }),
			RekeyThreshold: cfg.RekeyLimit,
		},
		User:              cfg.User,
		ClientVersion:     clientVersion(cfg),
		HostKeyAlgorithms: host.algorithms(),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			guard.answered()
			return host.verify(ctx, key)
		},
		AuthCallback: auth.choose,
		BannerCallback: func(text string) error {
			u.info("%s", text)
			return nil
		},
	})
	timedOut := guard.stop()
	if err != nil {
		l.close()
		return nil, handshakeError(ctx, cfg, host, auth, timedOut, l.wire.greeting(), err)
	}
	u.verbose(0, "Authenticated to %s using %q.", cfg.HostName, auth.lastMethod())
	c := newConn(cfg, u, client, l)
	c.agent = agentToForward(cfg, u)
	c.start(chans, reqs, host)
	return c, nil
}

func newConn(cfg *Config, u *ui, client ssh.Conn, l *link) *Conn {
	return &Conn{cfg: cfg, ui: u, client: client, link: l, quit: make(chan struct{}), ended: make(chan struct{})}
}

// clientVersion is what is sent first. See RFC 4253, section 4.2.
func clientVersion(cfg *Config) string {
	v := "SSH-2.0-nexec"
	if cfg.VersionAddendum != "" {
		v += " " + printable(cfg.VersionAddendum)
	}
	return v
}

// start runs what a connection does by itself.
func (c *Conn) start(chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, host *hostVerifier) {
	proofs := make(chan []byte, 1)
	c.work.Go(func() { c.serveRequests(reqs, host, proofs) })
	c.work.Go(func() { c.updateHostKeys(host, proofs) })
	c.work.Go(func() {
		for ch := range chans {
			if ch.ChannelType() == agentChannel && c.agent != "" {
				c.forwardAgent(ch)
				continue
			}
			// What else the server opens to us nobody asked for.
			_ = ch.Reject(ssh.Prohibited, "nothing is forwarded")
		}
	})
	if c.cfg.ServerAliveInterval > 0 && !c.shared {
		c.work.Go(c.keepAlive)
	}
	go func() { // ends with the connection; Close and Wait wait for ended
		err := c.client.Wait()
		c.endErr = c.lostError(err)
		close(c.ended)
	}()
}

// serveRequests answers the server's global requests.
func (c *Conn) serveRequests(reqs <-chan *ssh.Request, host *hostVerifier, proofs chan<- []byte) {
	defer close(proofs)
	seen := false
	for req := range reqs {
		if req.Type == "hostkeys-00@openssh.com" && !seen && host != nil && host.mayUpdate && c.cfg.UpdateHostKeys != "no" {
			seen = true
			proofs <- req.Payload // has room for the one
		}
		if req.WantReply {
			_ = req.Reply(false, nil) // as OpenSSH answers keepalive@openssh.com
		}
	}
}

func (c *Conn) lostError(err error) error {
	switch {
	case c.closing.Load():
		return nil
	case c.silent.Load():
		return &LostError{Host: c.cfg.HostName, Err: fmt.Errorf("timeout, server not responding for %v", c.cfg.ServerAliveInterval*time.Duration(c.cfg.ServerAliveCountMax))}
	case err == nil || errors.Is(err, io.EOF):
		return &LostError{Host: c.cfg.HostName, Err: errors.New("closed by the remote host")}
	}
	return &LostError{Host: c.cfg.HostName, Err: err}
}

// Config returns what the configuration says of this destination.
func (c *Conn) Config() *Config { return c.cfg }

// Shared reports whether this is a channel of an ssh that runs already
// (ControlPath).
func (c *Conn) Shared() bool { return c.shared }

// RemoteAddr is the address connected to; through a proxy, a name for it.
func (c *Conn) RemoteAddr() net.Addr { return c.link.wire.RemoteAddr() }

// Wait waits for the end of the connection: nil after Close, else a
// *LostError.
func (c *Conn) Wait() error {
	<-c.ended
	return c.endErr
}

// Done is closed when the connection is over.
func (c *Conn) Done() <-chan struct{} { return c.ended }

// Close ends the connection and waits for all it started.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.closing.Store(true)
		close(c.quit)
		c.closeErr = c.client.Close()
		<-c.ended
		c.closeErr = errors.Join(ignoreClosed(c.closeErr), c.link.close())
		c.work.Wait()
	})
	return c.closeErr
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// keepAlive asks the server for a sign of life when it has been silent, and
// ends the connection when it does not answer. See ssh_config(5),
// ServerAliveInterval.
func (c *Conn) keepAlive() {
	interval := c.cfg.ServerAliveInterval
	limit := interval * time.Duration(max(c.cfg.ServerAliveCountMax, 1)+1)
	asking := make(chan struct{}, 1)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-c.ended:
			return
		case <-timer.C:
		}
		silence := c.link.wire.silence()
		if silence >= limit {
			c.silent.Store(true)
			c.link.abort()
			return
		}
		if silence >= interval {
			c.askAlive(asking)
		}
		timer.Reset(max(interval-silence%interval, time.Millisecond))
	}
}

// askAlive sends one keepalive; none while the last is not answered. Any
// answer will do.
func (c *Conn) askAlive(asking chan struct{}) {
	select {
	case asking <- struct{}{}:
	default:
		return
	}
	c.work.Go(func() {
		_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil)
		<-asking
	})
}

// handshakeError makes one line of why a handshake failed.
func handshakeError(ctx context.Context, cfg *Config, host *hostVerifier, auth *authenticator, timedOut bool, greeting string, err error) error {
	var authErr *AuthError
	var nego *ssh.AlgorithmNegotiationError
	where := joinHostPort(cfg.HostName, cfg.Port)
	switch {
	case host.failure != nil:
		return host.failure
	case ctx.Err() != nil:
		return fmt.Errorf("connect to %s: %w", where, context.Cause(ctx))
	case greeting != "" && !strings.HasPrefix(greeting, "SSH-2.0-") && !strings.HasPrefix(greeting, "SSH-1.99-"):
		return fmt.Errorf("connect to %s: it says %q: check that an SSH server runs on this port", where, printable(greeting))
	case timedOut:
		return &ConnectError{Host: cfg.HostName, Port: cfg.Port, Err: os.ErrDeadlineExceeded}
	case errors.As(err, &authErr):
		return authErr
	case errors.As(err, &nego):
		return fmt.Errorf("unable to negotiate with %s: %s: allow one of the server's with KexAlgorithms, HostKeyAlgorithms, Ciphers or MACs, if it is safe", where, printable(nego.Error()))
	case host.key != nil:
		return &AuthError{User: cfg.User, Host: cfg.HostName, Methods: auth.methods, Tried: auth.tried, Err: err,
			Hint: fmt.Sprintf("the server ended the connection (%s): fewer keys (IdentitiesOnly yes) may help", printable(reason(err).Error()))}
	}
	return fmt.Errorf("connect to %s: %s: check that an SSH server runs on this port", where, printable(strings.TrimPrefix(reason(err).Error(), "ssh: handshake failed: ")))
}

func (a *authenticator) lastMethod() string {
	if len(a.tried) == 0 {
		return "none"
	}
	return a.tried[len(a.tried)-1]
}
