package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReload(t *testing.T) {
	dir := prepare(t, "")
	n := start(t, dir)
	s := n.session()
	text, err := os.ReadFile(dir + "/config")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/config", "Nonsense\n"+string(text))
	_ = n.cmd.Process.Signal(syscall.SIGHUP)
	n.log("the old one stays")
	n.session()
	write(t, dir+"/config", "PubkeyAuthentication no\n"+string(text))
	_ = n.cmd.Process.Signal(syscall.SIGHUP)
	n.log("configuration and host keys were read")
	if out, err := n.ssh().CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("after SIGHUP: %v %s", err, out)
	}
	s.echo("still there")
	write(t, dir+"/config", strings.Replace(string(text), "Port 0", "Port 0\nListenAddress 127.0.0.2:0", 1))
	_ = n.cmd.Process.Signal(syscall.SIGHUP)
	n.log("address=127.0.0.2")
	n.session()
}

// TestReloadEverything changes what is not the server's own.
func TestReloadEverything(t *testing.T) {
	dir := prepare(t, "PidFile "+t.TempDir()+"/pid\nMetricsSocket "+t.TempDir()+"/metrics")
	first := strings.Split(readFile(t, dir+"/config"), "\n")
	oldPID, oldMetrics := strings.Fields(first[0])[1], strings.Fields(first[1])[1]
	n := &nexecd{t: t, dir: dir, stderr: &buffer{}, done: make(chan error, 1)}
	n.cmd = command(dir, "-D", "-E", dir+"/log", "-f", dir+"/config")
	n.run()
	n.waitFor("it listens", func() bool {
		text, _ := os.ReadFile(dir + "/log")
		m := regexp.MustCompile(`Server listening" pid=\d+ address=127.0.0.1:(\d+)`).FindSubmatch(text)
		if m != nil {
			n.port = string(m[1])
		}
		return m != nil
	})
	s := n.session()
	reload := func(lines ...string) {
		t.Helper()
		rest := strings.Join(first[2:], "\n")
		write(t, dir+"/config", rest+"\n"+strings.Join(lines, "\n")+"\n")
		if err := os.Rename(dir+"/log", dir+"/log.old"); err != nil { // as logrotate
			t.Fatal(err)
		}
		_ = n.cmd.Process.Signal(syscall.SIGHUP)
		n.waitFor("it is read, into a new file", func() bool {
			text, _ := os.ReadFile(dir + "/log")
			return strings.Contains(string(text), "Received SIGHUP") || slices.Contains(lines, "LogLevel ERROR") && exists(dir+"/log")
		})
	}
	first[len(first)-2] = "Subsystem nexec /bin/echo replaced"
	reload("PidFile "+dir+"/pid2", "MetricsSocket "+dir+"/metrics2", "LogFormat json", "LogLevel DEBUG")
	if out, err := n.ssh().Output(); err != nil || string(out) != "replaced\n" {
		t.Errorf("Subsystem: %q %v", out, err)
	}
	s.echo("as it was")
	if !exists(dir+"/pid2") || exists(oldPID) || !exists(dir+"/metrics2") || exists(oldMetrics) {
		t.Error("PidFile or MetricsSocket is not where it should be")
	}
	if text := readFile(t, dir+"/log"); !strings.Contains(text, `{"time":"`) || !strings.Contains(text, `"msg":"Accepted publickey for`) {
		t.Errorf("LogFormat: %s", text)
	}
	reload("MetricsSocket /nonexistent/metrics", "PidFile "+dir+"/pid3")
	if !strings.Contains(readFile(t, dir+"/log"), "the old one stays") || exists(dir+"/pid3") || !exists(dir+"/pid2") || !exists(dir+"/metrics2") {
		t.Errorf("a place that cannot be had:\n%s", readFile(t, dir+"/log"))
	}
	reload("LogLevel ERROR", "Match User nosuchuser", "LogLevel VERBOSE")
	n.waitFor("the log has what Match asks for", func() bool {
		_ = n.ssh("-l", "nosuchuser").Run()
		return strings.Contains(readFile(t, dir+"/log"), "Failed publickey for nosuchuser")
	})
	_ = n.ssh().Run()
	if text := readFile(t, dir+"/log"); strings.Contains(text, "Accepted") {
		t.Errorf("LogLevel ERROR: %s", text)
	}
}

func TestDrain(t *testing.T) {
	dir := prepare(t, "DrainTime 300")
	n := start(t, dir)
	s := n.session()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	n.log("draining")
	n.waitFor("the listener is closed", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+n.port)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	s.echo("still there")
	s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the session ends with %v", err)
	}
	if err := n.ended(20 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestSecondTerm(t *testing.T) {
	dir := prepare(t, "DrainTime 300")
	n := start(t, dir)
	n.session()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	n.log("draining")
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	if err := n.ended(20 * time.Second); err != nil {
		t.Error(err)
	}
}

// children are a process's, of all its threads.
func children(pid int) []string {
	var all []string
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		if out, err := os.ReadFile(task); err == nil {
			all = append(all, strings.Fields(string(out))...)
		}
	}
	return all
}

// TestKilled kills nexecd: what it had started sees the end of its input.
func TestKilled(t *testing.T) {
	n := start(t, prepare(t, ""))
	s := n.session()
	pids := children(n.cmd.Process.Pid)
	if len(pids) != 1 {
		t.Fatalf("children: %v", pids)
	}
	_ = n.cmd.Process.Kill()
	if err := s.cmd.Wait(); err == nil {
		t.Error("ssh ends with success")
	}
	n.waitFor("cat has ended", func() bool { return !exists("/proc/" + pids[0]) })
}

// TestUpgrade starts the program anew under a running session.
func TestUpgrade(t *testing.T) {
	dir := prepare(t, "MetricsSocket "+t.TempDir()+"/metrics")
	n := start(t, dir, "-o", "PidFile="+dir+"/pid")
	s := n.session()
	_ = n.cmd.Process.Signal(syscall.SIGUSR2)
	n.listening(1)
	successor := 0
	n.waitFor("the new process has the PidFile", func() bool {
		text, err := os.ReadFile(dir + "/pid")
		successor = atoi(string(text))
		return err == nil && successor != n.cmd.Process.Pid
	})
	s.echo("under the old process")
	for range 5 {
		other := n.session()
		if len(children(successor)) == 0 {
			t.Error("a new session is not the new process's")
		}
		other.in.Close()
		_ = other.cmd.Wait()
	}
	s.echo("still under the old process")
	s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the old session ends with %v", err)
	}
	// Its standard error is its successor's too.
	if err := n.ended(20 * time.Second); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("the old process: %v", err)
	}
	n.session()
	if err := syscall.Kill(successor, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// TestUpgradeFails keeps the old process when the new one does not start.
func TestUpgradeFails(t *testing.T) {
	dir := prepare(t, "")
	n := start(t, dir)
	write(t, dir+"/config", "Nonsense\n")
	_ = n.cmd.Process.Signal(syscall.SIGUSR2)
	n.log("upgrade failed")
	n.session()
}

// TestInetd has ssh speak to nexecd -i as its ProxyCommand.
func TestInetd(t *testing.T) {
	dir := prepare(t, "")
	n := &nexecd{t: t, dir: dir, port: "22", stderr: &buffer{}}
	cmd := n.ssh("-o", fmt.Sprintf("ProxyCommand=env %s=1 STATE_DIRECTORY=%s/state %s -i -E %s/log -f %s/config", asNexecd, dir, os.Args[0], dir, dir))
	cmd.Stdin = strings.NewReader("over a pipe")
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "over a pipe" && !strings.HasSuffix(string(out), "over a pipe") {
		text, _ := os.ReadFile(dir + "/log")
		t.Errorf("%v %s\n%s", err, out, text)
	}
}

// TestActivation is systemd's part, played by a shell.
func TestActivation(t *testing.T) {
	dir := prepare(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	n := &nexecd{t: t, dir: dir, stderr: &buffer{}, done: make(chan error, 1)}
	n.cmd = command(dir)
	n.cmd.Path = "/bin/sh"
	n.cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -D -e -f "$1"`, os.Args[0], dir + "/config"}
	n.cmd.Env = append(n.cmd.Env, "NOTIFY_SOCKET="+dir+"/notify")
	n.cmd.ExtraFiles = []*os.File{f}
	n.run()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 1000)
		_ = told.SetReadDeadline(time.Now().Add(20 * time.Second))
		k, err := told.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:k]), want) {
			t.Fatalf("systemd is told %q %v, want %q\n%s", buf[:k], err, want, n.stderr)
		}
	}
	expect("READY=1")
	_, n.port, _ = net.SplitHostPort(l.Addr().String())
	s := n.session()
	_ = n.cmd.Process.Signal(syscall.SIGHUP)
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1")
	s.in.Close()
	_ = s.cmd.Wait()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if err := n.ended(20 * time.Second); err != nil {
		t.Error(err)
	}
}
