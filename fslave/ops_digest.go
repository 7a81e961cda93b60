package fslave

import (
	"crypto/sha256"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// digest reads a file as fetch does, but answers with its SHA-256 alone.
func (c *call) digest() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Digest)
	f, err := c.look(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	if err := kindError(f.kind()); err != nil {
		return nil, err
	}
	if f.st.Size != m.Size {
		return nil, unix.ESTALE
	}
	fd, err := c.reopen(f, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	quiet := settling(fd)
	p := c.s.data.get(smallData)
	defer c.s.data.put(p)
	buf := *p
	sum := sha256.New()
	for off := int64(0); off < int64(m.Size); {
		n, err := retryFD(func() (int, error) { return unix.Pread(fd, buf[:min(int64(len(buf)), int64(m.Size)-off)], off) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, unix.ESTALE
		}
		sum.Write(buf[:n]) // never fails
		off += int64(n)
	}
	reply := &fsyscall.DigestReply{}
	sum.Sum(reply.Sum[:0])
	if err := statFD(fd, &f.st); err != nil {
		return nil, err
	}
	f.fillAttr(&reply.Attr)
	if settled(quiet, &f.st) {
		reply.Attr.Flags |= fsyscall.AttrSettled
	}
	return reply, nil
}
