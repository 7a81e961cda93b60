package fmaster

import (
	"encoding/binary"
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
	defer s.request(in.NodeId)()
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
		res := s.calls.call(ordered, fsyscall.OpSetXattr,
			&fsyscall.SetXattr{ID: n.wire, Name: name, Value: data, Flags: uint8(in.Flags & 3)}, &fsyscall.Empty{})
		if mode, ok := aclMode(data); name == aclAccess && ok && res.ok() {
			s.mu.Lock()
			s.takeMode(n, n.attr.Mode&^0o777|mode)
			s.mu.Unlock()
			s.notify.attrNow(n.id)
		}
		return res
	})
}

// aclAccess is the attribute whose value is an access control list, a part of
// which are the permissions of the mode.
const aclAccess = "system.posix_acl_access"

// aclMode returns the permissions that an access control list gives a file, as
// the kernel's posix_acl_equiv_mode(9) does: a list's mask stands in the place
// of the group's. The encoding is that of linux/posix_acl_xattr.h.
func aclMode(list []byte) (mode uint32, ok bool) {
	const userObj, groupObj, mask, other, entry = 0x01, 0x04, 0x10, 0x20, 8
	if len(list) < 4 || (len(list)-4)%entry != 0 || binary.LittleEndian.Uint32(list) != 2 {
		return 0, false
	}
	masked := false
	for e := list[4:]; len(e) > 0; e = e[entry:] {
		perm := uint32(binary.LittleEndian.Uint16(e[2:])) & 7
		switch tag := binary.LittleEndian.Uint16(e); {
		case tag == userObj:
			mode |= perm << 6
		case tag == mask:
			mode, masked = mode&^0o070|perm<<3, true
		case tag == groupObj && !masked:
			mode |= perm << 3
		case tag == other:
			mode |= perm
		}
	}
	return mode, true
}

// takeMode gives n a mode that the client has set. s.mu is held.
func (s *Server) takeMode(n *node, mode uint32) {
	n.attr.Mode = mode
	if n.attr.UID == s.cfg.Hello.UID || s.cfg.Hello.UID == 0 {
		n.attr.Access = s.ownAccess(mode)
	}
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
	defer s.request(id)()
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
