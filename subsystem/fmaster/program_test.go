package fmaster_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
)

// program is one that says a line for each that it is told, on the mount.
type program struct {
	t     *testing.T
	stdin io.Writer
	out   *bufio.Scanner
}

// python starts an interpreter that executes each line it is told and then
// says "done".
func (w *world) python() *program {
	w.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "cd "+w.mount+`; exec python3 -uc '
import fcntl, os, sys
for line in sys.stdin:
    exec(line)
    print("done")'`)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	return &program{w.t, stdin, bufio.NewScanner(stdout)}
}

func (p *program) do(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
	if !p.out.Scan() || p.out.Text() != "done" {
		p.t.Fatalf("%s: %q, %v", line, p.out.Text(), p.out.Err())
	}
}
