package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/rawio"
)

// retryPause is OpenSSH's between ConnectionAttempts.
const retryPause = time.Second

// dialTCP connects to the host itself: each of its addresses in turn, the
// whole ConnectionAttempts times.
func dialTCP(ctx context.Context, c *Config) (net.Conn, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, ipNetwork(c.AddressFamily), c.HostName)
	if err != nil {
		return nil, &ConnectError{Host: c.HostName, Port: c.Port, Err: err}
	}
	for attempt := range c.ConnectionAttempts {
		if attempt > 0 {
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		for _, addr := range addrs {
			var conn net.Conn
			if conn, err = dialAddr(ctx, c, addr.Unmap()); err == nil {
				return rawio.NewConn(conn), nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Timeout() {
		err = syscall.ETIMEDOUT
	}
	return nil, &ConnectError{Host: c.HostName, Port: c.Port, Err: err}
}

func dialAddr(ctx context.Context, c *Config, addr netip.Addr) (net.Conn, error) {
	d := net.Dialer{Timeout: c.ConnectTimeout, KeepAlive: -1, FallbackDelay: -1}
	d.ControlContext = func(_ context.Context, _, _ string, raw syscall.RawConn) error { return setSocket(c, addr, raw) }
	if c.BindAddress != "" || c.BindInterface != "" {
		local, err := bindAddr(ctx, c, addr)
		if err != nil {
			return nil, err
		}
		d.LocalAddr = local
	}
	// Go sets TCP_NODELAY on every TCP connection.
	return d.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, uint16(c.Port)).String())
}

// setSocket sets what must be set before the connection is made.
func setSocket(c *Config, addr netip.Addr, raw syscall.RawConn) error {
	var err error
	ctlErr := raw.Control(func(fd uintptr) {
		if c.TCPKeepAlive {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		}
		if c.TOS < 0 {
			return
		}
		// As with OpenSSH, a class that cannot be set is no reason to fail.
		if addr.Is4() {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, c.TOS)
		} else {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, c.TOS)
		}
	})
	return errors.Join(ctlErr, err)
}

// bindAddr is the local address to connect from: BindAddress, or the first of
// BindInterface of the same family that is not link-local.
func bindAddr(ctx context.Context, c *Config, remote netip.Addr) (net.Addr, error) {
	if c.BindAddress != "" {
		network := "ip6"
		if remote.Is4() {
			network = "ip4"
		}
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, c.BindAddress)
		if err != nil {
			return nil, fmt.Errorf("BindAddress %s: %w", c.BindAddress, err)
		}
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(addrs[0].Unmap(), 0)), nil
	}
	iface, err := net.InterfaceByName(c.BindInterface)
	if err != nil {
		return nil, fmt.Errorf("BindInterface %s: %w", c.BindInterface, err)
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return nil, fmt.Errorf("BindInterface %s: %w", c.BindInterface, err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() == remote.Is4() && !prefix.Addr().IsLinkLocalUnicast() {
			return net.TCPAddrFromAddrPort(netip.AddrPortFrom(prefix.Addr(), 0)), nil
		}
	}
	return nil, fmt.Errorf("BindInterface %s has no address of the host's family: name another", c.BindInterface)
}
