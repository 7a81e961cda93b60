package test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// TestInstalled has the commands where `make install` puts them: they find each
// other there, without help from PATH.
func TestInstalled(t *testing.T) {
	s, err := harness.NewSite()
	must(t, err)
	mounts := harness.Mounts()
	t.Cleanup(func() { checkClean(t, s, mounts) })
	prefix := filepath.Join(s.Server, "usr")
	for name, dir := range map[string]string{"nexec": "bin", "nexecd": "sbin", "nexec-server": "lib/nexec", "fslave": "lib/nexec"} {
		install(t, filepath.Join(s.Bin, name), filepath.Join(prefix, dir, name))
	}
	s.Bin = filepath.Join(prefix, "sbin")
	if _, err := s.StartNexecd(harness.ServerOptions{Alias: "box"}); err != nil {
		t.Fatal(err)
	}
	s.Bin = filepath.Join(prefix, "bin")
	r := (&site{s, nil}).run(t, "text", "box", "sh", "-c", "cat >f; cat f; exit 3")
	if r.code != 3 || r.out != "text" || r.err != "" {
		t.Error(r)
	}
}

func install(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	in, err := os.Open(from)
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
}
