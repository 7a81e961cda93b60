package subsystem

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const userEnv = "NEXEC_TEST_ORDINARY_USER"

// TestAsOrdinaryUser runs all tests of the package once more without root.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getenv(userEnv) != "" || os.Geteuid() != 0 {
		return // this is that run
	}
	if err := os.Chmod("/dev/fuse", 0o666); err != nil { // as udev's rules do
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=180s")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), userEnv+"=1", "HOME=/nonexistent", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321, Groups: []uint32{54322}}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestCommand") {
		t.Errorf("%v\n%s", err, out)
	}
}
