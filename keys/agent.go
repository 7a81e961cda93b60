package keys

import (
	"fmt"
	"net"

	"golang.org/x/crypto/ssh/agent"
)

// Agent is a connection to an authentication agent, local or forwarded. It is
// safe for concurrent use.
type Agent struct {
	agent.ExtendedAgent
	conn net.Conn
}

// DialAgent connects to the agent at a Unix socket. A path that begins with @
// is in the abstract namespace.
func DialAgent(path string) (*Agent, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("agent at %s: %w: start it, or unset SSH_AUTH_SOCK and IdentityAgent", path, err)
	}
	return &Agent{ExtendedAgent: agent.NewClient(conn), conn: conn}, nil
}

// Close ends the connection.
func (a *Agent) Close() error { return a.conn.Close() }
