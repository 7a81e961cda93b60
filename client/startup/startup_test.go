package startup_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/client/startup"
)

func TestMain(m *testing.M) {
	if os.Getenv("STARTUP_TEST_CHILD") != "" {
		cur, _, ok := startup.Nofile()
		fmt.Println(cur, ok)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The limit seen is the one that the shell set, not the one that the os
// package raised it to.
func TestNofileIsTheShells(t *testing.T) {
	cmd := exec.Command("sh", "-c", `ulimit -S -n 219; exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "STARTUP_TEST_CHILD=1")
	out, err := cmd.CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "219 true" {
		t.Errorf("got %q, %v; want 219", got, err)
	}
}
