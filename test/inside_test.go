package test

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// A check uses the file system at dir, which is empty, through this process's
// own system calls. It must pass natively and through nexec.
type check = func(t *testing.T, dir string)

// families are the checks by family and name.
func families(mounted bool) map[string]map[string]check {
	suite := map[string]check{}
	for name, f := range posixtest.All {
		suite[name] = f
	}
	// Wants two descriptors of one process to conflict, which fcntl locks do
	// not do on any Linux file system: it fails natively.
	delete(suite, "FcntlFlockLocksFile")
	// Skips itself on file systems whose extended attributes end at a block,
	// as ext4's do; "extended attributes" of our own family stands in.
	delete(suite, "XAttrLarge")
	if !mounted {
		// Tells the mount from the rest by its device number.
		delete(suite, "OpenSymlinkRace")
	}
	return map[string]map[string]check{
		"posixtest": suite,
		"posix":     posixChecks(),
		"ancestor":  ancestorChecks(),
	}
}

// TestInside runs every check in the directory that the environment names, or
// else in a temporary one: natively. TestThrough runs it through nexec.
func TestInside(t *testing.T) {
	top := os.Getenv(insideVar)
	if top == "" {
		top = t.TempDir()
	}
	for family, checks := range families(os.Getenv(insideVar) != "") {
		t.Run(family, func(t *testing.T) {
			for _, name := range slices.Sorted(maps.Keys(checks)) {
				t.Run(name, func(t *testing.T) {
					dir := filepath.Join(top, family+"-"+strings.ReplaceAll(name, " ", "-"))
					if err := os.Mkdir(dir, 0o755); err != nil {
						t.Fatal(err)
					}
					checks[name](t, dir)
				})
			}
		})
	}
}

var verdict = regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL|SKIP): TestInside/(\S+)`)

// TestThrough runs the checks of every family through nexec: the test binary,
// in the client's tree, is executed on the server and works on the client's
// files.
func TestThrough(t *testing.T) {
	for family, checks := range families(true) {
		t.Run(family, func(t *testing.T) {
			s := newSite(t)
			copySelf(t, filepath.Join(s.Work, "e2e.test"))
			dir := filepath.Join(s.Work, "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
			defer cancel()
			c := s.Nexec(ctx, "-e", insideVar+"="+dir, "box", "./e2e.test", "-test.run", "^TestInside$/^"+family+"$", "-test.v", "-test.timeout", "150s")
			r := collect(t, ctx, c)
			got := map[string]string{}
			for _, m := range verdict.FindAllStringSubmatch(r.out, -1) {
				got[strings.TrimPrefix(m[2], family+"/")] = m[1]
			}
			for _, name := range slices.Sorted(maps.Keys(checks)) {
				name = strings.ReplaceAll(name, " ", "_")
				t.Run(name, func(t *testing.T) {
					if got[name] != "PASS" {
						t.Errorf("%q: %s", got[name], about(r.out, family+"/"+name))
					}
				})
			}
			if r.code != 0 || r.err != "" {
				t.Errorf("status %d, stderr %q; the output ends in %q", r.code, short(r.err), short(r.out))
			}
		})
	}
}

// about returns what a verbose run says about one test.
func about(out, name string) string {
	_, after, found := strings.Cut(out, "=== RUN   TestInside/"+name+"\n")
	if !found {
		return "it did not run"
	}
	text, _, _ := strings.Cut(after, "=== RUN")
	return short(text)
}

// copySelf copies the test binary.
func copySelf(t testing.TB, to string) {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
