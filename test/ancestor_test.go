package test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The ancestor's tests by name. "Master" was the machine with the processor,
// our server; "slave" the one with the files, our client. A check's directory
// is the client's, serverFile the server's.

const serverFile = "/etc/passwd"

func ancestorChecks() map[string]check {
	all := map[string]check{}
	for _, family := range []map[string]check{
		ancestorDescriptors(), ancestorFiles(), ancestorModes(), ancestorReading(), ancestorWriting(),
		ancestorPolling(), ancestorProcesses(), ancestorIdentity(),
	} {
		maps.Copy(all, family)
	}
	return all
}

// TestAncestorTable holds doc/ancestor.md to the checks: each name stands in
// it once, with the check of that name or the word later.
func TestAncestorTable(t *testing.T) {
	text, err := os.ReadFile("../doc/ancestor.md")
	if err != nil {
		t.Fatal(err)
	}
	checks := ancestorChecks()
	row := regexp.MustCompile("(?m)^\\| `([A-Za-z0-9_]+)` \\| ([^|]*) \\|")
	seen := map[string]bool{}
	later := 0
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		name, ours := m[1], strings.TrimSpace(m[2])
		if seen[name] {
			t.Errorf("%s stands twice in doc/ancestor.md", name)
		}
		seen[name] = true
		switch {
		case ours == "later":
			later++
		case ours != "TestThrough/ancestor/"+name || checks[name] == nil:
			t.Errorf("doc/ancestor.md: %s has %q, and there is no check of that name", name, ours)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if !seen[name] {
			t.Errorf("doc/ancestor.md lacks %s", name)
		}
	}
	if len(seen) != 220 || later != 57 {
		t.Errorf("%d names, %d of them later", len(seen), later)
	}
}

// shell runs a script with dir as $1 and wants its standard output.
func shell(t testing.TB, dir, script, want string) {
	t.Helper()
	out, err := exec.Command("/bin/sh", "-c", script, "sh", dir).CombinedOutput()
	if err != nil || string(out) != want {
		t.Errorf("%s: %v, output %q, want %q", script, err, out, want)
	}
}

// python runs a program with dir as sys.argv[1] and wants success.
func python(t testing.TB, dir, program string) {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", "-c", program, dir).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// ancestorModes has chmod_000 to chmod_777 and what else sets modes.
func ancestorModes() map[string]check {
	checks := map[string]check{}
	for _, mode := range []uint32{0, 0o11, 0o22, 0o44, 0o77, 0o100, 0o111, 0o200, 0o222, 0o400, 0o444, 0o644, 0o700, 0o755, 0o777} {
		checks[fmt.Sprintf("chmod_%03o", mode)] = func(t *testing.T, dir string) {
			f := put(t, dir+"/f", "x")
			must(t, os.Chmod(f, os.FileMode(mode)))
			if got := stat(t, f).Mode & 0o7777; got != mode {
				t.Errorf("mode %o", got)
			}
		}
	}
	return checks
}
