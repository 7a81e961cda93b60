package client

import (
	"github.com/SumiTomohiko/nexec/fsyscall"
)

// settling finds out by itself that a command's changes are made: the answers to
// them pass through here on their way to the server, so that nobody need wait for
// the server's word that it has them. See [fsyscall.Exit]. It is guarded by
// Session.mu.
type settling struct {
	// refused counts the changes that fslave has refused, and told those of them
	// that are in the account of a sure exit.
	refused, told uint64
	// passed has the answers to barriers of which no sure exit has told yet, and
	// what refused was then.
	passed map[uint32]passedBarrier
	// unsure has the exits whose barrier was not answered yet, by its tag.
	unsure map[uint32]fsyscall.Exit
	// early are the commands whose sure exit is still to come, in vain.
	early map[uint32]struct{}
}

type passedBarrier struct {
	ok      bool
	refused uint64
}

// maxPassed bounds the barriers remembered, of which there is one for each
// command that ends. Without one, the sure exit is waited for.
const maxPassed = 1024

// refuses tells whether an answer says that a change was not made. In doubt it
// does.
func refuses(h fsyscall.Header) bool {
	if h.Errno == 0 {
		return false
	}
	switch h.Op {
	case fsyscall.OpLookup, fsyscall.OpGetAttr, fsyscall.OpList, fsyscall.OpReadLink, fsyscall.OpAccess, fsyscall.OpRead, fsyscall.OpFetch,
		fsyscall.OpSeek, fsyscall.OpStatFS, fsyscall.OpGetXattr, fsyscall.OpListXattr, fsyscall.OpGetLock, fsyscall.OpDigest, fsyscall.OpSetLock:
		return false
	}
	return true
}

// answered takes note of an answer of fslave's that is on its way.
func (s *Session) answered(h fsyscall.Header) {
	if h.Kind != fsyscall.KindReply || h.Errno == 0 && h.Op != fsyscall.OpBarrier {
		return
	}
	s.mu.Lock()
	t := &s.settling
	if refuses(h) {
		t.refused++
	}
	if h.Op != fsyscall.OpBarrier {
		s.mu.Unlock()
		return
	}
	if t.passed == nil || len(t.passed) >= maxPassed {
		t.passed = make(map[uint32]passedBarrier)
	}
	t.passed[h.Tag] = passedBarrier{h.Errno == 0, t.refused}
	exit, waits := t.unsure[h.Tag]
	delete(t.unsure, h.Tag)
	deliver := waits && s.settled(&exit)
	s.mu.Unlock()
	if deliver {
		_ = s.deliver(&exit) // the command was there when the exit came
	}
}

// settled tells whether an exit that is not sure holds: its command's changes are
// all made. s.mu is held.
func (s *Session) settled(exit *fsyscall.Exit) bool {
	t := &s.settling
	b, ok := t.passed[exit.After]
	if !ok || !b.ok || b.refused != t.told {
		return false
	}
	if t.early == nil {
		t.early = make(map[uint32]struct{})
	}
	t.early[exit.Cmd] = struct{}{}
	return true
}

// exited takes an exit that the server has sent.
func (s *Session) exited(exit *fsyscall.Exit) error {
	t := &s.settling
	s.mu.Lock()
	if exit.After != 0 && !exit.Sure {
		_, known := s.commands[exit.Cmd]
		_, answered := t.passed[exit.After]
		deliver := known && s.settled(exit)
		if known && !answered {
			if t.unsure == nil {
				t.unsure = make(map[uint32]fsyscall.Exit)
			}
			t.unsure[exit.After] = *exit
		}
		s.mu.Unlock()
		if deliver || !known {
			return s.deliver(exit)
		}
		return nil
	}
	if b, ok := t.passed[exit.After]; ok {
		t.told = max(t.told, b.refused)
		delete(t.passed, exit.After)
	}
	delete(t.unsure, exit.After)
	_, early := t.early[exit.Cmd]
	delete(t.early, exit.Cmd)
	s.mu.Unlock()
	if early {
		return nil
	}
	return s.deliver(exit)
}

// deliver gives a command its exit, which is sure now.
func (s *Session) deliver(exit *fsyscall.Exit) error {
	exit.After, exit.Sure = 0, true
	return s.tell(exit.Cmd, func(c *execution) bool { return offer(c.exit, *exit) })
}
