package fmaster

import (
	"strconv"
	"strings"
	"syscall"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// stdioNode says that a node is a standard stream's file. id is the number by
// which the client knows the descriptor.
type stdioNode struct {
	cmd  uint32
	slot uint8
	id   fsyscall.NodeID
}

// lookupHidden serves the paths that StdioPath names. s.mu is held.
func (s *Server) lookupHidden(dir *node, name string) (n *node, errno syscall.Errno, ok bool) {
	if dir == s.root && name == s.token {
		n := s.newNode()
		n.synthetic, n.known = true, true
		n.attr = fsyscall.Attr{Mode: modeDir | 0o711, Nlink: 2, Access: accessX, Flags: fsyscall.AttrReadOnly}
		n.stdio = &stdioNode{}
		return n, 0, true
	}
	if dir.stdio == nil || !dir.synthetic {
		return nil, 0, false
	}
	a, b, _ := strings.Cut(name, ".")
	cmd, err1 := strconv.ParseUint(a, 10, 32)
	slot, err2 := strconv.ParseUint(b, 10, 8)
	if err1 != nil || err2 != nil || slot > 2 {
		return nil, syscall.ENOENT, true
	}
	n, errno = s.bindStdio(&stdioNode{cmd: uint32(cmd), slot: uint8(slot)})
	return n, errno, true
}

// bindStdio gives the file behind a standard stream a node. If the file has one
// by its path, or gets one later (see nodeFor), it is the same, so that both
// show the same content.
func (s *Server) bindStdio(st *stdioNode) (*node, syscall.Errno) {
	fresh := s.newNode()
	st.id = fresh.wire
	var reply fsyscall.AttrReply
	s.mu.Unlock()
	res := s.calls.call(ordered, fsyscall.OpStdioNode, &fsyscall.StdioNode{Cmd: st.cmd, Slot: st.slot, ID: fresh.wire}, &reply)
	s.mu.Lock()
	if !res.ok() {
		return nil, res.errno
	}
	if n := s.byInode[inodeKey{reply.Attr.Dev, reply.Attr.Ino}]; n != nil && !n.gone {
		n.stdio = st
		return n, 0
	}
	fresh.attached = attachedBoth
	s.wires[fresh.wire] = fresh
	fresh.stdio = st
	s.setAttr(fresh, &reply.Attr, false)
	s.nodes[fresh.id] = fresh
	return fresh, 0
}
