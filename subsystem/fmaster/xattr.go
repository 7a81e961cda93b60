package fmaster

import (
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// xattr is what is known of an extended attribute.
type xattr struct {
	value []byte
	errno syscall.Errno
}

// maxXattrs bounds what is kept of the attributes of one file.
const maxXattrs = 16

// xattrList is the name under which the list of names is kept; no attribute
// has it.
const xattrList = ""

// unsupported tells of attributes that have no meaning through this mount:
// capabilities and security labels are the server's, and the mount is nosuid.
func unsupported(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

// GetXAttr implements fuse.RawFileSystem.
func (s *Server) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if unsupported(name) {
		return 0, fuse.ENOATTR
	}
	return s.xattr(in, name, dest, func(n *node, via path) ([]byte, result) {
		var d fsyscall.Data
		res := s.calls.call(via, fsyscall.OpGetXattr, &fsyscall.GetXattr{ID: n.wire, Name: name}, &d)
		return d.Data, res
	})
}

// ListXAttr implements fuse.RawFileSystem.
func (s *Server) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	return s.xattr(in, xattrList, dest, func(n *node, via path) ([]byte, result) {
		var d fsyscall.Data
		res := s.calls.call(via, fsyscall.OpListXattr, &fsyscall.ListXattr{ID: n.wire}, &d)
		return d.Data, res
	})
}

func (s *Server) xattr(in *fuse.InHeader, name string, dest []byte, ask func(*node, path) ([]byte, result)) (uint32, fuse.Status) {
	s.stats.kernel.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(in.NodeId)]
	if n == nil {
		return 0, fuse.Status(syscall.ESTALE)
	}
	x := xattr{}
	kept, ok := n.xattrs[name]
	fresh := n.fresh(time.Now())
	switch {
	case n.attr.Flags&fsyscall.AttrNoXattr != 0 && (fresh || n.pending > 0):
		if name != xattrList {
			x.errno = syscall.ENODATA
		}
	case ok && fresh:
		x = kept
	default:
		gen := n.gen
		var value []byte
		res := s.look(n, func(via path) (res result) {
			value, res = ask(n, via)
			return res
		})
		x = xattr{append([]byte(nil), value...), res.errno}
		if n.gen == gen && fresh && n.until.IsZero() && (res.ok() || res.errno == syscall.ENODATA) {
			if n.xattrs == nil || len(n.xattrs) >= maxXattrs {
				n.xattrs = make(map[string]xattr)
			}
			n.xattrs[name] = x
		}
	}
	if x.errno != 0 {
		return 0, fuse.Status(x.errno)
	}
	if len(dest) < len(x.value) {
		return uint32(len(x.value)), fuse.ERANGE
	}
	return uint32(copy(dest, x.value)), fuse.OK
}

// SetXAttr implements fuse.RawFileSystem.
func (s *Server) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	if unsupported(name) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return s.changeXattr(in.NodeId, func(n *node) result {
		return s.calls.call(ordered, fsyscall.OpSetXattr,
			&fsyscall.SetXattr{ID: n.wire, Name: name, Value: data, Flags: uint8(in.Flags & 3)}, &fsyscall.Empty{})
	})
}

// RemoveXAttr implements fuse.RawFileSystem.
func (s *Server) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if unsupported(name) {
		return fuse.ENOATTR
	}
	return s.changeXattr(in.NodeId, func(n *node) result {
		return s.calls.call(ordered, fsyscall.OpRemoveXattr, &fsyscall.RemoveXattr{ID: n.wire, Name: name}, &fsyscall.Empty{})
	})
}

func (s *Server) changeXattr(id uint64, change func(*node) result) fuse.Status {
	s.stats.kernel.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[fsyscall.NodeID(id)]
	switch {
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	case n.synthetic || n.attr.Flags&fsyscall.AttrReadOnly != 0:
		return fuse.Status(syscall.EROFS)
	}
	res := s.changeNow(func() result { return change(n) }, n)
	n.xattrs = nil
	n.attr.Flags &^= fsyscall.AttrNoXattr
	if n.pending == 0 && n.attr.Ino&provisionalBit == 0 {
		n.until = time.Now() // an access list changes the mode as well
	}
	return fuse.Status(res.errno)
}
