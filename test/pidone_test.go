package test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
)

// TestFirstProcess has nexec where it cannot die by a signal: as the first
// process of a pid namespace, whose own signals the kernel keeps from it, as a
// container's only program is. The status of a command that died by N is then
// 128+N, as a shell's.
func TestFirstProcess(t *testing.T) {
	s := newSite(t)
	unshare := []string{"--fork", "--kill-child", "--pid", "--mount-proc"}
	if os.Getuid() != 0 {
		unshare = append(unshare, "--user", "--map-current-user")
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGUSR1, syscall.Signal(40)} {
		t.Run(fmt.Sprint(int(sig)), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			nexec := s.Nexec(ctx, "box", "sh", "-c", fmt.Sprintf("ulimit -c 0; kill -%d $$", int(sig)))
			c := s.Command(ctx, "unshare", append(unshare, append([]string{"sh", "-c", `test $$ = 1 && exec "$@"`, "sh"}, nexec.Args...)...)...)
			// unshare dies by the signal that its child died by.
			r := collect(t, ctx, c)
			if w := c.ProcessState.Sys().(syscall.WaitStatus); w.Signaled() || w.ExitStatus() != 128+int(sig) || r.err != "" {
				t.Errorf("%s: %s; want exit status %d", c.ProcessState, r, 128+int(sig))
			}
		})
	}
}
