package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func (c *call) read() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Read)
	f, err := c.getFile(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	if m.Off > 1<<63-1 {
		return nil, unix.EINVAL
	}
	c.leased = c.s.watchFile(f)
	return &fsyscall.Data{}, c.readInto(f.fd, int64(m.Off), int(m.Size))
}

// readInto reads up to size bytes, fewer only at the end of the file, to
// follow the reply's body.
func (c *call) readInto(fd int, off int64, size int) error {
	buf := c.buffer(size)
	got := 0
	for got < size {
		n, err := retryFD(func() (int, error) { return unix.Pread(fd, buf[got:], off+int64(got)) })
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		got += n
	}
	c.bulk = buf[:got]
	return nil
}

func (c *call) seek() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Seek)
	f, err := c.getFile(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	whence := unix.SEEK_DATA
	if m.Hole {
		whence = unix.SEEK_HOLE
	}
	if m.Off > 1<<63-1 {
		return nil, unix.ENXIO
	}
	off, err := unix.Seek(f.fd, int64(m.Off), whence)
	return &fsyscall.SeekReply{Off: uint64(off)}, err
}

// written answers a call that has changed the content of f.
func (c *call) written(f *file, count uint64) (fsyscall.Message, error) {
	var st unix.Statx_t
	if err := statFD(f.fd, &st); err != nil {
		return nil, err
	}
	reply := &fsyscall.WriteReply{Count: count}
	c.s.fillAttr(&reply.Attr, &st, f.mode, f.fd, "")
	c.leased = c.s.fileCovered(f)
	return reply, nil
}

// writable returns a file whose content a call may change.
func (c *call) writable(id fsyscall.FileID) (*file, error) {
	f, err := c.getFile(id)
	if err != nil {
		return nil, err
	}
	err = c.allow(f.mode, false)
	if err == nil && !f.write {
		err = unix.EBADF
	}
	if err != nil {
		f.put()
		return nil, err
	}
	c.own.names(f.n, inData|inAttr)
	return f, nil
}

func (c *call) write() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Write)
	f, err := c.writable(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	if m.Off > 1<<63-1 {
		return nil, unix.EFBIG
	}
	// Either all is written, or the error says why not: nobody can act on a
	// part of a write that the program was told of long ago.
	for done := 0; done < len(m.Data); {
		rest := m.Data[done:]
		n, err := retryFD(func() (int, error) {
			if m.Append {
				return c.s.kernel.appendTo(f.fd, rest)
			}
			return unix.Pwrite(f.fd, rest, int64(m.Off)+int64(done))
		})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, unix.EIO
		}
		done += n
	}
	if !m.Append {
		c.s.wrote(f, int64(m.Off), len(m.Data))
	}
	return c.written(f, uint64(len(m.Data)))
}

// appendTo writes at the end of the file as it is when the kernel has locked
// it. RWF_APPEND is there since Linux 4.16; before, and on file systems
// without it, a second descriptor does the same.
func (k kernel) appendTo(fd int, data []byte) (int, error) {
	n, err := unix.Pwritev2(fd, [][]byte{data}, 0, unix.RWF_APPEND)
	if err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return n, err
	}
	second, err := k.reopen(fd, unix.O_WRONLY|unix.O_APPEND)
	if err != nil {
		return 0, err
	}
	defer unix.Close(second)
	return unix.Write(second, data)
}

func (c *call) fallocate() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Fallocate)
	f, err := c.writable(m.File)
	if err != nil {
		return nil, err
	}
	defer f.put()
	if m.Off > 1<<63-1 || m.Len > 1<<63-1 || m.Off+m.Len > 1<<63-1 {
		return nil, unix.EFBIG
	}
	return nil, retry(func() error { return unix.Fallocate(f.fd, m.Mode, int64(m.Off), int64(m.Len)) })
}

func (c *call) copyRange() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.CopyRange)
	src, err := c.getFile(m.Src)
	if err != nil {
		return nil, err
	}
	defer src.put()
	dst, err := c.writable(m.Dst)
	if err != nil {
		return nil, err
	}
	defer dst.put()
	if m.SrcOff > 1<<63-1 || m.DstOff > 1<<63-1 {
		return nil, unix.EINVAL
	}
	length := min(m.Len, copyMost)
	if src.inode == dst.inode && m.SrcOff < m.DstOff+length && m.DstOff < m.SrcOff+length {
		return nil, unix.EINVAL
	}
	n, err := c.copyData(src.fd, dst.fd, int64(m.SrcOff), int64(m.DstOff), length)
	if err != nil {
		return nil, err
	}
	return c.written(dst, n)
}

// copyMost bounds one call, which holds up every other change and the end of
// the connection. A call that asks for more is answered with what was copied,
// as copy_file_range(2) may be.
const copyMost = 64 << 20

func (c *call) copyData(src, dst int, srcOff, dstOff int64, length uint64) (done uint64, err error) {
	plain := false
	for done < length {
		step := int(length - done)
		s, d := srcOff+int64(done), dstOff+int64(done)
		var n int
		if !plain {
			n, err = retryFD(func() (int, error) { return unix.CopyFileRange(src, &s, dst, &d, step, 0) })
			// Zero may be the end of the file or a file system that says its
			// size is zero: read(2) knows.
			plain = n == 0 || err == unix.EXDEV || err == unix.EOPNOTSUPP || err == unix.EINVAL || err == unix.ENOSYS
		}
		if plain {
			n, err = c.copyPlain(src, dst, srcOff+int64(done), dstOff+int64(done), step)
		}
		if err != nil || n == 0 {
			return done, err
		}
		done += uint64(n)
	}
	return done, nil
}

func (c *call) copyPlain(src, dst int, srcOff, dstOff int64, size int) (int, error) {
	p := c.s.data.get(fsyscall.MaxData)
	defer c.s.data.put(p)
	buf := (*p)[:min(size, len(*p))]
	n, err := retryFD(func() (int, error) { return unix.Pread(src, buf, srcOff) })
	if err != nil {
		return 0, err
	}
	for w := 0; w < n; {
		m, err := retryFD(func() (int, error) { return unix.Pwrite(dst, buf[w:n], dstOff+int64(w)) })
		if err != nil {
			return 0, err
		}
		w += m
	}
	return n, nil
}

func (c *call) fsync() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Fsync)
	sync := unix.Fsync
	if m.Data {
		sync = unix.Fdatasync
	}
	if m.File != 0 {
		f, err := c.getFile(m.File)
		if err != nil {
			return nil, err
		}
		defer f.put()
		return nil, retry(func() error { return sync(f.fd) })
	}
	f, err := c.find(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	if f.kind() != unix.S_IFDIR {
		if err := kindError(f.kind()); err != nil {
			return nil, unix.EINVAL
		}
	}
	fd, err := c.s.kernel.reopen(f.fd, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return nil, retry(func() error { return sync(fd) })
}
