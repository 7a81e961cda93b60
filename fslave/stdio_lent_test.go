package fslave

import (
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lentPair returns a Lent and a function that sends it a packet and returns
// its answer.
func lentPair(t *testing.T) (*Lent, func(packet []byte, fds ...int) byte) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := NewLent(pair[1])
	t.Cleanup(func() {
		l.Close()
		unix.Close(pair[0])
	})
	tv := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return l, func(packet []byte, fds ...int) byte {
		t.Helper()
		if err := unix.Sendmsg(pair[0], packet, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
			t.Fatal(err)
		}
		// A read with a timeout is not restarted after a signal, and Go's
		// scheduler sends itself signals (signal(7)).
		answer := []byte{0xff}
		n, err := unix.Read(pair[0], answer)
		for err == unix.EINTR {
			n, err = unix.Read(pair[0], answer)
		}
		if n != 1 || err != nil {
			t.Fatalf("no answer: %d, %v", n, err)
		}
		return answer[0]
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestLent(t *testing.T) {
	l, send := lentPair(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	before := openFDs(t)
	if send([]byte{7, 0, 0, 0, 0, 2}, fd, fd) != 1 {
		t.Fatal("refused")
	}
	for slot, want := range []bool{true, false, true, false} {
		if _, ok := l.File(7, uint8(slot)); ok != want {
			t.Errorf("slot %d: %v", slot, ok)
		}
	}
	if _, ok := l.File(6, 0); ok {
		t.Error("another command has it")
	}
	got, _ := l.File(7, 2)
	if _, err := got.WriteString("through"); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, 100)); err != nil || string(b) != "through" {
		t.Errorf("%q, %v", b, err)
	}
	if send([]byte{7, 0, 0, 0}) != 1 {
		t.Error("not taken back")
	}
	if _, ok := l.File(7, 0); ok {
		t.Error("still there")
	}
	if n := openFDs(t); n != before {
		t.Errorf("%d descriptors, before %d", n, before)
	}
}

// What is no packet is refused and leaves no descriptor open.
func TestLentRefuses(t *testing.T) {
	l, send := lentPair(t)
	before := openFDs(t)
	if send([]byte{1, 0, 0, 0, 1}, 0) != 1 {
		t.Fatal("refused")
	}
	for name, c := range map[string]struct {
		packet []byte
		fds    []int
	}{
		"short":               {[]byte{1, 0}, nil},
		"no descriptor":       {[]byte{2, 0, 0, 0, 1}, nil},
		"too many":            {[]byte{2, 0, 0, 0, 1}, []int{0, 0}},
		"more than fit":       {[]byte{2, 0, 0, 0, 0, 1, 2}, []int{0, 0, 0, 0, 0, 0}},
		"bad slot":            {[]byte{2, 0, 0, 0, 3}, []int{0}},
		"slot twice":          {[]byte{2, 0, 0, 0, 1, 1}, []int{0, 0}},
		"taken":               {[]byte{1, 0, 0, 0, 1}, []int{0}},
		"longer than packets": {make([]byte, 40), nil},
	} {
		if send(c.packet, c.fds...) != 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, ok := l.File(2, 1); ok {
		t.Error("a refused file is there")
	}
	if n := openFDs(t); n != before+1 {
		t.Errorf("%d descriptors, want %d", n, before+1)
	}
}

func TestLentBound(t *testing.T) {
	_, send := lentPair(t)
	var packet [5]byte
	for i := range maxLent {
		packet[0], packet[1] = byte(i), byte(i>>8)
		if send(packet[:], 0) != 1 {
			t.Fatalf("refused after %d", i)
		}
	}
	packet[2] = 1
	if send(packet[:], 0) != 0 {
		t.Error("no bound")
	}
}
