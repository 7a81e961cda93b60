package fslave

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Lent holds the standard streams of commands that are files, as the client
// hands them over while the server runs: the later commands of a session that
// stays. Its File method fits [Config.Stdio].
//
// A packet on the socket has a command's number (u32, little-endian) and one
// byte for each slot, whose descriptors come with it in that order. One without
// slots takes the command's files back. Each is answered with a byte: 1, or 0
// for a packet that is none.
type Lent struct {
	conn int
	done chan struct{}

	mu    sync.Mutex
	files map[lentKey]*os.File
}

type lentKey struct {
	cmd  uint32
	slot uint8
}

// maxLent bounds the files that are lent at once: three for each of the 200
// commands that a session has at most, and some that are being taken back.
const maxLent = 1024

// NewLent starts to take files on conn, a socket of packets, which it owns.
func NewLent(conn int) *Lent {
	l := &Lent{conn: conn, done: make(chan struct{}), files: map[lentKey]*os.File{}}
	go l.serve()
	return l
}

// File returns standard stream slot of command cmd.
func (l *Lent) File(cmd uint32, slot uint8) (*os.File, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.files[lentKey{cmd, slot}]
	return f, ok
}

// Close takes no more files and closes those it has.
func (l *Lent) Close() {
	_ = unix.Shutdown(l.conn, unix.SHUT_RDWR) // ends serve
	<-l.done
}

func (l *Lent) serve() {
	defer close(l.done)
	defer unix.Close(l.conn)
	packet := make([]byte, 16)
	oob := make([]byte, unix.CmsgSpace(3*4))
	for {
		n, oobn, flags, _, err := unix.Recvmsg(l.conn, packet, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		fds := rights(oob[:oobn])
		if err != nil || n == 0 {
			break // the client is gone
		}
		answer := byte(0)
		if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) == 0 && l.take(packet[:n], fds) {
			answer = 1
		} else {
			closeFDs(fds)
		}
		if unix.Sendmsg(l.conn, []byte{answer}, nil, nil, unix.MSG_NOSIGNAL) != nil {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, f := range l.files {
		delete(l.files, key)
		f.Close()
	}
}

// take carries out a packet. The descriptors are its own if it returns true.
func (l *Lent) take(packet []byte, fds []int) bool {
	if len(packet) < 4 || len(packet)-4 != len(fds) {
		return false
	}
	cmd, slots := binary.LittleEndian.Uint32(packet), packet[4:]
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(slots) == 0 {
		for slot := range uint8(3) {
			if f := l.files[lentKey{cmd, slot}]; f != nil {
				f.Close()
				delete(l.files, lentKey{cmd, slot})
			}
		}
		return true
	}
	seen := map[byte]bool{}
	for _, slot := range slots {
		if slot > 2 || seen[slot] || l.files[lentKey{cmd, slot}] != nil || len(l.files) >= maxLent {
			return false
		}
		seen[slot] = true
	}
	for i, slot := range slots {
		l.files[lentKey{cmd, slot}] = os.NewFile(uintptr(fds[i]), "stdio")
	}
	return true
}

func rights(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
