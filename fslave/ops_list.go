package fslave

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const (
	// listPart is how large a part of a listing gets before it is sent.
	listPart = 56 << 10
	// entrySize is more than an Entry takes besides its strings.
	entrySize = 128
)

// lister sends the entries of a directory in parts.
type lister struct {
	c     *call
	d     *dir
	reply fsyscall.ListReply
	size  int
	count uint32
	max   uint32
}

func (c *call) list() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.List)
	d, err := c.dir(m.ID)
	if err != nil {
		return nil, err
	}
	defer c.s.dirs.put(d)
	c.leased = c.s.watch.cover(d)
	var st unix.Statx_t
	if err := statFD(d.fd, &st); err != nil {
		return nil, err
	}
	l := &lister{c: c, d: d, max: m.Max}
	c.s.fillAttr(&l.reply.Self, &st, d.mode(), d.fd, "")
	d.pos.qualify(&l.reply.Self)
	if err := l.all(); err != nil {
		c.leased = false
		return nil, err
	}
	l.reply.Ruled = d.pos.ruledNames()
	return &l.reply, nil
}

// all goes through the directory; the last part is left in l.reply.
func (l *lister) all() error {
	if l.d.mode() == ModeBare {
		for name := range l.d.pos.n.kids {
			if err := l.entry(name); err != nil {
				return err
			}
		}
		return nil
	}
	fd, err := retryFD(func() (int, error) {
		return unix.Openat(l.d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	p := l.c.s.data.get(smallData)
	defer l.c.s.data.put(p)
	buf := *p
	for {
		n, err := retryFD(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n == 0 {
			return err
		}
		for rest := buf[:n]; len(rest) >= 19; {
			size := int(binary.NativeEndian.Uint16(rest[16:]))
			name := direntName(rest[19:size])
			rest = rest[size:]
			if name == "." || name == ".." {
				continue
			}
			if err := l.entry(name); err != nil {
				return err
			}
		}
	}
}

func direntName(b []byte) string {
	for i, x := range b {
		if x == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// entry adds a name to the listing, unless there is nothing to be seen.
func (l *lister) entry(name string) error {
	t := target{l.c.s, l.d, name, l.d.pos.child(name)}
	var st unix.Statx_t
	mode, err := t.stat(&st)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	if !fsyscall.ValidName(name) {
		return unix.EIO
	}
	e := fsyscall.Entry{Name: name}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if e.Target, err = readLinkAt(l.d.fd, name); err != nil {
			e.Target = "" // replaced meanwhile: the watch will tell
			l.c.leased = false
		}
	}
	if l.max > 0 && l.count == l.max {
		l.flush()
		return unix.EFBIG
	}
	l.c.fillNamed(&e.Attr, t, mode, &st)
	l.reply.Entries = append(l.reply.Entries, e)
	l.count++
	l.size += entrySize + len(name) + len(e.Target)
	if l.size >= listPart || len(l.reply.Entries) == fsyscall.MaxEntries {
		l.flush()
	}
	return nil
}

func (l *lister) flush() {
	l.c.reply(fsyscall.KindMore, &l.reply, nil)
	clear(l.reply.Entries)
	l.reply.Entries = l.reply.Entries[:0]
	l.size = 0
}
