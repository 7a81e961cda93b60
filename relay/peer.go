package relay

import (
	"net"

	"golang.org/x/sys/unix"
)

// PeerUser returns the effective user at the other end of a unix socket, as it
// was when the two were connected; see SO_PEERCRED in unix(7).
func PeerUser(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Ucred
	if ctrl := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctrl != nil {
		return -1, ctrl
	}
	if err != nil {
		return -1, err
	}
	return int(cred.Uid), nil
}
