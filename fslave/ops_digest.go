package fslave

import (
	"crypto/sha256"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// digest reads a file as fetch does, but answers with its SHA-256 alone.
func (c *call) digest() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.Digest)
	reply := &fsyscall.DigestReply{}
	return reply, c.readWhole(m.ID, &reply.Attr, func(fd int, f *found) error {
		if f.st.Size != m.Size {
			return unix.ESTALE
		}
		return c.sum(fd, int64(m.Size), &reply.Sum)
	})
}

// sum makes the SHA-256 of the first size bytes of a file.
func (c *call) sum(fd int, size int64, sum *[sha256.Size]byte) error {
	p := c.s.data.get(smallData)
	defer c.s.data.put(p)
	buf := *p
	h := sha256.New()
	for off := int64(0); off < size; {
		n, err := retryFD(func() (int, error) { return unix.Pread(fd, buf[:min(int64(len(buf)), size-off)], off) })
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.ESTALE
		}
		h.Write(buf[:n]) // never fails
		off += int64(n)
	}
	h.Sum(sum[:0])
	return nil
}
