package sshserver

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// maxEnv and maxEnvBytes bound what one channel may set before it starts.
	maxEnv      = 128
	maxEnvBytes = 64 << 10
)

// serveChannel serves one session channel: requests until a subsystem is
// asked for, and then its handler. It returns when the channel is closed.
func (c *conn) serveChannel(nc ssh.NewChannel) {
	channel, requests, err := nc.Accept()
	if err != nil {
		return
	}
	ctx, gone := context.WithCancel(c.ctx)
	defer gone()
	counted := &countedChannel{Channel: channel}
	s := &Session{
		Grant: c.grant, End: c.end, User: c.user, Log: c.log, ctx: ctx, channel: counted, stats: &c.server.stats,
		openChannel: c.ssh.OpenChannel,
	}
	size := 0
	for req := range requests {
		ok := false
		switch req.Type {
		case "env":
			ok = s.acceptEnv(req.Payload, &size)
		case "auth-agent-req@openssh.com":
			ok = c.grant.Agent()
			s.agent = s.agent || ok
		case "subsystem":
			if handler := c.subsystem(req.Payload, s); handler != nil {
				_ = req.Reply(true, nil)
				c.runHandler(s, handler, requests, gone)
				return
			}
			c.log.Info("subsystem request failed", "subsystem", printable(stringOf(req.Payload)))
		default:
			// shell, exec, pty-req, x11-req and whatever comes: none is offered.
			c.log.Debug("request refused", "type", printable(req.Type))
		}
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
		if !ok && (req.Type == "shell" || req.Type == "exec") {
			c.log.Info("refused", "request", req.Type)
		}
	}
	_ = channel.Close()
}

func stringOf(payload []byte) string {
	var m struct{ S string }
	if ssh.Unmarshal(payload, &m) != nil {
		return ""
	}
	return m.S
}

func (c *conn) subsystem(payload []byte, s *Session) Handler {
	s.Subsystem = stringOf(payload)
	return c.config.Handlers[s.Subsystem]
}

// acceptEnv keeps a variable that AcceptEnv lets in. size is what there is so far.
func (s *Session) acceptEnv(payload []byte, size *int) bool {
	var m struct{ Name, Value string }
	if ssh.Unmarshal(payload, &m) != nil || m.Name == "" || strings.ContainsAny(m.Name, "=\x00") || strings.Contains(m.Value, "\x00") {
		return false
	}
	*size += len(m.Name) + len(m.Value)
	if len(s.Env) >= maxEnv || *size > maxEnvBytes || !s.Grant.Settings.AcceptsEnv(m.Name) {
		return false
	}
	s.Env = append(s.Env, m.Name+"="+m.Value)
	return true
}

// runHandler runs a handler and answers requests on its channel, which end
// when the client closes it.
func (c *conn) runHandler(s *Session, h Handler, requests <-chan *ssh.Request, gone func()) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		defer gone()
		for req := range requests {
			if req.WantReply {
				_ = req.Reply(false, nil)
			}
		}
	}()
	c.log.Info("Starting session", "subsystem", s.Subsystem)
	c.server.stats.Sessions.Add(1)
	c.server.stats.OpenSessions.Add(1)
	began := time.Now()
	exit := h.ServeSSH(s)
	c.server.stats.OpenSessions.Add(-1)
	received, sent := s.Bytes()
	c.log.Info("Session ended", "subsystem", s.Subsystem, "status", exit.Code, "signal", exit.Signal,
		"received", received, "sent", sent, "seconds", int(time.Since(began).Seconds()))
	_ = s.channel.CloseWrite()
	sendExit(s.channel, exit)
	_ = s.channel.Close()
	<-drained
}

// sendExit is RFC 4254, section 6.10.
func sendExit(channel ssh.Channel, e Exit) {
	if e.Signal == "" {
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(e.Code)}))
		return
	}
	_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
		Signal        string
		Core          bool
		Message, Lang string
	}{e.Signal, e.Core, "", ""}))
}

// countedChannel counts the bytes of a session.
type countedChannel struct {
	ssh.Channel
	read, wrote atomic.Uint64
}

func (c *countedChannel) Read(p []byte) (int, error) {
	n, err := c.Channel.Read(p)
	c.read.Add(uint64(n))
	return n, err
}

func (c *countedChannel) Write(p []byte) (int, error) {
	n, err := c.Channel.Write(p)
	c.wrote.Add(uint64(n))
	return n, err
}
