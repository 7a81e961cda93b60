package namespace

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The packets between supervisor and init. Each has one kind byte, fields in
// the encoding of wire.go, and descriptors.
const (
	// To the supervisor.
	pktDevice  uint8 = 1 // descriptor: /dev/fuse, mounted
	pktReady   uint8 = 2 // strings: notes
	pktFailed  uint8 = 3 // Failure
	pktStarted uint8 = 4 // cmd, stage, errno, pid; descriptor: terminal master, if any
	pktStopped uint8 = 5 // cmd, signal
	pktEnded   uint8 = 6 // cmd, wait status, three offsets

	// To init.
	pktRun     uint8 = 32 // descriptors: command, then one per stdioDescriptor
	pktSignal  uint8 = 33 // cmd, signal
	pktWinsize uint8 = 34 // cmd, rows, columns, x, y
	pktClose   uint8 = 35 // milliseconds between hanging up and killing
)

const (
	// maxPacket bounds a packet: a Failure has two paths, notes are few. What
	// may be larger travels in a memory file.
	maxPacket = 16 << 10
	// maxFiles is a command's memory file and its three standard streams.
	maxFiles = 4
)

// sendPacket writes one packet on a blocking socket.
func sendPacket(fd int, b []byte, files ...int) error {
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	for {
		err := unix.Sendmsg(fd, b, rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// recvPacket reads one packet from a blocking socket. The descriptors are
// close-on-exec. io.EOF means that the other end is gone.
func recvPacket(fd int, buf []byte) (b []byte, files []int, err error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET || err == nil && n == 0:
			return nil, nil, io.EOF
		case err != nil:
			return nil, nil, os.NewSyscallError("recvmsg", err)
		}
		files, err := parseRights(oob[:oobn])
		return buf[:n], files, err
	}
}

func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []int
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return files, err
		}
		files = append(files, fds...)
	}
	return files, nil
}

// readPacket is recvPacket for the supervisor's end, which Close unblocks.
func readPacket(c *net.UnixConn, buf []byte) (b []byte, files []int, err error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, io.EOF
	}
	files, err = parseRights(oob[:oobn])
	return buf[:n], files, err
}

func closeAll(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// socketPair returns the supervisor's end and the file to give to init.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "init"), os.NewFile(uintptr(fds[1]), "supervisor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		theirs.Close()
		return nil, nil, syscall.ENOTSOCK
	}
	return uc, theirs, nil
}

// memoryFile returns an anonymous file that holds b, positioned at its start.
func memoryFile(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readMemoryFile reads all of such a file without moving its position.
func readMemoryFile(fd int, max int64) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Size > max {
		return nil, unix.E2BIG
	}
	b := make([]byte, st.Size)
	for n := 0; n < len(b); {
		m, err := unix.Pread(fd, b[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return nil, errShort
		}
		n += m
	}
	return b, nil
}
