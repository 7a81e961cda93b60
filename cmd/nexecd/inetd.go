package main

import (
	"context"
	"net"
	"os"
	"time"
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
	if nc, err := net.FileConn(os.Stdin); err == nil {
		return nc, nil
	}
	return &pipeConn{in: os.Stdin, out: os.Stdout}, nil
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
