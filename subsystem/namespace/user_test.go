package namespace

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const userEnv = "NEXEC_TEST_ORDINARY_USER"

// ordinary are a uid, a gid and a further group that nobody has.
const (
	ordinaryUID   = 54321
	ordinaryGID   = 54321
	ordinaryGroup = 54322
)

// TestAsOrdinaryUser runs all tests of the package once more without root.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getenv(userEnv) != "" || os.Geteuid() != 0 {
		return // this is that run
	}
	openFUSE(t)
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=120s")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), userEnv+"=1", "HOME=/nonexistent", "TMPDIR=/tmp")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: ordinaryUID, Gid: ordinaryGID, Groups: []uint32{ordinaryGroup}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestCommandInView") {
		t.Errorf("%v\n%s", err, out)
	}
}

// openFUSE gives /dev/fuse the mode that udev's rules give it everywhere.
func openFUSE(t *testing.T) {
	t.Helper()
	st, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o666 {
		if err := os.Chmod("/dev/fuse", 0o666); err != nil {
			t.Fatal(err)
		}
	}
}
