package sshserver

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// reports collects what programs report.
type reports struct {
	mu    sync.Mutex
	lines []string
}

func (r *reports) add(_ *Session, line []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, string(line))
}

// all is what has been reported so far.
func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

func reporting(r *reports, text string) map[string]Handler {
	return map[string]Handler{"nexec": &Program{Path: "/bin/sh", Args: []string{"-c", text}, Report: r.add,
		Policy: func(*Session) ([]byte, error) { return []byte("{}"), nil }}}
}

func TestReports(t *testing.T) {
	for text, want := range map[string]string{
		`echo one >&$NEXECD_REPORT_FD; echo two >&$NEXECD_REPORT_FD`:                           "one|two",
		`printf "no end" >&$NEXECD_REPORT_FD`:                                                  "no end",
		`echo first >&$NEXECD_REPORT_FD; head -c 9000 /dev/zero >&$NEXECD_REPORT_FD; echo >&2`: "first",
		`eval "exec $NEXECD_REPORT_FD>&-"`:                                                     "",
		`(sleep 40; echo late >&$NEXECD_REPORT_FD) & echo`:                                     "",
	} {
		r := &reports{}
		s := start(t, "AcceptEnv *", reporting(r, text), nil)
		if got := run(t, s.mustDial(), ""); got.exit != "status 0" {
			t.Errorf("%s: %+v", text, got)
		}
		if got := strings.Join(r.all(), "|"); got != want {
			t.Errorf("%s: %q, want %q\n%s", text, got, want, s.log)
		}
	}
}

// TestManyReports has a program that reports without end: it is read at a rate.
func TestManyReports(t *testing.T) {
	r := &reports{}
	s := start(t, "", reporting(r, `i=0; while [ $i -lt 1040 ]; do echo "line $i" >&$NEXECD_REPORT_FD; i=$((i+1)); done`), nil)
	if got := run(t, s.mustDial(), ""); got.exit != "status 0" {
		t.Errorf("%+v", got)
	}
	lines := r.all()
	for i, line := range lines {
		if line != fmt.Sprint("line ", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if len(lines) != 1040 {
		t.Errorf("%d lines", len(lines))
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"a b\n": "a b", "a\nb": `a\nb`, "\x1b[2J": `\x1b[2J`, "ü 日": "ü 日", "\xff": `\ufffd`, "\u202e": `\u202e`, `"q" \`: `"q" \`, "\u009b": `\u009b`, "": "",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
