package client

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/relay"
)

// Sockets is the directory with the sockets of this user's sessions that stay:
// nexec in $XDG_RUNTIME_DIR or, without that, in the directory for state. Only
// its owner can enter it. A socket is reached by way of the directory's
// descriptor, so that its path may be of any length and nobody can put another
// directory in place of this one after it was checked.
//
// Whoever makes or removes a socket locks the directory first.
type Sockets struct {
	path string
	dir  *os.File
}

// socketSuffix ends the names of sockets.
const socketSuffix = ".sock"

// OpenSockets makes the directory, if it is not there, and checks it.
func OpenSockets() (*Sockets, error) {
	base := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(base) {
		var err error
		if base, err = stateHome(); err != nil {
			return nil, fmt.Errorf("no directory for the sockets of sessions: %w", err)
		}
	}
	path := filepath.Join(base, "nexec")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	s := &Sockets{path: path, dir: os.NewFile(uintptr(fd), path)}
	var st unix.Stat_t
	switch err := unix.Fstat(fd, &st); {
	case err != nil:
		err = &os.PathError{Op: "stat", Path: path, Err: err}
		return nil, errors.Join(err, s.Close())
	case int(st.Uid) != unix.Geteuid():
		return nil, errors.Join(fmt.Errorf("%s belongs to another user", path), s.Close())
	case st.Mode&0o077 != 0:
		return nil, errors.Join(fmt.Errorf("%s is open to other users: run chmod 700 on it", path), s.Close())
	}
	return s, nil
}

// Close releases the directory.
func (s *Sockets) Close() error { return s.dir.Close() }

func (s *Sockets) fd() int { return int(s.dir.Fd()) }

func (s *Sockets) address(name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s%s", s.fd(), name, socketSuffix)}
}

// lock keeps other processes from making or removing sockets. It is held for
// no longer than a few system calls.
func (s *Sockets) lock() (unlock func(), err error) {
	for {
		err := unix.Flock(s.fd(), unix.LOCK_EX)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "lock", Path: s.path, Err: err}
		}
		return func() { _ = unix.Flock(s.fd(), unix.LOCK_UN) }, nil
	}
}

// dial connects to the master behind a socket.
func (s *Sockets) dial(name string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, s.address(name))
	if err != nil {
		return nil, err
	}
	if err := samePeer(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// samePeer refuses what belongs to another user at the other end.
func samePeer(conn *net.UnixConn) error {
	uid, err := relay.PeerUser(conn)
	if err == nil && uid != unix.Geteuid() {
		err = errors.New("the other end belongs to another user")
	}
	return err
}

// dialOrListen connects to the master behind a socket. Where there is none it
// makes the socket, in place of what a dead master may have left, and returns
// who is to listen there instead.
func (s *Sockets) dialOrListen(name string) (*net.UnixConn, *net.UnixListener, error) {
	if conn, err := s.dial(name); err == nil {
		return conn, nil, nil
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	conn, err := s.dial(name)
	switch {
	case err == nil:
		return conn, nil, nil
	case errors.Is(err, unix.ECONNREFUSED):
		err = s.unlink(name)
	case errors.Is(err, unix.ENOENT):
		err = nil
	}
	if err != nil {
		return nil, nil, err
	}
	l, err := net.ListenUnix("unix", s.address(name))
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false) // it is passed on
	if err := unix.Fchmodat(s.fd(), name+socketSuffix, 0o600, 0); err != nil {
		return nil, nil, errors.Join(err, l.Close(), s.unlink(name))
	}
	return nil, l, nil
}

func (s *Sockets) unlink(name string) error {
	if err := unix.Unlinkat(s.fd(), name+socketSuffix, 0); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "remove", Path: filepath.Join(s.path, name), Err: err}
	}
	return nil
}

// inode identifies a socket's name. It is zero where there is none.
func (s *Sockets) inode(name string) uint64 {
	var st unix.Stat_t
	if unix.Fstatat(s.fd(), name+socketSuffix, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return 0
	}
	return st.Ino
}

// retire removes the socket of a listener, unless the name has become another
// one's, and closes the listener.
func (s *Sockets) retire(name string, inode uint64, l *net.UnixListener) error {
	unlock, err := s.lock()
	if err == nil {
		defer unlock()
		if s.inode(name) == inode {
			err = s.unlink(name)
		}
	}
	return errors.Join(err, l.Close())
}

// names returns the names of all sockets with a prefix, having removed those
// that nobody listens on any more.
func (s *Sockets) names(prefix string) ([]string, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", s.fd()))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), socketSuffix)
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		conn, err := s.dial(name)
		switch {
		case err == nil:
			conn.Close()
			names = append(names, name)
		case errors.Is(err, unix.ECONNREFUSED):
			if err := s.unlink(name); err != nil {
				return names, err
			}
		}
	}
	return names, nil
}
