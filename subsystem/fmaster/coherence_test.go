package fmaster_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soon waits until script prints want, as it must within 300 ms of a change
// made on the client.
func (w *world) soon(want, script string) {
	w.t.Helper()
	var got string
	for end := time.Now().Add(3 * time.Second); ; {
		got, _ = w.try(script)
		if got == want {
			return
		}
		if time.Now().After(end) {
			w.t.Errorf("%s: %q, want %q", script, got, want)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestClientChanges(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		in := func(name string) string { return filepath.Join(w.client, name) }
		os.MkdirAll(in("d/e"), 0o755)
		os.WriteFile(in("d/f"), []byte("one"), 0o644)
		os.WriteFile(in("d/e/g"), []byte("gee"), 0o644)
		os.Symlink("f", in("d/l"))
		w.sh("ls -lR; cat d/f d/e/g d/l; test ! -e d/new")
		os.WriteFile(in("d/f"), []byte("three"), 0o644)
		w.soon("three", "cat d/f")
		w.soon("5", "stat -c %s d/f")
		os.Chmod(in("d/f"), 0o600)
		w.soon("600", "stat -c %a d/f")
		os.WriteFile(in("d/new"), []byte("n"), 0o644)
		w.soon("n", "cat d/new")
		os.WriteFile(in("d/tmp"), []byte("over"), 0o644)
		os.Rename(in("d/tmp"), in("d/f"))
		w.soon("over", "cat d/f")
		os.Remove(in("d/l"))
		os.Symlink("new", in("d/l"))
		w.soon("n", "cat d/l")
		os.Rename(in("d"), in("D"))
		w.soon("gee", "cat D/e/g")
		w.soon("cat: d/e/g: No such file or directory", "cat d/e/g || true")
		w.soon("over", "cat D/f")
		os.Rename(in("D"), in("d"))
		w.soon("gee over", "echo $(cat d/e/g) $(cat d/f)")
		os.Remove(in("d/f"))
		w.soon("cat: d/f: No such file or directory", "cat d/f || true")
		w.soon("e l new", "echo $(ls d)")
	})
}

// TestOpenWhileChanged: what is open stays readable when the client removes or
// replaces it, and the name is seen as it is.
func TestOpenWhileChanged(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		f := filepath.Join(w.client, "f")
		os.WriteFile(f, []byte("old"), 0o644)
		go func() {
			time.Sleep(500 * time.Millisecond)
			os.Remove(f)
		}()
		if got := w.sh("exec 3<f; sleep 1; cat <&3; cat f 2>&1 || true"); got != "oldcat: f: No such file or directory" {
			t.Errorf("got %q", got)
		}
	})
}

func TestFlock(t *testing.T) {
	modes(t, func(t *testing.T, opts ...option) {
		w := newWorld(t, opts...)
		w.sh("touch f; flock f true; flock -s f true; (flock 3; sleep 0.3; echo first) 3>f >out & sleep 0.1; flock f cat out; wait")
	})
}

// A change of a directory on the way to a process's working directory takes
// nothing from that: it is still there, and still has a name. Kernels before 6.2
// have no means for that.
func TestWorkingDirectoryStays(t *testing.T) {
	gone := " (deleted)"
	if kernelHas(t, 6, 2) {
		gone = ""
	}
	w := newWorld(t)
	in := func(name string) string { return filepath.Join(w.client, name) }
	if err := os.MkdirAll(in("d/e/f"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func() error
		seen   string // a script that prints "yes" once the change has come
	}{
		{"mode of the parent", func() error { return os.Chmod(in("d/e"), 0o711) }, "test $(stat -c %a d/e) = 711 && echo yes"},
		{"mode of the parent's", func() error { return os.Chmod(in("d"), 0o711) }, "test $(stat -c %a d) = 711 && echo yes"},
		{"its own mode", func() error { return os.Chmod(in("d/e/f"), 0o711) }, "test $(stat -c %a d/e/f) = 711 && echo yes"},
		{"a name beside it", func() error { return os.WriteFile(in("d/e/new"), nil, 0o644) }, "test -e d/e/new && echo yes"},
	} {
		cmd := exec.Command("/bin/sh", "-ec", "cd "+w.mount+"/d/e/f; echo there; read go || exec readlink /proc/self/cwd")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out := bufio.NewReader(stdout)
		there, _ := out.ReadString('\n')
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		w.soon("yes", c.seen)
		stdin.Close()
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		here := "there\n" + filepath.Join(w.mount, "d/e/f")
		if got := there + string(rest); got != here+"\n" && got != here+gone+"\n" {
			t.Errorf("%s: %q, want %q", c.name, got, here)
		}
	}
}

func kernelHas(t *testing.T, major, minor int) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var haveMajor, haveMinor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &haveMajor, &haveMinor); err != nil {
		t.Fatal(err)
	}
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}
