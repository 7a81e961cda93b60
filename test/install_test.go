package test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstalled has the commands where `make install` puts them: they find each
// other there, without help from PATH.
func TestInstalled(t *testing.T) {
	s := newSite(t)
	prefix := filepath.Join(s.Client, "usr")
	for name, dir := range map[string]string{"nexec": "bin", "nexecd": "sbin", "nexec-server": "lib/nexec", "fslave": "lib/nexec"} {
		install(t, filepath.Join(s.Bin, name), filepath.Join(prefix, dir, name))
	}
	built := s.Bin
	s.Bin = filepath.Join(prefix, "bin")
	r := s.run(t, "text", "box", "sh", "-c", "cat >f; cat f; exit 3")
	if s.Bin = built; r.code != 3 || r.out != "text" || r.err != "" {
		t.Error(r)
	}
	// nexecd says at its start if there is nothing to serve sessions with.
	config := s.write(t, "nexecd.conf", "Port 1\nListenAddress 127.0.0.1\nHostKey "+filepath.Join(s.Server, "hostkey")+"\n")
	check := prefix + "/sbin/nexecd -t -f " + config
	if out := s.local(t, check+" 2>&1 && echo good"); out != "good\n" {
		t.Errorf("nexecd -t: %q", out)
	}
	server := filepath.Join(prefix, "lib/nexec/nexec-server")
	if _, err := os.Stat("/usr/lib/nexec/nexec-server"); err == nil {
		return // it is found there then
	}
	if out := s.local(t, "rm "+server+"; "+check+" 2>&1 || echo status $?"); !strings.Contains(out, server) || !strings.Contains(out, "status ") {
		t.Errorf("nexecd -t without nexec-server: %q", out)
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
