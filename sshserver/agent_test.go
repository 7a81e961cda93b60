package sshserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAgentOfRealClient has Debian's ssh forward Debian's agent.
func TestAgentOfRealClient(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := t.TempDir()
	command := realClient(t, dir, script(`ssh-add -L; for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4; do ssh-add -l >/dev/null & done; done; wait
		ls -ld "${SSH_AUTH_SOCK%/*}" "$SSH_AUTH_SOCK" | cut -c1-10; nc -U "$SSH_AUTH_SOCK" </dev/zero >/dev/null 2>&1 & sleep 0.2`))
	socket := filepath.Join(dir, "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	})
	waitFor(t, func() bool { _, err := os.Stat(socket); return err == nil })
	ask := func(args ...string) string {
		t.Helper()
		cmd := command(args...)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%v: %v %s", args, err, out)
		}
		return string(out)
	}
	add := exec.Command("ssh-add", "-q", filepath.Join(dir, "id"))
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	pub, err := os.ReadFile(filepath.Join(dir, "id.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ask("-A"), string(pub)+"drwx--x--x\nsrw-------\n"; got != want {
		t.Errorf("forwarded: %q, want %q", got, want)
	}
	if got := ask("-a"); strings.Contains(got, "ssh-ed25519") {
		t.Errorf("not forwarded: %q", got)
	}
	if left, _ := filepath.Glob(tmp + "/nexecd-agent-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
