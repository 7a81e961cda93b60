package sshserver

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// conn is one connection. Its life:
//
//	accepted ── startup: key exchange, authentication ── open ── closed
//	    │            (counted by startups; LoginGraceTime)   │
//	    └── dropped by a limit                               └── channels, requests, keepalive
//
// Each of its goroutines ends when the transport is closed, and serve returns
// when all of them have.
type conn struct {
	server  *Server
	config  *Config
	raw     *transport
	end     Endpoint
	log     *slog.Logger
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	source  netip.Prefix  // startups' own
	element *list.Element // startups' own
	began   time.Time
	dropped atomic.Bool // made way for another one
	graced  atomic.Bool // LoginGraceTime ran out
	authed  atomic.Bool // somebody has logged in

	// What follows belongs to the goroutine of the handshake, and is not
	// changed after it.
	failures int
	maxTries int
	user     string
	grant    *Grant

	ssh *ssh.ServerConn
	wg  sync.WaitGroup // channels, requests, keepalive
	// open counts channels; only the loop over new channels raises it.
	open atomic.Int32
	idle *time.Timer
}

// grantKey is the key of the grant in ssh.Permissions.
type grantKey struct{}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.cancel()
	chans, requests, err := c.handshake()
	c.server.startups.leave(c)
	if err != nil {
		c.raw.abort()
		c.logFailure(err)
		return
	}
	c.raw.grow()
	c.server.stats.Accepted.Add(1)
	c.log = c.log.With("user", c.user)
	key := describeLogin(c.grant.Key)
	c.log.Info(fmt.Sprintf("Accepted publickey for %s from %s port %d ssh2: %s", printable(c.user), c.end.Addr, c.end.Port, key),
		"key", key, "where", c.grant.Where)
	c.run(chans, requests)
	_ = c.raw.Close()
	c.log.Info("Connection closed", "seconds", int(time.Since(c.began).Seconds()),
		"received", c.raw.read.Load(), "sent", c.raw.wrote.Load())
}

// handshake does key exchange and authentication within LoginGraceTime.
func (c *conn) handshake() (<-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	global := &c.config.Auth.Config.Global
	if global.LoginGraceTime > 0 {
		timer := time.AfterFunc(global.LoginGraceTime, func() {
			c.graced.Store(true)
			c.raw.abort()
		})
		defer timer.Stop()
	}
	sc, chans, requests, err := ssh.NewServerConn(c.raw, c.sshConfig())
	if err != nil {
		return nil, nil, err
	}
	grant, ok := sc.Permissions.ExtraData[grantKey{}].(*Grant)
	if !ok {
		return nil, nil, errors.New("no grant came out of authentication")
	}
	c.ssh, c.grant, c.user = sc, grant, sc.User()
	c.authed.Store(true)
	return chans, requests, nil
}

// run serves an authenticated connection until it is closed by either side.
func (c *conn) run(chans <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	c.wg.Go(func() { c.serveRequests(requests) })
	c.wg.Go(func() {
		defer c.cancel()
		_ = c.ssh.Wait()
	})
	c.wg.Go(func() {
		<-c.ctx.Done() // the connection is gone, or the server closes it
		_ = c.ssh.Close()
	})
	c.wg.Go(c.keepAlive)
	c.announceHostKeys()
	if d := c.grant.Settings.UnusedConnectionTime; d > 0 {
		c.idle = time.AfterFunc(d, c.closeUnused)
		defer c.idle.Stop()
	}
	for nc := range chans {
		c.newChannel(nc)
	}
	c.cancel()
	c.wg.Wait()
}

func (c *conn) newChannel(nc ssh.NewChannel) {
	if nc.ChannelType() != "session" {
		c.log.Info("channel refused", "type", printable(nc.ChannelType()))
		_ = nc.Reject(ssh.Prohibited, "only sessions are offered")
		return
	}
	if int(c.open.Load()) >= c.grant.Settings.MaxSessions {
		c.log.Info("error: no more sessions", "MaxSessions", c.grant.Settings.MaxSessions)
		_ = nc.Reject(ssh.ConnectionFailed, "open failed: no more sessions")
		return
	}
	if c.server.draining() {
		_ = nc.Reject(ssh.ConnectionFailed, "the server is shutting down")
		return
	}
	c.open.Add(1)
	if c.idle != nil {
		c.idle.Stop()
	}
	c.wg.Go(func() {
		c.serveChannel(nc)
		last := c.open.Add(-1) == 0
		if last && c.idle != nil {
			c.idle.Reset(c.grant.Settings.UnusedConnectionTime)
		}
		if last && c.server.draining() {
			c.cancel()
		}
	})
}

func (c *conn) closeUnused() {
	if c.open.Load() == 0 {
		c.log.Info("Closing unused connection")
		c.cancel()
	}
}

// keepAlive is ClientAliveInterval: it asks for a sign of life when nothing
// has come for that long, and closes after ClientAliveCountMax in vain.
func (c *conn) keepAlive() {
	every := c.grant.Settings.ClientAliveInterval
	limit := c.grant.Settings.ClientAliveCountMax
	if every == 0 || limit == 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	asked := 0
	for {
		select {
		case <-c.ctx.Done():
			return
		case now := <-tick.C:
			if now.UnixNano()-c.raw.lastRead.Load() < int64(every) {
				asked = 0
				continue
			}
			if asked++; asked > limit {
				c.log.Info("Timeout, client not responding")
				c.raw.abort()
				c.cancel()
				return
			}
			c.wg.Go(func() {
				_, _, _ = c.ssh.SendRequest("keepalive@openssh.com", true, nil)
			})
		}
	}
}

func (c *conn) logFailure(err error) {
	var auth *ssh.ServerAuthError
	switch {
	case c.dropped.Load():
		c.log.Info("Dropped in favour of a newer connection", "reason", "MaxStartups")
	case c.graced.Load():
		c.server.startups.punish(c.source, penaltyGrace, time.Now())
		c.log.Info("Timeout before authentication")
	case errors.As(err, &auth) && c.failures > 0:
		c.server.stats.Failed.Add(1)
		c.server.startups.punish(c.source, penaltyAuthFail, time.Now())
		c.log.Info("Connection closed by authenticating user", "user", printable(c.user), "failures", c.failures)
	default:
		c.server.startups.punish(c.source, penaltyNoAuth, time.Now())
		c.log.Info("Connection closed before authentication", "reason", printable(err.Error()))
	}
}

// connOf wraps an accepted connection.
func (s *Server) connOf(nc net.Conn) *conn {
	c := &conn{server: s, config: s.config.Load(), raw: newTransport(nc), end: endpointOf(nc), began: time.Now()}
	c.log = c.config.Log.With("from", c.end.Addr, "port", c.end.Port)
	c.ctx, c.cancel = context.WithCancel(s.ctx)
	return c
}

// hangUp makes serve end: at once when nobody has logged in yet, and in order
// otherwise.
func (c *conn) hangUp() {
	c.cancel()
	if !c.authed.Load() {
		c.raw.kill()
	}
}
