package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

// maxStderr bounds what is kept of a channel's stderr for error messages.
const maxStderr = 4 << 10

// Channel is a byte stream to a subsystem. Read and Write may be called at the
// same time, each by one goroutine.
type Channel struct {
	ssh.Channel
	conn     *Conn
	name     string
	quiet    bool          // nothing of it is shown
	accepted chan struct{} // the server has answered the request
	refused  error         // valid once accepted is closed
	drained  chan struct{} // its stderr and requests are read to the end

	mu     sync.Mutex
	stderr []byte // the end of it
	status *ExitStatus
}

// ExitStatus is how the program behind a channel ended.
type ExitStatus struct {
	Code   int    // valid when Signal is empty
	Signal string // as in "KILL"
}

// OpenSubsystem opens a channel and asks for a subsystem on it. It does not
// wait for the answer to the request, so that the first bytes written follow
// it at once; a refusal is a *SubsystemError from Read, or from Accepted. It
// may be called several times.
func (c *Conn) OpenSubsystem(ctx context.Context, name string) (*Channel, error) {
	return c.openSubsystem(ctx, name, false)
}

// OpenFurther is OpenSubsystem for a channel that the user need not hear of:
// what comes on its stderr is not shown.
func (c *Conn) OpenFurther(ctx context.Context, name string) (*Channel, error) {
	return c.openSubsystem(ctx, name, true)
}

func (c *Conn) openSubsystem(ctx context.Context, name string, quiet bool) (*Channel, error) {
	raw, reqs, err := c.openChannel(ctx, "session", nil)
	if err != nil {
		return nil, fmt.Errorf("open a channel to %s: %w", printable(c.cfg.HostName), err)
	}
	ch := &Channel{Channel: raw, conn: c, name: name, quiet: quiet, accepted: make(chan struct{}), drained: make(chan struct{})}
	if c.agent != "" && !quiet {
		if _, err := raw.SendRequest(agentRequest, false, nil); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
	}
	for _, env := range c.environment() {
		payload := ssh.Marshal(struct{ Name, Value string }{env[0], env[1]})
		if _, err := raw.SendRequest("env", false, payload); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
	}
	var drain sync.WaitGroup
	drain.Go(func() { ch.readStderr() })
	drain.Go(func() { ch.readRequests(reqs) })
	c.work.Go(func() {
		drain.Wait()
		close(ch.drained)
	})
	// One request at a time is watched for.
	c.requesting.Lock()
	defer c.requesting.Unlock()
	sent := make(chan struct{})
	c.work.Go(func() { ch.request(sent) })
	select {
	case <-sent:
	case <-ch.accepted:
	}
	return ch, nil
}

// request asks for the subsystem and takes the answer. sent is closed when the
// request is on its way, if that can be seen: data written before it would be
// lost.
func (ch *Channel) request(sent chan struct{}) {
	defer close(ch.accepted)
	payload := ssh.Marshal(struct{ Name string }{ch.name})
	ok, err := watchWrite(ch.conn.link.wire, sent, func() (bool, error) {
		return ch.Channel.SendRequest("subsystem", true, payload)
	})
	switch {
	case err != nil:
		ch.refused = err
	case !ok:
		ch.refused = &SubsystemError{Host: ch.conn.cfg.HostName, Name: ch.name, Stderr: ch.Stderr()}
	default:
		return
	}
	_ = ch.Channel.Close()
}

// openChannel opens a channel and gives up with its context; a channel that
// is opened too late is closed.
func (c *Conn) openChannel(ctx context.Context, kind string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	done := make(chan opened, 1)
	c.work.Go(func() {
		ch, reqs, err := c.client.OpenChannel(kind, extra)
		done <- opened{ch, reqs, err}
	})
	select {
	case o := <-done:
		if o.err != nil && isOver(c.ended) && c.endErr != nil {
			o.err = c.endErr
		}
		return o.ch, o.reqs, o.err
	case <-ctx.Done():
		c.work.Go(func() {
			if o := <-done; o.err == nil {
				go ssh.DiscardRequests(o.reqs) // ends with the channel
				_ = o.ch.Close()
			}
		})
		return nil, nil, ctx.Err()
	}
}

func isOver(ended <-chan struct{}) bool {
	select {
	case <-ended:
		return true
	default:
		return false
	}
}

// openTCP asks the host to connect on to another.
func (c *Conn) openTCP(ctx context.Context, host string, port int) (io.ReadWriteCloser, error) {
	extra := ssh.Marshal(struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}{host, uint32(port), "127.0.0.1", 65535})
	ch, reqs, err := c.openChannel(ctx, "direct-tcpip", extra)
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		return nil, fmt.Errorf("jump host %s: cannot connect on to %s: %s: check the address, and that the jump host allows forwarding",
			printable(c.cfg.HostName), printable(joinHostPort(host, port)), printable(refused.Message))
	}
	if err != nil {
		return nil, fmt.Errorf("jump host %s: %w", printable(c.cfg.HostName), err)
	}
	c.work.Go(func() { ssh.DiscardRequests(reqs) })
	return ch, nil
}

// environment is what SendEnv and SetEnv ask for: SetEnv wins.
func (c *Conn) environment() [][2]string {
	var vars [][2]string
	seen := map[string]bool{}
	for _, kv := range c.cfg.SetEnv {
		name, value, _ := strings.Cut(kv, "=")
		seen[name] = true
		vars = append(vars, [2]string{name, value})
	}
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if seen[name] {
			continue
		}
		for _, pattern := range c.cfg.SendEnv {
			if keys.MatchPattern(name, pattern) {
				vars = append(vars, [2]string{name, value})
				break
			}
		}
	}
	return vars
}

// Read reads from the subsystem. Once the server has refused the subsystem it
// gives that error, and io.EOF or a *LostError otherwise.
func (ch *Channel) Read(p []byte) (int, error) {
	n, err := ch.Channel.Read(p)
	if n > 0 || err == nil {
		return n, err
	}
	<-ch.accepted
	if ch.refused != nil {
		return 0, ch.refused
	}
	if isOver(ch.conn.ended) && ch.conn.endErr != nil {
		return 0, ch.conn.endErr
	}
	return 0, err
}

// Accepted waits until the server has answered the request: nil, or a
// *SubsystemError, or why the connection ended.
func (ch *Channel) Accepted(ctx context.Context) error {
	select {
	case <-ch.accepted:
		return ch.refused
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stderr is the end of what has come on the channel's stderr, made printable
// and one line.
func (ch *Channel) Stderr() string {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return printable(strings.ReplaceAll(strings.TrimSpace(string(ch.stderr)), "\n", "; "))
}

// Status waits for the channel's end and says how the program ended, if the
// server said so.
func (ch *Channel) Status(ctx context.Context) (ExitStatus, bool) {
	select {
	case <-ch.drained:
	case <-ctx.Done():
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.status == nil {
		return ExitStatus{}, false
	}
	return *ch.status, true
}

// readStderr shows what comes on stderr line by line and keeps the end.
func (ch *Channel) readStderr() {
	buf := make([]byte, maxStderr)
	var line []byte
	for {
		n, err := ch.Channel.Stderr().Read(buf)
		ch.mu.Lock()
		ch.stderr = append(ch.stderr, buf[:n]...)
		if extra := len(ch.stderr) - maxStderr; extra > 0 {
			ch.stderr = append(ch.stderr[:0], ch.stderr[extra:]...)
		}
		ch.mu.Unlock()
		line = append(line, buf[:n]...)
		for {
			text, rest, found := strings.Cut(string(line), "\n")
			if !found && len(line) < maxStderr && (err == nil || len(line) == 0) {
				break
			}
			if !ch.quiet {
				ch.conn.ui.warn("%s: %s", ch.conn.cfg.HostName, text)
			}
			line = append(line[:0], rest...)
		}
		if err != nil {
			return
		}
	}
}

func (ch *Channel) readRequests(reqs <-chan *ssh.Request) {
	for req := range reqs {
		var st *ExitStatus
		switch req.Type {
		case "exit-status":
			var m struct{ Code uint32 }
			if ssh.Unmarshal(req.Payload, &m) == nil {
				st = &ExitStatus{Code: int(m.Code)}
			}
		case "exit-signal":
			var m struct {
				Signal     string
				Core       bool
				Error, Tag string
			}
			if ssh.Unmarshal(req.Payload, &m) == nil {
				st = &ExitStatus{Signal: printable(m.Signal)}
			}
		}
		if st != nil {
			ch.mu.Lock()
			ch.status = st
			ch.mu.Unlock()
		}
		if req.WantReply {
			_ = req.Reply(false, nil)
		}
	}
}
