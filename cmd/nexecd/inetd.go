package main

import (
	"context"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// serveStdin is -i: the connection is on standard input and output.
func (d *daemon) serveStdin() error {
	nc, err := stdinConn()
	if err != nil {
		return err
	}
	d.server.ServeConn(nc)
	return d.server.Shutdown(context.Background())
}

// stdinConn makes a connection of standard input: a socket, or a pair of pipes
// as a ProxyCommand has it.
func stdinConn() (net.Conn, error) {
	if _, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
		return net.FileConn(os.Stdin)
	}
	// Pipes that do not block have deadlines, which limits rest on.
	for fd := range 2 {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
	}
	return &pipeConn{in: os.NewFile(0, "stdin"), out: os.NewFile(1, "stdout")}, nil
}

// pipeConn is a connection over two pipes.
type pipeConn struct{ in, out *os.File }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "UNKNOWN" }

func (p *pipeConn) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *pipeConn) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *pipeConn) LocalAddr() net.Addr         { return pipeAddr{} }
func (p *pipeConn) RemoteAddr() net.Addr        { return pipeAddr{} }

func (p *pipeConn) Close() error {
	err := p.in.Close()
	if oerr := p.out.Close(); err == nil {
		err = oerr
	}
	return err
}

// The deadlines hold for pipes, which the runtime can poll once they do not
// block; a regular file has none and needs none.
func (p *pipeConn) SetDeadline(t time.Time) error {
	_ = p.in.SetReadDeadline(t)
	_ = p.out.SetWriteDeadline(t)
	return nil
}
func (p *pipeConn) SetReadDeadline(t time.Time) error  { return p.in.SetReadDeadline(t) }
func (p *pipeConn) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
