package handover

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	suffix = ".sock"
	// staleAge is the least age of a socket that is looked at: one younger may
	// not be listened on yet.
	staleAge = time.Minute
	// staleMost bounds how many are looked at by one session, each for the
	// price of a connection.
	staleMost = 16
	// listenTries is how often a directory may vanish, with its last socket,
	// between its making and ours.
	listenTries = 10
)

// place is where a directory can be.
type place struct {
	base    string // must be there
	private bool   // base belongs to the user alone
	name    string
}

// directories are the places for sockets, the best first: the user's runtime
// directory, which is in memory and goes with the machine, and where nobody
// has made one, /tmp. What is looked at there is checked: see open.
func directories(environ []string) []place {
	var all []place
	for _, kv := range environ {
		if dir, ok := strings.CutPrefix(kv, "XDG_RUNTIME_DIR="); ok && filepath.IsAbs(dir) {
			all = append(all, place{dir, true, "nexec-server"})
		}
	}
	uid := unix.Geteuid()
	return append(all,
		place{fmt.Sprintf("/run/user/%d", uid), true, "nexec-server"},
		place{"/tmp", false, fmt.Sprintf("nexec-server-%d", uid)})
}

// directory holds the sockets of one user's sessions. It is reached by its
// descriptor, so that nobody can put another in its place once it was checked,
// and so that its path may be of any length.
type directory struct {
	path string
	file *os.File
}

// open opens the directory, which it makes if asked to, unless it is another
// user's or others can get at it.
func (p place) open(create bool) (*directory, error) {
	if p.private {
		base, err := openOwn(p.base)
		if err != nil {
			return nil, err
		}
		base.Close()
	}
	path := filepath.Join(p.base, p.name)
	if create {
		if err := unix.Mkdir(path, 0o700); err != nil && err != unix.EEXIST {
			return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
		}
	}
	file, err := openOwn(path)
	if err != nil {
		return nil, err
	}
	return &directory{path, file}, nil
}

// openOwn opens a directory that only its owner, this user, can enter.
func openOwn(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	switch err := unix.Fstat(fd, &st); {
	case err != nil:
		err = &os.PathError{Op: "stat", Path: path, Err: err}
		return nil, errors.Join(err, f.Close())
	case int(st.Uid) != unix.Geteuid() || st.Mode&0o077 != 0:
		return nil, errors.Join(fmt.Errorf("%s is not this user's alone", path), f.Close())
	}
	return f, nil
}

func (d *directory) close() error { return d.file.Close() }

func (d *directory) address(name string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unixpacket", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.file.Fd(), name)}
}

// remove removes a socket, and the directory if that was the last.
func (d *directory) remove(name string) error {
	err := unix.Unlinkat(int(d.file.Fd()), name, 0)
	if err == unix.ENOENT {
		err = nil // somebody has tidied up
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: filepath.Join(d.path, name), Err: err}
	}
	// Others' sockets keep it, and should the path lead to another directory
	// by now, that is empty and will be made again.
	_ = unix.Rmdir(d.path)
	return nil
}

// listenIn makes a socket in the first place that allows it.
func listenIn(places []place, name string) (d *directory, l *net.UnixListener, err error) {
	var failed error
	for _, p := range places {
		for range listenTries {
			if d, l, err = p.listen(name); err == nil {
				return d, l, nil
			}
			if !errors.Is(err, unix.ENOENT) {
				break
			}
		}
		failed = errors.Join(failed, err)
	}
	return nil, nil, failed
}

func (p place) listen(name string) (*directory, *net.UnixListener, error) {
	d, err := p.open(true)
	if err != nil {
		return nil, nil, err
	}
	d.sweep()
	l, err := net.ListenUnix("unixpacket", d.address(name))
	if err != nil {
		return nil, nil, errors.Join(err, d.close())
	}
	l.SetUnlinkOnClose(false) // by the directory's descriptor instead
	return d, l, nil
}

// reach connects to a socket, wherever it is.
func reach(places []place, name string) (*net.UnixConn, error) {
	for _, p := range places {
		d, err := p.open(false)
		if err != nil {
			continue // then no session is here either
		}
		conn, err := net.DialUnix("unixpacket", nil, d.address(name))
		d.close()
		if err == nil {
			return conn, nil
		}
	}
	return nil, ErrNoSession
}

// sweep removes sockets of sessions that were killed. It looks at some only;
// chance makes it that each is looked at sometime.
func (d *directory) sweep() {
	// Read anew: the descriptor's own position is at the end after once.
	entries, err := os.ReadDir(fmt.Sprintf("/proc/self/fd/%d", d.file.Fd()))
	if err != nil {
		return
	}
	rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
	looked := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasSuffix(e.Name(), suffix) || time.Since(info.ModTime()) < staleAge {
			continue
		}
		if looked++; looked > staleMost {
			return
		}
		conn, err := net.DialUnix("unixpacket", nil, d.address(e.Name()))
		if err == nil {
			conn.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			_ = unix.Unlinkat(int(d.file.Fd()), e.Name(), 0) // or somebody else has
		}
	}
}
