package fsyscall_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/SumiTomohiko/nexec"

// order lists who may import whom among the packages of the module: "a < b"
// means that b may import a, and so may whatever b is below of. A package
// that is not named here may be imported by cmd only. Test files and the
// packages in test and bench, which nobody imports, are free.
var order = `
	rawio < relay, dial, sshserver, subsystem/fusedev
	fsyscall < relay, view
	subsystem/fusedev < subsystem/fmaster
	subsystem/filecache < subsystem/fmaster, subsystem
	fsyscall, relay < fslave, subsystem/fmaster, client/clienttest
	fsyscall < subsystem/namespace
	relay < subsystem/handover
	subsystem/namespace, subsystem/fmaster, subsystem/handover, view < subsystem
	keys < sshserver/sshdconfig, dial
	sshserver/sshdconfig < sshserver
	fsyscall < client/closure
	client/startup, client/closure, fsyscall, relay, fslave, view, dial < client
`

// only lists modules that one package, or two that belong together, may import.
var only = map[string]string{
	"github.com/hanwen/go-fuse/v2":           "subsystem/fmaster, subsystem/fusedev",
	"github.com/kevinburke/ssh_config":       "dial",
	"github.com/landlock-lsm/go-landlock":    "fslave",
	"golang.org/x/crypto/ssh/knownhosts":     "keys",
	"github.com/skeema/knownhosts":           "keys",
	"github.com/rogpeppe/go-internal":        "test",
	"github.com/creack/pty":                  "test",
	"github.com/prometheus/client_golang":    "sshserver",
	"github.com/BurntSushi/toml":             "",
	"github.com/klauspost/compress":          "relay",
	"golang.org/x/crypto/ssh/terminal":       "",
	"github.com/hanwen/go-fuse/v2/posixtest": "test",
}

// allowed returns the closure of order: package → what it may import.
func allowed() map[string][]string {
	may := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(order), "\n") {
		below, above, _ := strings.Cut(strings.TrimSpace(line), " < ")
		for _, a := range strings.Split(above, ", ") {
			may[a] = append(may[a], strings.Split(below, ", ")...)
		}
	}
	for range may {
		for a, below := range may {
			for _, b := range slices.Clone(below) {
				for _, c := range may[b] {
					if !slices.Contains(may[a], c) {
						may[a] = append(may[a], c)
					}
				}
			}
		}
	}
	return may
}

// imports calls visit for every import of every Go file of the module that is
// not a test.
func imports(t *testing.T, visit func(pkg, file, imported string)) {
	t.Helper()
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		files++
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			visit(rel, path, imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 5 {
		t.Fatalf("only %d Go files found", files)
	}
}

func free(pkg string) bool {
	top, _, _ := strings.Cut(pkg, "/")
	return top == "cmd" || top == "test" || top == "bench"
}

// TestImportDirection holds the module's packages to order.
func TestImportDirection(t *testing.T) {
	may := allowed()
	for a, below := range may {
		if slices.Contains(below, a) {
			t.Fatalf("the order is a circle through %s", a)
		}
	}
	imports(t, func(pkg, file, imported string) {
		own, ours := strings.CutPrefix(imported, module+"/")
		switch {
		case pkg == "fsyscall" && strings.Contains(imported, "."):
			t.Errorf("%s imports %s: fsyscall imports the standard library only", file, imported)
		case ours && free(own):
			if top, _, _ := strings.Cut(pkg, "/"); !strings.HasPrefix(own, top+"/") && (top != "bench" || own != "test/harness") {
				t.Errorf("%s imports %s, which is a program's", file, own)
			}
		case ours && !free(pkg) && !slices.Contains(may[pkg], own):
			t.Errorf("%s: %s may not import %s", file, pkg, own)
		}
	})
}

// TestImportHomes holds dependencies that are one package's business to it.
func TestImportHomes(t *testing.T) {
	imports(t, func(pkg, file, imported string) {
		for dependency, home := range only {
			if imported != dependency && !strings.HasPrefix(imported, dependency+"/") {
				continue
			}
			// Packages with "test" in their names serve tests only.
			if home == "test" && (strings.Contains(pkg, "test") || strings.HasPrefix(pkg, "bench")) {
				continue
			}
			if strings.HasSuffix(dependency, "go-fuse/v2") && strings.HasSuffix(imported, "/posixtest") {
				continue
			}
			if !slices.Contains(strings.Split(home, ", "), pkg) {
				t.Errorf("%s imports %s, which belongs to %q alone", file, imported, home)
			}
		}
	})
}
