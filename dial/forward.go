package dial

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// The names of agent forwarding. See OpenSSH's PROTOCOL and
// draft-ietf-sshm-ssh-agent, section 5.
const (
	agentRequest = "auth-agent-req@openssh.com"
	agentChannel = "auth-agent@openssh.com"
)

// maxAgentChannels bounds how many of the server's programs ask the agent at
// once; further ones are refused.
const maxAgentChannels = 64

// agentLinger is how long an agent may still answer whom the server has let go.
const agentLinger = 2 * time.Second

// agentToForward is ForwardAgent, as long as there is an agent.
func agentToForward(cfg *Config, u *ui) string {
	path := cfg.ForwardAgent
	if path == "" {
		return ""
	}
	if path[0] != '@' {
		if _, err := os.Stat(path); err != nil {
			u.warn("Cannot forward agent socket path %q: %v", path, reason(err))
			return ""
		}
	}
	return path
}

// forwardAgent connects a channel of the server's with the agent.
func (c *Conn) forwardAgent(nc ssh.NewChannel) {
	if c.agents.Add(1) > maxAgentChannels {
		c.agents.Add(-1)
		_ = nc.Reject(ssh.ResourceShortage, "too many connections to the agent")
		return
	}
	c.work.Go(func() {
		defer c.agents.Add(-1)
		conn, err := net.Dial("unix", c.agent)
		if err != nil {
			c.ui.warn("Cannot forward to the agent: %v", err)
			_ = nc.Reject(ssh.ConnectionFailed, "the agent does not answer")
			return
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			conn.Close()
			return
		}
		var both sync.WaitGroup
		both.Go(func() { ssh.DiscardRequests(reqs) })
		both.Go(func() {
			_, _ = io.Copy(conn, ch) // ends with the channel, and so with the connection
			_ = conn.(*net.UnixConn).CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(agentLinger))
		})
		_, _ = io.Copy(ch, conn)
		_ = ch.Close()
		conn.Close()
		both.Wait()
	})
}
