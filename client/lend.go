package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lender hands fslave, while it runs, the standard streams of commands that
// are files; fslave.Lent is the other end. A packet has a command's number and
// the slots, and the descriptors come with it; without slots it takes those of
// the command back. Each is answered with one byte, so that the command can
// be sent off knowing that fslave has its files.
type lender struct {
	mu   sync.Mutex
	conn *os.File
}

// lendTimeout bounds the answer of fslave, which does nothing else there.
const lendTimeout = 10 * time.Second

// newLender returns the lender and fslave's end.
func newLender() (*lender, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socketpair: %w", err)
	}
	tv := unix.NsecToTimeval(lendTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, nil, errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1]))
	}
	return &lender{conn: os.NewFile(uintptr(pair[0]), "lent")}, os.NewFile(uintptr(pair[1]), "lent"), nil
}

// lend gives fslave the files of command cmd, by slot. They stay the caller's
// to close.
func (l *lender) lend(cmd uint32, files map[int]*os.File) error {
	packet := binary.LittleEndian.AppendUint32(nil, cmd)
	var fds []int
	for slot := range 3 {
		if f, ok := files[slot]; ok {
			packet = append(packet, byte(slot))
			fds = append(fds, int(f.Fd()))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fd := int(l.conn.Fd())
	if err := unix.Sendmsg(fd, packet, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("hand over a standard stream: %w", err)
	}
	var ok [1]byte
	for {
		n, err := unix.Read(fd, ok[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("hand over a standard stream: %w", err)
		case n != 1 || ok[0] != 1:
			return errors.New("hand over a standard stream: the file service does not take it")
		}
		return nil
	}
}

// takeBack ends the loan of a command's files. An error means that fslave has
// ended, and so have its descriptors.
func (l *lender) takeBack(cmd uint32) { _ = l.lend(cmd, nil) }

func (l *lender) close() { l.conn.Close() }
