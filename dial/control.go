package dial

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// controlTime bounds the greeting of a control socket, which is local.
const controlTime = 10 * time.Second

// dialControl uses the connection of an ssh that runs as a control master, if
// ControlPath and ControlMaster say so and one answers; nil otherwise. It
// speaks ssh's "proxy" mode, in which channels go through and global requests
// must not: none is sent on such a connection.
func dialControl(ctx context.Context, cfg *Config, u *ui) *Conn {
	if cfg.ControlMaster == "yes" || cfg.ControlMaster == "ask" {
		return nil // such an ssh would be a master itself and asks no other
	}
	for _, path := range []string{cfg.ControlPath, cfg.oldControlPath} {
		if path == "" {
			continue
		}
		c, err := controlConn(ctx, cfg, u, path)
		if err == nil {
			u.verbose(1, "using the control socket %s", path)
			return c
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			u.warn("Control socket connect(%s): %v", path, reason(err))
		}
	}
	return nil
}

func controlConn(ctx context.Context, cfg *Config, u *ui, path string) (*Conn, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	l := &link{wire: newWire(conn, conn.LocalAddr(), viaAddr(joinHostPort(cfg.HostName, cfg.Port)))}
	guard := guardHandshake(ctx, 0, l)
	client, chans, reqs, err := ssh.NewControlClientConn(l.wire)
	guard.stop()
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	c := newConn(cfg, u, client, l)
	c.shared = true
	c.start(chans, reqs, nil)
	return c, nil
}

// checkSocket refuses a control socket of somebody else.
func checkSocket(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || (int(sys.Uid) != os.Geteuid() && sys.Uid != 0) {
		return errors.New("it belongs to another user: it is not used")
	}
	return nil
}
