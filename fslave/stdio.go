package fslave

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// stdioFile is a standard stream of a command that is a regular file or a
// directory. The user lent it by redirecting, whatever the export policy says
// of its path, with the access mode of the redirection.
type stdioFile struct {
	fd          int // a duplicate of ours
	read, write bool
	closed      bool // guarded by nodeTable.mu
}

func (f *stdioFile) mode() Mode {
	if f.write {
		return ModeReadWrite
	}
	return ModeReadOnly
}

// admits tells whether the stream's access mode has that of flags.
func (f *stdioFile) admits(flags int) bool {
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		return f.read && flags&unix.O_TRUNC == 0
	case unix.O_WRONLY:
		return f.write
	}
	return f.read && f.write
}

// dup stands in for opening the file again; fd is a duplicate of the stream.
func (f *stdioFile) dup(fd, flags int) (int, error) {
	if !f.admits(flags) {
		return -1, unix.EACCES
	}
	if flags&unix.O_TRUNC != 0 {
		if err := unix.Ftruncate(fd, 0); err != nil {
			return -1, err
		}
	}
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

func (f *stdioFile) close() {
	if !f.closed {
		f.closed = true
		unix.Close(f.fd)
	}
}

func (c *call) stdioNode() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.StdioNode)
	if c.s.cfg.Stdio == nil {
		return nil, unix.EBADF
	}
	f, ok := c.s.cfg.Stdio(m.Cmd, m.Slot)
	if !ok {
		return nil, unix.EBADF
	}
	std, st, err := dupStdio(f)
	if err != nil {
		return nil, err
	}
	reply := &fsyscall.AttrReply{}
	c.s.fillAttr(&reply.Attr, st, std.mode(), std.fd, "")
	if _, err := c.s.nodes.bindNameless(m.ID, reply.Attr.Dev, reply.Attr.Ino, std); err != nil {
		std.close()
		return nil, err
	}
	return reply, nil
}

// dupStdio duplicates the descriptor of a stream that is a file. It stays clear
// of f.Fd, which would make the descriptor blocking.
func dupStdio(f *os.File) (*stdioFile, *unix.Statx_t, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, nil, unix.EBADF
	}
	std := &stdioFile{fd: -1}
	var st unix.Statx_t
	ctrl := raw.Control(func(fd uintptr) {
		var flags int
		if flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil {
			return
		}
		acc := flags & unix.O_ACCMODE
		std.read = acc != unix.O_WRONLY && flags&unix.O_PATH == 0
		std.write = acc != unix.O_RDONLY && flags&unix.O_PATH == 0
		if err = statFD(int(fd), &st); err != nil {
			return
		}
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
			err = unix.ENXIO
			return
		}
		std.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if ctrl != nil {
		err = unix.EBADF
	}
	return std, &st, err
}
