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
	// unopened: the command's first process is about to open it, which cannot
	// fail, since the user has it open.
	unopened bool
}

// binding is a StdioNode call, which is sent as soon as the command is known.
type binding struct {
	node  *node
	reply fsyscall.AttrReply
	errno syscall.Errno
	ready chan struct{}
}

// maxBinding bounds them: commands that could not be started leave theirs.
const maxBinding = 1024

type stdioKey struct {
	cmd  uint32
	slot uint8
}

// beginBind asks for the file of a standard stream without waiting. s.mu is
// held.
func (s *Server) beginBind(key stdioKey) *binding {
	b, pending := s.newBinding()
	req := &fsyscall.StdioNode{Cmd: key.cmd, Slot: key.slot, ID: b.node.wire}
	s.calls.begin(ordered, fsyscall.OpStdioNode, req, pending)
	return b
}

// newBinding prepares for the answer to a StdioNode call.
func (s *Server) newBinding() (*binding, *pendingCall) {
	b := &binding{node: s.newNode(), ready: make(chan struct{})}
	return b, &pendingCall{reply: &b.reply, done: func(h fsyscall.Header, _ error) {
		b.errno = syscall.Errno(h.Errno)
		close(b.ready)
	}}
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
	n, errno = s.bindStdio(stdioKey{uint32(cmd), uint8(slot)})
	return n, errno, true
}

// bindStdio gives the file behind a standard stream a node. If the file has one
// by its path, or gets one later (see nodeFor), it is the same, so that both
// show the same content.
func (s *Server) bindStdio(key stdioKey) (*node, syscall.Errno) {
	b := s.binding[key]
	delete(s.binding, key)
	if b == nil {
		b = s.beginBind(key)
	}
	select {
	case <-b.ready:
	default:
		s.await(b.ready)
	}
	if b.errno != 0 {
		return nil, b.errno
	}
	fresh, reply := b.node, &b.reply
	st := &stdioNode{cmd: key.cmd, slot: key.slot, id: fresh.wire, unopened: true}
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
