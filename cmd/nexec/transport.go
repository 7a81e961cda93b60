package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/dial"
)

// transport reaches nexec-server.
type transport interface {
	// open is a client.Opener.
	open(context.Context) (io.ReadWriteCloser, error)
	// further is a client.Opener of further byte streams; nil: there are none.
	further() client.Opener
	// refine applies what the way to the host says of the session.
	refine(*client.Config)
	// wait ends what open began, whose byte stream must be closed. It returns
	// why it failed, if that explains a session that never began.
	wait() error
	// name is what an error of wait is about.
	name() string
	// config is what ssh_config says of the destination; nil where it is not
	// for nexec to read.
	config() *dial.Config
}

// transport decides how to reach the host: by an ssh-like command, or by
// nexec's own SSH client.
func (o *options) transport(v *voice) (transport, error) {
	if o.ssh == "" {
		opts := o.dialOptions(v)
		cfg, err := dial.Resolve(context.Background(), opts)
		if err != nil {
			return nil, err
		}
		settings := &sshSettings{cfg: cfg, ttySaid: o.ttySaid}
		if args := o.clockSSH(cfg); args != nil {
			if o.verbose > 0 && o.master == "" {
				v.warn("RekeyLimit has a time: %s carries the session", printable(args[0]))
			}
			return &sshCommand{args: args, background: o.master != "", settings: settings}, nil
		}
		return &sshTransport{sshSettings: settings, opts: opts}, nil
	}
	args, err := o.sshArguments()
	if err != nil {
		return nil, err
	}
	return &sshCommand{args: args, background: o.master != ""}, nil
}

func (o *options) dialOptions(v *voice) dial.Options {
	return dial.Options{
		Destination: o.dest.text, User: o.user, Port: o.port, ConfigFile: o.configFile,
		Identities: o.identities, Jump: o.jump, Settings: o.settings,
		Verbose: o.verbose, Quiet: o.quiet, Stderr: v.w,
	}
}

// sshTransport is a connection of nexec's own SSH client.
type sshTransport struct {
	*sshSettings
	opts dial.Options

	mu      sync.Mutex
	conn    *dial.Conn     // nil until it stands
	closed  chan struct{}  // closed when conn has ended
	closing sync.WaitGroup // of further channels
}

func (t *sshTransport) name() string { return t.opts.Destination }

func (t *sshTransport) open(ctx context.Context) (io.ReadWriteCloser, error) {
	conn, err := dial.DialResolved(ctx, t.opts, t.cfg)
	if err != nil {
		return nil, err
	}
	ch, err := conn.OpenSubsystem(ctx, "nexec")
	if err != nil {
		conn.Close()
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn, t.closed = conn, make(chan struct{})
	return &sshChannel{ReadWriter: ch, conn: conn, closed: t.closed}, nil
}

// further opens further channels of the same connection. One that belongs to
// an ssh that runs already has others to serve.
func (t *sshTransport) further() client.Opener {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		t.mu.Lock()
		conn := t.conn
		t.mu.Unlock()
		if conn == nil || conn.Shared() {
			return nil, errors.ErrUnsupported
		}
		ch, err := conn.OpenFurther(ctx, "nexec")
		if err != nil {
			return nil, err
		}
		return &furtherChannel{Channel: ch, closing: &t.closing}, nil
	}
}

// furtherChannel is one of the further byte streams. Its Close tells the other
// end; reads and writes return when that answers, or the connection ends.
type furtherChannel struct {
	*dial.Channel
	closing *sync.WaitGroup
	once    sync.Once
}

func (c *furtherChannel) Close() error {
	c.once.Do(func() {
		c.closing.Go(func() { // it may have to wait for the network
			_ = c.Channel.Close() // or the connection is gone, and it with that
		})
	})
	return nil
}

// sshSettings is what ssh_config says of the destination. A nil one says
// nothing.
type sshSettings struct {
	cfg     *dial.Config
	ttySaid bool // -t or -T wins over RequestTTY
}

func (s *sshSettings) config() *dial.Config {
	if s == nil {
		return nil
	}
	return s.cfg
}

// refine applies ssh_config's RequestTTY, SendEnv, SetEnv and StdinNull. All
// of the environment goes anyway, so SendEnv matters for names left out.
func (s *sshSettings) refine(cfg *client.Config) {
	c := s.config()
	if c == nil {
		return
	}
	if !s.ttySaid {
		cfg.Terminal = map[string]client.TerminalUse{
			"no": client.TerminalNone, "yes": client.TerminalWanted, "force": client.TerminalForced,
		}[strings.ToLower(c.RequestTTY)]
	}
	cfg.NoInput = cfg.NoInput || c.StdinNull
	cfg.Env.Keep = append(cfg.Env.Keep, sendEnv(c.SendEnv)...)
	cfg.Env.Set = append(append([]string(nil), c.SetEnv...), cfg.Env.Set...)
}

// sendEnv keeps the patterns that are not there to send everything.
func sendEnv(patterns []string) []string {
	var kept []string
	for _, p := range patterns {
		if strings.Trim(p, "*?") != "" {
			kept = append(kept, p)
		}
	}
	return kept
}

// closeGrace bounds the end of a connection that does not answer any more.
const closeGrace = 3 * time.Second

func (t *sshTransport) wait() error {
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed == nil {
		return nil
	}
	select {
	case <-closed:
		t.closing.Wait()
	case <-time.After(closeGrace):
		// The process ends now, and the connection with it.
	}
	return nil
}

// sshChannel is the byte stream; the connection has no other, and ends with
// it. Close does not block, whatever the network does.
type sshChannel struct {
	io.ReadWriter
	conn   *dial.Conn
	closed chan struct{}
	once   sync.Once
}

// RemoteAddr is the address connected to; through a proxy, a name for it.
func (c *sshChannel) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

func (c *sshChannel) Close() error {
	c.once.Do(func() {
		go func() { // joined by wait
			_ = c.conn.Close() // the session is over
			close(c.closed)
		}()
	})
	return nil
}
