package fsyscall

// Digest asks for the SHA-256 of a regular file of Size bytes, by which the
// server may know content that it has already. A file of another size fails
// with ESTALE.
type Digest struct {
	ID   NodeID
	Size uint64
}

// MaxDigest bounds the files that a digest is made of, in bytes: a tenth of a
// second of work.
const MaxDigest = 64 << 20

func (m *Digest) fields(c *coder) {
	c.node(&m.ID)
	c.u64(&m.Size)
	if c.err == nil && m.Size > MaxDigest {
		c.fail("digest of %d bytes", m.Size)
	}
}

// DigestReply has the digest, and the file's attributes after it was made.
type DigestReply struct {
	Attr Attr
	Sum  [32]byte
}

func (m *DigestReply) fields(c *coder) {
	c.attr(&m.Attr)
	for i := range m.Sum {
		c.u8(&m.Sum[i])
	}
}
