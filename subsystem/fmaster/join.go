package fmaster

import "github.com/SumiTomohiko/nexec/fsyscall"

// An archiver writes a small file in pieces and then sets its times, its owner
// and its mode one after the other. While the first such change waits for the
// link, the ones that follow become part of it.

// maxJoined bounds the data of one write that is made of several.
const maxJoined = batchBytes

// join makes a change part of the last one that waits, if the two can be one.
// Its done is then called after that one's, with the same end.
func (c *caller) join(m fsyscall.Message, p *pendingCall) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.queue[1])
	if n == 0 || c.err != nil {
		return false
	}
	o := &c.queue[1][n-1]
	q := c.pending[o.tag]
	if q == nil || q.op != p.op || q.cost == 0 || q.data != p.data {
		return false
	}
	b := joined(o.b, m)
	if b == nil {
		return false
	}
	c.queued += len(b) - len(o.b)
	o.b = b
	q.cost += p.cost - postOverhead
	c.posted--
	c.bytes -= postOverhead
	p.cost = 0
	c.cond.Broadcast()
	first := q.done
	q.done = func(h fsyscall.Header, err error) {
		copyReply(p.reply, q.reply)
		first(h, err)
		p.done(h, err)
	}
	return true
}

// joined returns the message that does what the call in b does and then next,
// or nil. It may write to the memory of b.
func joined(b []byte, next fsyscall.Message) []byte {
	h, body, err := fsyscall.ParseHeader(b)
	if err != nil {
		return nil
	}
	var both fsyscall.Message
	switch next := next.(type) {
	case *fsyscall.SetAttr:
		var m fsyscall.SetAttr
		if fsyscall.Decode(body, &m) != nil || !addSet(&m, next) {
			return nil
		}
		both = &m
	case *fsyscall.Write:
		if len(b)+len(next.Data) > maxJoined {
			return nil
		}
		var m fsyscall.Write
		if fsyscall.Decode(body, &m) != nil || m.File != next.File || m.Append || next.Append || m.Off+uint64(len(m.Data)) != next.Off {
			return nil
		}
		return fsyscall.ExtendWrite(b, next.Data)
	default:
		return nil
	}
	out, err := fsyscall.AppendMessage(nil, h, both)
	if err != nil {
		return nil
	}
	return out
}

// addSet makes next part of m, which sets size, owner, mode and times in this
// order: a change of owner takes bits of the mode away, so it must not come to
// stand before a mode that was set first.
func addSet(m, next *fsyscall.SetAttr) bool {
	const owner, now = fsyscall.SetUID | fsyscall.SetGID, fsyscall.SetAtimeNow | fsyscall.SetMtimeNow
	switch {
	case m.ID != next.ID || m.File != next.File, m.Mask&next.Mask != 0, (m.Mask|next.Mask)&now != 0, next.Mask&fsyscall.SetSize != 0,
		m.Mask&fsyscall.SetMode != 0 && next.Mask&owner != 0:
		return false
	}
	if next.Mask&fsyscall.SetMode != 0 {
		m.Mode = next.Mode
	}
	if next.Mask&fsyscall.SetUID != 0 {
		m.UID = next.UID
	}
	if next.Mask&fsyscall.SetGID != 0 {
		m.GID = next.GID
	}
	if next.Mask&fsyscall.SetAtime != 0 {
		m.Atime = next.Atime
	}
	if next.Mask&fsyscall.SetMtime != 0 {
		m.Mtime = next.Mtime
	}
	m.Mask |= next.Mask
	return true
}

func copyReply(to, from fsyscall.Message) {
	switch to := to.(type) {
	case *fsyscall.AttrReply:
		*to = *from.(*fsyscall.AttrReply)
	case *fsyscall.WriteReply:
		*to = *from.(*fsyscall.WriteReply)
	}
}
