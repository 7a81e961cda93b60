// Package handover passes a connection on to the process of a session that
// runs already.
//
// A front door, nexecd or sshd, starts one nexec-server for each connection,
// and takes its end for the connection's. One whose connection begins with a
// session's secret (relay.ReadOpening) is not to make a session: it gives its
// standard input and output to the session's process, over a socket that only
// processes of the same user can reach, and waits until that has no more use
// for them.
//
//	client ── channel 1 ── front door ── nexec-server, the session
//	   └───── channel 2 ── front door ─┬─ nexec-server ─┘ (Send → Listener)
//	                                   └─ ─ ─ bytes ─ ─ ┘
//
// The session tells by the preamble that follows what the connection is for.
//
// # The socket
//
// Its directory belongs to the user and has mode 0700; its name is a hash of
// the secret. The giver sends one packet: a version byte and the secret, with
// the two descriptors. The taker answers one byte, 1, and closes the socket
// when it is done with the descriptors; on any fault it closes it at once.
package handover

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/relay"
)

// Secret names a session and proves that a connection is meant for it.
type Secret = [32]byte

// ErrNoSession is returned for a secret that belongs to no session of this
// user on this machine.
var ErrNoSession = errors.New("there is no such session here any more")

const (
	version  = 1
	accepted = 1
	// packetSize is what a giver sends.
	packetSize = 1 + len(Secret{})
	// patience is how long either end waits for the other, which has nothing
	// to do but to say this.
	patience = 10 * time.Second
	// pendingMost bounds the givers that are listened to at once. One that is
	// silent is only in the way of its own user's connections.
	pendingMost = 8
)

// name is the name of a session's socket. It gives nothing of the secret away.
func name(secret Secret) string {
	sum := sha256.Sum256(append([]byte("nexec handover\x00"), secret[:]...))
	return hex.EncodeToString(sum[:16]) + suffix
}

// Listener takes the connections that are handed over to a session.
type Listener struct {
	secret Secret
	take   func(io.ReadWriteCloser)
	dir    *directory
	socket *net.UnixListener
	slots  chan struct{} // full: pendingMost givers are being listened to
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	pending map[*net.UnixConn]struct{}
}

// Listen has take called, in goroutines of their own, with each connection
// that is handed over to the session with the secret. The connections are
// take's; their Close makes blocked reads and writes return. environ is where
// XDG_RUNTIME_DIR is looked up. A secret of zeros is nobody's, and an error.
func Listen(environ []string, secret Secret, take func(io.ReadWriteCloser)) (*Listener, error) {
	if secret == (Secret{}) {
		return nil, errors.New("the session has no secret")
	}
	dir, socket, err := listenIn(directories(environ), name(secret))
	if err != nil {
		return nil, fmt.Errorf("cannot listen for further connections: %w", err)
	}
	l := &Listener{
		secret: secret, take: take, dir: dir, socket: socket,
		slots: make(chan struct{}, pendingMost), pending: map[*net.UnixConn]struct{}{},
	}
	l.wg.Go(l.accept)
	return l, nil
}

// Close removes the socket and returns when nothing will be taken any more.
// Connections that were taken live on.
func (l *Listener) Close() error {
	err := l.dir.remove(name(l.secret))
	err = errors.Join(err, l.socket.Close())
	l.mu.Lock()
	l.closed = true
	for conn := range l.pending {
		conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return errors.Join(err, l.dir.close())
}

// accept listens to each giver until the socket is closed.
func (l *Listener) accept() {
	for {
		l.slots <- struct{}{} // freed in time: see patience
		conn, err := l.socket.AcceptUnix()
		if err == nil && l.begin(conn) {
			l.wg.Go(func() {
				l.receive(conn)
				<-l.slots
			})
			continue
		}
		<-l.slots
		if errors.Is(err, net.ErrClosed) || err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond) // out of descriptors, as a rule
	}
}

// begin has Close know of a connection. False means that Close was called.
func (l *Listener) begin(conn *net.UnixConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return false
	}
	l.pending[conn] = struct{}{}
	return true
}

// receive listens to one giver.
func (l *Listener) receive(conn *net.UnixConn) {
	pipes, err := l.welcome(conn)
	l.mu.Lock()
	delete(l.pending, conn)
	late := l.closed
	l.mu.Unlock()
	switch {
	case err != nil:
		conn.Close() // the giver has its user to tell
	case late:
		pipes.Close()
		conn.Close()
	default:
		l.take(&connection{pipes, conn})
	}
}

// welcome reads a giver's packet and answers it.
func (l *Listener) welcome(conn *net.UnixConn) (*relay.Pipes, error) {
	if err := sameUser(conn); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var packet [packetSize + 1]byte
	oob := make([]byte, unix.CmsgSpace(2*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(packet[:], oob)
	if err != nil {
		return nil, err
	}
	files, err := receivedFiles(oob[:oobn])
	switch {
	case err != nil:
	case flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 || n != packetSize || packet[0] != version || len(files) != 2:
		err = fmt.Errorf("%d bytes and %d descriptors are no connection", n, len(files))
	case subtle.ConstantTimeCompare(packet[1:packetSize], l.secret[:]) != 1:
		err = ErrNoSession
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	pipes, err := relay.NewPipes(files[0], files[1])
	if err != nil {
		closeAll(files)
		return nil, err
	}
	if _, err = conn.Write([]byte{accepted}); err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		pipes.Close()
		return nil, err
	}
	return pipes, nil
}

// connection is a byte stream that was handed over.
type connection struct {
	*relay.Pipes
	giver *net.UnixConn // waits for our end of it
}

func (c *connection) Close() error {
	return errors.Join(c.Pipes.Close(), c.giver.Close())
}

// Send hands the byte stream over to the session with the secret, and returns
// when the session has no more use for it: nil, or why it was never taken.
// ctx ends the waiting; the session keeps the byte stream then. Send closes p.
func Send(ctx context.Context, environ []string, secret Secret, p *relay.Pipes) error {
	defer p.Close()
	conn, err := reach(directories(environ), name(secret))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := give(conn, secret, p); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("hand the connection over: %w", err))
	}
	if err := p.Close(); err != nil { // the session has it
		return err
	}
	// Until the session is done: there is nothing to be read but the end.
	_, _ = conn.Read(make([]byte, 1))
	return nil
}

// give sends the packet and takes the answer.
func give(conn *net.UnixConn, secret Secret, p *relay.Pipes) error {
	if err := sameUser(conn); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	in, out, err := p.Descriptors()
	if err != nil {
		return err
	}
	packet := append([]byte{version}, secret[:]...)
	if _, _, err = conn.WriteMsgUnix(packet, unix.UnixRights(in, out), nil); err != nil {
		return err
	}
	var answer [1]byte
	switch n, err := conn.Read(answer[:]); {
	case err == io.EOF || err == nil && n == 0:
		return ErrNoSession
	case err != nil:
		return err
	case answer[0] != accepted:
		return fmt.Errorf("the session answered %d", answer[0])
	}
	return conn.SetDeadline(time.Time{})
}

// sameUser refuses what belongs to another user at the other end.
func sameUser(conn *net.UnixConn) error {
	uid, err := relay.PeerUser(conn)
	if err == nil && uid != unix.Geteuid() {
		err = fmt.Errorf("the other end belongs to user %d", uid)
	}
	return err
}

// receivedFiles returns the descriptors that came with a packet. What is not a
// pipe or a socket is an error: it would not end with Close.
func receivedFiles(oob []byte) (files []*os.File, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		fds, rightsErr := unix.ParseUnixRights(&msgs[i])
		if rightsErr != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "connection"))
			var st unix.Stat_t
			if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK && st.Mode&unix.S_IFMT != unix.S_IFIFO {
				err = errors.New("neither pipe nor socket")
			}
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
