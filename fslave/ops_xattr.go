package fslave

import (
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Extended attributes are reached through /proc/self/fd: the f*xattr calls
// refuse an O_PATH descriptor, which is all there is of a symbolic link or of
// a file that may not be read.

func (c *call) getXattr() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.GetXattr)
	if err := checkXattr(m.Name); err != nil {
		return nil, err
	}
	f, err := c.look(m.ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	buf := c.buffer(fsyscall.MaxXattr)
	n, err := unix.Getxattr(procPath(f.fd), m.Name, buf)
	if err != nil {
		c.leased = c.leased && err == unix.ENODATA
		return nil, err
	}
	c.bulk = buf[:n]
	return &fsyscall.Data{}, nil
}

func (c *call) listXattr() (fsyscall.Message, error) {
	f, err := c.look(c.body.(*fsyscall.ListXattr).ID, true)
	if err != nil {
		return nil, err
	}
	defer f.done()
	buf := c.buffer(fsyscall.MaxXattr)
	n, err := unix.Listxattr(procPath(f.fd), buf)
	if err != nil {
		c.leased = false
		return nil, err
	}
	c.bulk = buf[:n]
	return &fsyscall.Data{}, nil
}

func (c *call) setXattr() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.SetXattr)
	return nil, c.changeXattr(m.ID, m.Name, func(path string) error {
		return unix.Setxattr(path, m.Name, m.Value, int(m.Flags))
	})
}

func (c *call) removeXattr() (fsyscall.Message, error) {
	m := c.body.(*fsyscall.RemoveXattr)
	return nil, c.changeXattr(m.ID, m.Name, func(path string) error {
		return unix.Removexattr(path, m.Name)
	})
}

func (c *call) changeXattr(id fsyscall.NodeID, name string, change func(path string) error) error {
	if err := checkXattr(name); err != nil {
		return err
	}
	f, err := c.find(id, true)
	if err != nil {
		return err
	}
	defer f.done()
	if err := c.allow(f.mode, false); err != nil {
		return err
	}
	c.own.names(f.n, inAttr)
	c.own.self(f.n, inAttr)
	if err := change(procPath(f.fd)); err != nil {
		return err
	}
	c.leased = f.d != nil && c.s.watch.covered(f.d)
	return nil
}

// checkXattr refuses what the system call would cut at a NUL byte, and an
// empty name as it does.
func checkXattr(name string) error {
	if name == "" {
		return unix.ERANGE
	}
	for i := range len(name) {
		if name[i] == 0 {
			return unix.EINVAL
		}
	}
	return nil
}
