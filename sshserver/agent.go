package sshserver

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
)

// agentChannel is opened to a client that forwards its agent.
const agentChannel = "auth-agent@openssh.com"

// maxAgents bounds how many programs of a session ask the agent at once; more
// wait.
const maxAgents = 16

// agentSocket is a session's way to the client's agent: a socket that only its
// user, and root, can connect to. One goroutine accepts, one serves each
// connection; close joins them.
type agentSocket struct {
	session *Session
	dir     string
	path    string
	l       *net.UnixListener
	wg      sync.WaitGroup
	slots   chan struct{}

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// listenAgent makes the socket. Its directory stays ours, so that nobody can
// have us remove something else in the end.
func listenAgent(s *Session) (*agentSocket, error) {
	dir, err := os.MkdirTemp("", "nexecd-agent-")
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a := &agentSocket{session: s, dir: dir, path: filepath.Join(dir, "agent"), slots: make(chan struct{}, maxAgents), conns: map[net.Conn]bool{}}
	if a.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"}); err == nil {
		a.l.SetUnlinkOnClose(false)
		err = os.Chmod(a.path, 0o600)
	}
	if acct := s.Grant.Account; err == nil && os.Geteuid() == 0 {
		err = os.Lchown(a.path, int(acct.UID), int(acct.GID))
	}
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	a.wg.Go(a.accept)
	return a, nil
}

// close ends everything and removes the socket.
func (a *agentSocket) close() {
	if a.l != nil {
		a.l.Close()
	}
	a.mu.Lock()
	a.closed = true
	for c := range a.conns {
		c.Close()
	}
	a.mu.Unlock()
	a.wg.Wait()
	_ = os.Remove(a.path)
	_ = os.Remove(a.dir)
}

func (a *agentSocket) accept() {
	for {
		c, err := a.l.Accept()
		if err != nil {
			return
		}
		a.mu.Lock()
		closed := a.closed
		a.conns[c] = true
		a.mu.Unlock()
		if closed {
			c.Close()
			return
		}
		select {
		case a.slots <- struct{}{}:
		case <-a.session.ctx.Done():
			c.Close()
			return
		}
		a.wg.Go(func() {
			a.serve(c)
			<-a.slots
		})
	}
}

// serve connects one program with the agent.
func (a *agentSocket) serve(c net.Conn) {
	defer func() {
		c.Close()
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.conns, c)
	}()
	ch, reqs, err := a.session.openChannel(agentChannel, nil)
	if err != nil {
		a.session.Log.Debug("agent", "error", err)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { ssh.DiscardRequests(reqs) })
	both.Go(func() {
		_, _ = io.Copy(c, ch)
		c.Close() // the agent has gone: no more questions
	})
	_, _ = io.Copy(ch, c)
	_ = ch.Close()
	both.Wait()
}
