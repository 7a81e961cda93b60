package client

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestEnvironment(t *testing.T) {
	environ := []string{
		"HOME=/h", "PATH=/p", "LANG=C", "SSH_AUTH_SOCK=/s", "LD_PRELOAD=/x", "DISPLAY=:0",
		"EMPTY=", "WITH=a=b", "=odd", "NOTHING", "XDG_RUNTIME_DIR=/r", "TERM=dumb", "SSHX=1",
	}
	for _, c := range []struct {
		name  string
		rules EnvRules
		want  []string
	}{
		{"default", EnvRules{}, []string{"HOME=/h", "LANG=C", "EMPTY=", "WITH=a=b", "TERM=dumb", "SSHX=1"}},
		{"local applications", EnvRules{AppsLocal: true}, []string{"HOME=/h", "PATH=/p", "LANG=C", "EMPTY=", "WITH=a=b", "TERM=dumb", "SSHX=1"}},
		{"kept", EnvRules{Keep: []string{"SSH_*", "DISPLAY"}}, []string{"HOME=/h", "LANG=C", "SSH_AUTH_SOCK=/s", "DISPLAY=:0", "EMPTY=", "WITH=a=b", "TERM=dumb", "SSHX=1"}},
		{"set", EnvRules{Set: []string{"LANG=de", "NEW=1", "LD_PRELOAD=/y", "NEW=2"}}, []string{"HOME=/h", "EMPTY=", "WITH=a=b", "TERM=dumb", "SSHX=1", "LANG=de", "LD_PRELOAD=/y", "NEW=2"}},
	} {
		if got := c.rules.Environment(environ); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestParseSelf(t *testing.T) {
	s, err := parseSelf([]byte("Name:\tx\nUmask:\t0027\nSigBlk:\t0\nSigIgn:\t0000000000001001\nSigCgt:\t1\n"))
	if err != nil || s.umask != 0o27 || s.ignored != 0x1001 || !s.ignores(unix.SIGPIPE) || s.ignores(unix.SIGTERM) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "Umask:\t0022\n", "Umask:\tx\nSigIgn:\t0\n", "Umask:\t0\nSigIgn:\tx\n"} {
		if _, err := parseSelf([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestOutboxMerges(t *testing.T) {
	o := newOutbox()
	o.post([]byte("hello"))
	for range 1000 {
		o.signal(0, uint8(unix.SIGTERM))
		o.resize(0, fsyscall.Size{Rows: 1})
	}
	o.resize(0, fsyscall.Size{Rows: 2})
	o.signal(0, uint8(unix.SIGCONT))
	var got []fsyscall.Op
	msgs := o.take()
	for _, msg := range msgs[1:] {
		h, _, err := fsyscall.ParseHeader(msg)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Op)
	}
	if string(msgs[0]) != "hello" || !slices.Equal(got, []fsyscall.Op{fsyscall.OpWinsize, fsyscall.OpSignal, fsyscall.OpSignal}) {
		t.Errorf("%q, then %v", msgs[0], got)
	}
	var w fsyscall.Winsize
	if _, body, err := fsyscall.ParseHeader(msgs[1]); err != nil || fsyscall.Decode(body, &w) != nil || w.Size.Rows != 2 {
		t.Errorf("the size sent is %+v", w.Size)
	}
	if left := o.take(); len(left) != 0 {
		t.Errorf("%d messages are left", len(left))
	}
}

func TestRawModesKeepTheRest(t *testing.T) {
	var now unix.Termios
	now.Iflag, now.Oflag, now.Lflag = unix.ICRNL|unix.IUTF8, unix.OPOST|unix.ONLCR, unix.ISIG|unix.ICANON|unix.ECHO
	now.Cc[unix.VEOF] = 4
	raw := rawModes(now)
	if raw.Iflag != unix.IUTF8 || raw.Oflag != unix.ONLCR || raw.Lflag != 0 || raw.Cc[unix.VMIN] != 1 {
		t.Errorf("%+v", raw)
	}
	if now.Lflag&unix.ICANON == 0 {
		t.Error("the argument was changed")
	}
}
