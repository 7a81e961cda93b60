package client

import (
	"fmt"
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// settledSession has the commands 1 to 4. step carries out one message, and got
// returns which exits have been delivered since the last time.
type settledSession struct {
	*Session
	t *testing.T
}

func newSettledSession(t *testing.T) *settledSession {
	s := &settledSession{&Session{commands: map[uint32]*execution{}}, t}
	for cmd := range uint32(5) {
		s.commands[cmd] = &execution{session: s.Session, num: cmd, exit: make(chan fsyscall.Exit, 1)}
	}
	return s
}

func (s *settledSession) reply(op fsyscall.Op, tag uint32, errno fsyscall.Errno) {
	s.answered(fsyscall.Header{Kind: fsyscall.KindReply, Op: op, Tag: tag, Errno: errno})
}

func (s *settledSession) exit(cmd, after uint32, sure bool) {
	s.t.Helper()
	if err := s.exited(&fsyscall.Exit{Cmd: cmd, After: after, Sure: sure, Code: 9}); err != nil {
		s.t.Errorf("exit of %d: %v", cmd, err)
	}
}

func (s *settledSession) want(cmds ...uint32) {
	s.t.Helper()
	var got []uint32
	for cmd := range uint32(5) {
		select {
		case e := <-s.commands[cmd].exit:
			if e.After != 0 || !e.Sure || e.Code != 9 {
				s.t.Errorf("%+v", e)
			}
			got = append(got, cmd)
		default:
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(cmds) {
		s.t.Errorf("exits of %v, want %v", got, cmds)
	}
}

func TestSettled(t *testing.T) {
	const changed, barrier = fsyscall.OpWrite, fsyscall.OpBarrier
	const nothing = fsyscall.Errno(2)
	t.Run("answer first", func(t *testing.T) {
		s := newSettledSession(t)
		s.reply(changed, 5, 0)
		s.reply(fsyscall.OpLookup, 6, nothing) // no change
		s.reply(barrier, 7, 0)
		s.want()
		s.exit(1, 7, false)
		s.want(1)
		s.exit(1, 7, true)
		s.want()
	})
	t.Run("exit first", func(t *testing.T) {
		s := newSettledSession(t)
		s.exit(1, 7, false)
		s.reply(changed, 5, 0)
		s.want()
		s.reply(barrier, 8, 0)
		s.want()
		s.reply(barrier, 7, 0)
		s.want(1)
		delete(s.commands, 1) // it is forgotten before the server is sure
		s.exit(1, 7, true)
		if s.exited(&fsyscall.Exit{Cmd: 1, After: 7, Sure: true}) == nil {
			t.Error("an exit of no command was accepted")
		}
	})
	t.Run("refused", func(t *testing.T) {
		for _, op := range []fsyscall.Op{changed, fsyscall.OpOpen, fsyscall.OpRelease, fsyscall.OpRename, fsyscall.OpFsync} {
			s := newSettledSession(t)
			s.exit(1, 7, false)
			s.reply(op, 5, 28)
			s.reply(barrier, 7, 0)
			s.want()
			s.exit(1, 7, true)
			s.want(1)
			// What the server has told of is over.
			s.exit(2, 9, false)
			s.reply(barrier, 9, 0)
			s.want(2)
			// Of this it has not told: it comes with whatever exit is next.
			s.exit(3, 12, false)
			s.reply(barrier, 11, 0)
			s.reply(op, 10, 28)
			s.reply(barrier, 12, 0)
			s.exit(4, 11, false)
			s.want(4)
			s.exit(3, 12, true)
			s.want(3)
		}
	})
	t.Run("barrier refused", func(t *testing.T) {
		s := newSettledSession(t)
		s.exit(1, 7, false)
		s.reply(barrier, 7, 5)
		s.want()
		s.exit(1, 7, true)
		s.want(1)
	})
	t.Run("nothing to wait for", func(t *testing.T) {
		s := newSettledSession(t)
		s.exit(1, 0, true)
		s.exit(2, 0, false) // where no call is named
		s.want(1, 2)
	})
	t.Run("bounded", func(t *testing.T) {
		s := newSettledSession(t)
		for tag := range uint32(3 * maxPassed) {
			s.reply(barrier, tag+1, 0)
		}
		if n := len(s.settling.passed); n > maxPassed {
			t.Errorf("%d answers are kept", n)
		}
	})
}
