package subsystem

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// reportPipe returns a reporter and what reads its lines.
func reportPipe(t *testing.T) (*Reporter, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { r.Close() })
	p, err := NewReporter(fd)
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

func readReport(t *testing.T, in *bufio.Reader) (x Report) {
	t.Helper()
	line, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if len(line) > 4096 {
		t.Errorf("a line of %d bytes", len(line))
	}
	if err := json.Unmarshal([]byte(line), &x); err != nil {
		t.Fatal(err)
	}
	return x
}

// TestReports runs commands and reads what is told of them.
func TestReports(t *testing.T) {
	p, r := reportPipe(t)
	c := open(t, Options{Reporter: p, Policy: &Policy{Allowed: map[string]string{"sh": "/bin/sh"}}})
	c.run(request(0, "sh", "-c", "exit 3"))
	c.exec(request(1, "id"))
	c.run(request(2, "sh", "-c", "kill $$", strings.Repeat("\x01", 5000)))
	in := bufio.NewReader(r)
	for _, want := range []Report{
		{Event: ReportStart, Command: "/bin/sh -c 'exit 3'", Requested: "sh -c 'exit 3'"},
		{Event: ReportEnd, Status: 3},
		{Event: ReportRefused, Cmd: 1, Command: "id", Errno: 1},
	} {
		if got := readReport(t, in); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	x := readReport(t, in)
	if len(x.Command) != MaxReported/2 || !strings.HasSuffix(x.Command, "\x01...") {
		t.Errorf("a long command: %q", x.Command)
	}
	if x := readReport(t, in); x.Signal != 15 {
		t.Errorf("%+v", x)
	}
}

// TestReportsLost fills the pipe: nothing waits, and what was lost is told.
func TestReportsLost(t *testing.T) {
	p, r := reportPipe(t)
	const n = 1000
	for range n {
		p.report(Report{Event: ReportStart, Command: strings.Repeat("\x01", MaxReported)})
	}
	in := bufio.NewReader(r)
	got := 5 // a pipe holds more
	for range got {
		readReport(t, in)
	}
	for x := (Report{}); x.Lost == 0; {
		p.report(Report{Event: ReportEnd})
		if x = readReport(t, in); x.Lost > n || x.Event == ReportEnd && x.Lost == 0 {
			t.Fatalf("%+v after %d lines", x, got)
		}
	}
	(*Reporter)(nil).report(Report{})
}
