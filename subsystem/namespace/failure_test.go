package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// hostName makes the test binary a supervisor on a host, made of namespaces,
// that lacks something.
const hostName = "nexec test host"

// hosts are what is done to a host, and what Start must say of it.
var hosts = map[string]struct {
	spoil func() error
	code  fsyscall.FatalCode
	errno syscall.Errno
}{
	"no /dev/fuse": {func() error {
		return errors.Join(unix.Mount("x", "/dev", "tmpfs", 0, ""), os.WriteFile("/dev/null", nil, 0o666))
	}, fsyscall.FatalFUSE, unix.ENOENT},
	"/dev/fuse is something else": {func() error { return unix.Mount("/dev/null", "/dev/fuse", "", unix.MS_BIND, "") },
		fsyscall.FatalFUSE, unix.EINVAL},
	"namespaces forbidden": {func() error { return os.WriteFile("/proc/sys/user/max_mnt_namespaces", []byte("0"), 0) },
		fsyscall.FatalNamespaces, unix.ENOSPC},
}

// hostMain prints why no session could be started.
func hostMain() {
	if err := hosts[os.Args[1]].spoil(); err != nil {
		fmt.Println("cannot make the host:", err)
		os.Exit(1)
	}
	plan, err := NewPlan(rules())
	if err == nil {
		var s *Space
		if s, err = Start(Config{Identity: identity(), Plan: plan}); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err = s.Device(ctx)
			s.Close(0, func() {})
		}
	}
	var f *Failure
	if errors.As(err, &f) {
		m := f.Fatal()
		fmt.Printf("code %d, errno %d: %s\n", m.Code, m.Errno, m.Detail)
	} else {
		fmt.Println("no failure:", err)
	}
	os.Exit(0)
}

func TestHostsThatLackSomething(t *testing.T) {
	for name, host := range hosts {
		cmd := exec.Command("/proc/self/exe")
		cmd.Args = []string{hostName, name}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		want := fmt.Sprintf("code %d, errno %d: ", host.code, host.errno)
		if err != nil || !strings.HasPrefix(string(out), want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: %q, %v; want %q", name, out, err, want)
		}
		t.Logf("%s: %s", name, out)
	}
}
