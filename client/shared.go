package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// A session that stays belongs to a master, a process of its own in the
// background. Whoever wants a command run in it connects to the master's
// socket, sends one request, and gets one answer. What follows on the socket
// of an accepted request is a link of relay, on which the master stands in for
// the server: control messages and streams are those of a session with the one
// command 0. Standard streams that are files go along as descriptors.

// request is the first message to a master: a length (u32, little-endian) and
// JSON. The descriptors of Slots come with its first byte.
type request struct {
	Op    string // opRun, opStatus, opExit
	Slots []int  // standard streams that are files
}

const (
	opRun    = "run"
	opStatus = "status"
	opExit   = "exit"
)

// answer is the master's.
type answer struct {
	// OK: the request is granted.
	OK bool
	// Said is why not, in the words for the user. Without it the master is
	// about to end, and somebody else should be asked.
	Said   string
	Status Status
}

// Status describes a session that stays.
type Status struct {
	Host     string // as typed by who started it
	PID      int    // of the master
	Age      time.Duration
	Commands int // that run now
	Ran      int // that were begun so far
}

// maxShort bounds a request and an answer.
const maxShort = 16 << 10

// askTimeout bounds what a master does at once.
const askTimeout = 5 * time.Second

// fatalSaid is the code of a Fatal from a master: its text is for the user as
// it stands. It is no code of the session's protocol.
const fatalSaid fsyscall.FatalCode = 0xffff

// SaidError: what a master says of the session, in the words for the user.
type SaidError struct{ Text string }

func (e *SaidError) Error() string { return e.Text }

// Shared says which session to join.
type Shared struct {
	Sockets *Sockets
	Name    string
	// Launch starts a master that serves the listener. It must not wait for
	// it, and need not close the listener.
	Launch func(*net.UnixListener) error
}

// errNoMaster: there is no session to join, and cannot be.
var errNoMaster = errors.New("no session to join")

// startOrJoin joins the session that the configuration shares, or starts one
// for this command alone.
func startOrJoin(ctx context.Context, cfg SessionConfig, stdio map[int]int) (*Session, error) {
	if cfg.Shared != nil {
		s, err := join(ctx, cfg.Shared, stdio)
		if !errors.Is(err, errNoMaster) || ctx.Err() != nil {
			return s, err
		}
	}
	return Start(ctx, cfg, stdio)
}

// join asks a master, which it starts if there is none, to take a command. It
// returns once the master's connection to the server stands. An error that is
// not errNoMaster is for the user: another attempt would meet it as well.
func join(ctx context.Context, cfg *Shared, stdio map[int]int) (*Session, error) {
	conn, err := cfg.reach()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoMaster, err)
	}
	undo := context.AfterFunc(ctx, func() { conn.Close() })
	ans, err := ask(conn, opRun, stdio)
	if !undo() {
		err = context.Cause(ctx)
	}
	switch {
	case err != nil || !ans.OK && ans.Said == "":
		conn.Close()
		return nil, errors.Join(errNoMaster, err)
	case !ans.OK:
		conn.Close()
		return nil, &OpenError{&SaidError{ans.Said}}
	}
	s := newSession(relay.New(conn, localLink()), nil)
	s.run()
	return s, nil
}

// localLink are the settings of the link between a master and its clients:
// that the other end is gone is plain from the socket.
func localLink() relay.Config { return relay.Config{KeepaliveInterval: -1} }

// reach connects to the master, having started it if there is none.
func (cfg *Shared) reach() (*net.UnixConn, error) {
	if cfg.Launch == nil {
		return cfg.Sockets.dial(cfg.Name)
	}
	conn, l, err := cfg.Sockets.dialOrListen(cfg.Name)
	if err != nil || conn != nil {
		return conn, err
	}
	inode := cfg.Sockets.inode(cfg.Name)
	if err := cfg.Launch(l); err != nil {
		return nil, errors.Join(err, cfg.Sockets.retire(cfg.Name, inode, l))
	}
	conn, err = cfg.Sockets.dial(cfg.Name)
	return conn, errors.Join(err, l.Close())
}

// ask sends a request and waits for the answer.
func ask(conn *net.UnixConn, op string, stdio map[int]int) (answer, error) {
	req := request{Op: op}
	var fds []int
	for slot := range 3 {
		if fd, ok := stdio[slot]; ok {
			req.Slots = append(req.Slots, slot)
			fds = append(fds, fd)
		}
	}
	var ans answer
	if err := sendShort(conn, &req, fds...); err != nil {
		return ans, err
	}
	_, err := recvShort(conn, &ans)
	return ans, err
}

// sendShort sends one message with its descriptors.
func sendShort(conn *net.UnixConn, v any, fds ...int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(body)))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if n, _, err := conn.WriteMsgUnix(head[:], rights, nil); err != nil || n != len(head) {
		return errors.Join(err, errIncomplete(n, len(head)))
	}
	_, err = conn.Write(body)
	return err
}

func errIncomplete(n, want int) error {
	if n == want {
		return nil
	}
	return io.ErrShortWrite
}

// recvShort receives one message and the descriptors that came with it, which
// are the caller's to close. It reads nothing beyond it.
func recvShort(conn *net.UnixConn, v any) (files []*os.File, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head[:], oob)
	if files, err = receivedFiles(oob[:oobn], err); err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("more descriptors than there are standard streams")
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil {
		_, err = io.ReadFull(conn, head[n:])
	}
	size := binary.LittleEndian.Uint32(head[:])
	if err == nil && size > maxShort {
		err = fmt.Errorf("a message of %d bytes", size)
	}
	if err == nil {
		body := make([]byte, size)
		if _, err = io.ReadFull(conn, body); err == nil {
			err = json.Unmarshal(body, v)
		}
	}
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func receivedFiles(oob []byte, err error) ([]*os.File, error) {
	msgs, parseErr := unix.ParseSocketControlMessage(oob)
	if err == nil {
		err = parseErr
	}
	var files []*os.File
	for i := range msgs {
		fds, rightsErr := unix.ParseUnixRights(&msgs[i])
		if rightsErr != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stdio"))
		}
	}
	return files, err
}

// Sessions returns the state of each living session whose socket's name begins
// with prefix.
func (s *Sockets) Sessions(prefix string) ([]Status, error) {
	return s.each(prefix, opStatus)
}

// EndSessions tells each living session whose socket's name begins with prefix
// to end, and returns what they were. No command can come to them any more.
func (s *Sockets) EndSessions(prefix string) ([]Status, error) {
	return s.each(prefix, opExit)
}

func (s *Sockets) each(prefix, op string) ([]Status, error) {
	names, err := s.names(prefix)
	if err != nil {
		return nil, err
	}
	var all []Status
	for _, name := range names {
		conn, err := s.dial(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		err = conn.SetDeadline(time.Now().Add(askTimeout))
		var ans answer
		if err == nil {
			ans, err = ask(conn, op, nil)
		}
		if err == nil && op == opExit {
			_, _ = conn.Read(make([]byte, 1)) // its end; or the deadline, then it takes longer
		}
		conn.Close()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return all, fmt.Errorf("%s: the session's process does not answer; it may be stopped", name)
		case err == nil && ans.OK:
			all = append(all, ans.Status)
		}
	}
	return all, nil
}
