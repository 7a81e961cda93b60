package fmaster_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"github.com/SumiTomohiko/nexec/fslave"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/subsystem/fmaster"
)

// TestMain gives the tests a mount namespace in which they may mount: an
// ordinary user needs a user namespace for it as well.
func TestMain(m *testing.M) {
	if os.Getenv("NEXEC_TEST_INSIDE") != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "make mounts private:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "NEXEC_TEST_INSIDE=1")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// world is a client's directory and the mount that shows it.
type world struct {
	t      *testing.T
	client string // what fslave serves as its root
	mount  string
	srv    *fmaster.Server
}

type option func(*fmaster.Config)

func syncMode(c *fmaster.Config)  { c.Hello.Sync = true }
func bothModes(c *fmaster.Config) { c.Hello.Sync, c.Hello.NoCache = true, true }

func newWorld(t *testing.T, opts ...option) *world {
	t.Helper()
	client := t.TempDir()
	os.Chmod(client, 0o755)
	return showWorld(t, client, fslave.Config{}, opts...)
}

// showWorld is newWorld for a directory that is there, served as slaveCfg says.
func showWorld(t *testing.T, client string, slaveCfg fslave.Config, opts ...option) *world {
	t.Helper()
	w := &world{t: t, client: client, mount: t.TempDir()}
	a, b := net.Pipe()
	serverLink, clientLink := relay.New(a, relay.Config{}), relay.New(b, relay.Config{})

	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	policy, err := fslave.NewPolicy(w.client, []fslave.Rule{{Path: "/", Mode: fslave.ModeReadWrite}})
	if err != nil {
		t.Fatal(err)
	}
	slaveCfg.Policy, slaveCfg.Root = policy, w.client
	slave, err := fslave.New(slaveCfg, relay.NewMessageConn(far))
	if err != nil {
		t.Fatal(err)
	}
	slaveDone := make(chan struct{})
	go func() { slave.Serve(); far.Close(); close(slaveDone) }()
	conn := relay.NewMessageConn(near)
	spliced := make(chan struct{})
	go func() { relay.Splice(clientLink, conn, nil); close(spliced) }()

	now := time.Now()
	cfg := fmaster.Config{
		Link: serverLink,
		Hello: &fsyscall.Hello{
			Version: fsyscall.Version, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
			Now: fsyscall.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())},
		},
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MappedIDs: true,
	}
	for _, o := range opts {
		o(&cfg)
	}
	w.srv = fmaster.New(cfg)
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other,max_read=%d", dev.Fd(), os.Getuid(), os.Getgid(), 1<<20)
	if err := unix.Mount("nexec", w.mount, "fuse.nexec", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		t.Fatal("mount: ", err)
	}
	served := make(chan error, 1)
	go func() { served <- w.srv.Serve(dev) }()
	t.Cleanup(func() {
		if _, _, err := w.srv.Sync(context.Background()); err != nil {
			t.Error("sync at the end: ", err)
		}
		if err := unix.Unmount(w.mount, unix.MNT_DETACH); err != nil {
			t.Error("unmount: ", err)
		}
		if err := <-served; err != nil {
			t.Error("serve: ", err)
		}
		checkWait(t, w.srv, serverLink)
		clientLink.Close()
		near.Close()
		<-spliced
		<-slaveDone
	})
	return w
}

// checkWait ends a link and wants Wait to last as long as something uses it.
func checkWait(t *testing.T, srv *fmaster.Server, link *relay.Link) {
	waited := make(chan struct{})
	go func() { srv.Wait(); close(waited) }()
	select {
	case <-waited:
		t.Error("Wait returned while the link was there to be read")
	case <-time.After(20 * time.Millisecond):
	}
	link.Close()
	select {
	case <-waited:
	case <-time.After(20 * time.Second):
		t.Fatal("Wait does not return after the end of the link")
	}
	// What has called Done may have an instruction or two left.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !strings.Contains(string(stacks), "fmaster.(*caller)") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are left:\n%s", stacks)
		}
	}
}

// sh runs a script in the mount and returns its output.
func (w *world) sh(script string) string {
	w.t.Helper()
	out, err := w.try(script)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (w *world) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-ec", "cd "+w.mount+"\n"+script)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// onClient reads a file where the client has it, after everything arrived.
func (w *world) onClient(name string) string {
	w.t.Helper()
	if _, _, err := w.srv.Sync(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(w.client, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

func modes(t *testing.T, f func(*testing.T, ...option)) {
	t.Run("cached", func(t *testing.T) { f(t) })
	t.Run("sync", func(t *testing.T) { f(t, syncMode) })
	t.Run("uncached", func(t *testing.T) { f(t, bothModes) })
}

func TestReadAndWrite(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		os.WriteFile(filepath.Join(w.client, "in"), []byte("hello\n"), 0o644)
		if got := w.sh("cat in; echo there > out; cat out; mkdir -p a/b; mv out a/b/c; ls a/b; cat a/b/c"); got != "hello\nthere\nc\nthere" {
			t.Errorf("got %q", got)
		}
		if got := w.onClient("a/b/c"); got != "there\n" {
			t.Errorf("the client has %q", got)
		}
	})
}

func TestBigFile(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		w.sh("head -c 40000000 /dev/urandom > big; cp big copy; cmp big copy; cat big | sha256sum > s1; sha256sum < copy > s2; cmp s1 s2; truncate -s 12345 big; test $(stat -c %s big) = 12345; cmp -n 12345 big copy")
	})
}

func TestTree(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		w.sh(`for d in 1 2 3 4 5; do mkdir d$d; for f in 1 2 3 4 5 6 7 8 9; do echo $d$f > d$d/f$f; done; done
			test $(find . -type f | wc -l) = 45
			tar cf t.tar d1 d2 d3 d4 d5; mkdir x; tar xf t.tar -C x; diff -r d1 x/d1; rm -rf d*; test $(ls | wc -l) = 2
			ln x/d1/f1 hard; test $(stat -c %h hard) = 2; test $(stat -c %i hard) = $(stat -c %i x/d1/f1)
			ln -s hard soft; test $(readlink soft) = hard; cat soft
			chmod 600 hard; test $(stat -c %a x/d1/f1) = 600; touch -d 2001-02-03T04:05:06.789 hard; stat -c %y hard | grep 04:05:06.789
			rm x/d1/f1; test $(stat -c %h hard) = 1; exec 3<hard; rm hard; cat <&3`)
	})
}

// TestPosix runs go-fuse's POSIX suite on the mount, in a process of its own.
// What a local directory passes the mount must pass: the suite has a test
// that expects two fcntl locks of one process to conflict, which they do
// on no local file system either.
func TestPosix(t *testing.T) {
	local := make(map[string]bool)
	dir := t.TempDir()
	for name := range posixtest.All {
		_, err := posixOne(dir, name)
		local[name] = err == nil
	}
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		for name := range posixtest.All {
			t.Run(name, func(t *testing.T) {
				out, err := posixOne(w.mount, name)
				for range maxRaces {
					if err == nil || !lostRace(name, out) {
						break
					}
					out, err = posixOne(w.mount, name)
				}
				if err != nil && local[name] {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	})
}

// maxRaces is how often a race may be lost.
const maxRaces = 3

// lostRace tells of the one test that opens a name which another process
// replaces all the time: a file that lost its name between its look-up and its
// opening is out of the client's reach. The kernel then looks a second time,
// and when that is in vain as well the program sees ESTALE, as on NFS.
func lostRace(name string, out []byte) bool {
	return name == "OpenSymlinkRace" && bytes.Contains(out, []byte("stale file handle"))
}

func posixOne(dir, name string) ([]byte, error) {
	dir, err := os.MkdirTemp(dir, "posix")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPosixInside$", "-test.v")
	cmd.Env = append(os.Environ(), "NEXEC_POSIX_DIR="+filepath.Join(dir, name), "NEXEC_POSIX_TEST="+name)
	return cmd.CombinedOutput()
}

// TestPosixInside is TestPosix's child.
func TestPosixInside(t *testing.T) {
	dir := os.Getenv("NEXEC_POSIX_DIR")
	if dir == "" {
		return
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	posixtest.All[os.Getenv("NEXEC_POSIX_TEST")](t, dir)
}
