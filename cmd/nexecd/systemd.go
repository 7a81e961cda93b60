package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstInherited is SD_LISTEN_FDS_START.
	firstInherited = 3
	// activated is the key of the first listener that systemd has opened.
	activated = "systemd 0"
	// inheritVariable tells a program started by upgrade what its listeners
	// are: their keys, a descriptor each, and then one for saying that it serves.
	inheritVariable = "NEXECD_LISTENERS"
	// maxActivated bounds LISTEN_FDS.
	maxActivated = 64
	// upgradeTime bounds how long a new program may take to serve.
	upgradeTime = 30 * time.Second
)

// takeListeners takes over listeners that systemd or our predecessor has opened.
func (d *daemon) takeListeners(wanted map[string]func() (net.Listener, error)) error {
	if keys := os.Getenv(inheritVariable); keys != "" {
		return d.inherit(strings.Split(keys, ";"), wanted)
	}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 || n > maxActivated {
		return fmt.Errorf("LISTEN_FDS %q: not a number from 1 to %d", os.Getenv("LISTEN_FDS"), maxActivated)
	}
	for i := range n {
		l, err := listenerAt(firstInherited + i)
		if err != nil {
			return fmt.Errorf("socket %d from systemd: %w", i, err)
		}
		d.add("systemd "+strconv.Itoa(i), l)
	}
	return nil
}

func listenerAt(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	if f == nil {
		return nil, errors.New("no such descriptor")
	}
	defer f.Close() // FileListener has its own
	return net.FileListener(f)
}

// inherit takes our predecessor's listeners. One that is not wanted any more
// is closed.
func (d *daemon) inherit(keys []string, wanted map[string]func() (net.Listener, error)) error {
	for i, key := range keys {
		l, err := listenerAt(firstInherited + i)
		if err != nil {
			return fmt.Errorf("listener %s of the former process: %w", key, err)
		}
		if wanted[key] == nil && !strings.HasPrefix(key, "systemd ") {
			l.Close()
			continue
		}
		d.add(key, l)
	}
	return nil
}

// ready says that connections are served: to systemd, or to the process that
// we take over from.
func (d *daemon) ready() {
	keys := os.Getenv(inheritVariable)
	if keys == "" {
		notify("READY=1")
		return
	}
	f := os.NewFile(uintptr(firstInherited+len(strings.Split(keys, ";"))), "ready")
	_, _ = f.Write([]byte("1")) // who waits for it sees the end as well
	f.Close()
	_ = os.Unsetenv(inheritVariable)
}

// upgrade starts the program anew, gives it the listeners, and returns when it
// serves. Until then we go on accepting.
func (d *daemon) upgrade() (pid int, err error) {
	keys := make([]string, 0, len(d.listeners))
	for k := range d.listeners {
		keys = append(keys, k)
	}
	slices.Sort(keys) // systemd 0 stays the first of systemd's
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, k := range keys {
		f, err := d.listeners[k].(interface{ File() (*os.File, error) }).File()
		if err != nil {
			return 0, err
		}
		files = append(files, f)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	files = append(files, w)
	cmd := exec.Command(d.self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.Env = append(os.Environ(), inheritVariable+"="+strings.Join(keys, ";"))
	err = cmd.Start()
	for _, f := range files[:len(keys)] {
		// Starting a process makes its descriptors block, and these share that
		// with our own listeners.
		if nerr := unix.SetNonblock(int(f.Fd()), true); err == nil {
			err = nerr
		}
	}
	if err != nil {
		return 0, err
	}
	w.Close()
	_ = r.SetReadDeadline(time.Now().Add(upgradeTime))
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 0, errors.New("the new process does not come to serve; see its messages")
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release() // it outlives us, and has no parent then
}

// notify tells systemd, if it asked for it. See sd_notify(3).
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // it cannot be told; it will see by itself
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// reloading is what Type=notify-reload wants at the start of a reload.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "RELOADING=1"
	}
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
