package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client/clienttest"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

func TestMain(m *testing.M) {
	// Under the race detector every process would sleep for a second at its
	// end, and hundreds are started here.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	if strings.HasSuffix(os.Args[0], ".test") && signal.Ignored(unix.SIGHUP) {
		// Under nohup(1): what is started gets a signal that is caught here as
		// it is by default.
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	testscript.Main(m, map[string]func(){
		"nexec":   main,
		"fslave":  standInFslave,
		"fakessh": fakeSSH,
	})
}

// standInFslave serves nothing until its end of file.
func standInFslave() {
	if line := os.Getenv("HOME") + "/fslave-args"; os.Getenv("HOME") != "" {
		if f, err := os.OpenFile(line, os.O_WRONLY|os.O_TRUNC, 0); err == nil {
			fmt.Fprintln(f, os.Args[1:])
			for _, kv := range os.Environ() {
				fmt.Fprintln(f, kv)
			}
			f.Close()
		}
	}
	if name := os.Getenv("HOME") + "/fslave-pid"; os.Getenv("HOME") != "" {
		if err := os.WriteFile(name, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// fakeSSH is an ssh-like command whose "server" is the stand-in, on this
// machine. FAKESSH says what goes wrong.
func fakeSSH() {
	if f, err := os.OpenFile(os.Getenv("FAKESSH_ARGS"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err == nil {
		fmt.Fprintln(f, os.Args[1:])
		f.Close()
	}
	s := clienttest.Server{}
	switch os.Getenv("FAKESSH") {
	case "refused":
		fmt.Fprintln(os.Stderr, "fakessh: connection refused")
		os.Exit(255)
	case "banner":
		fmt.Println("Last login: Thu Jan  1 00:00:00 1970")
	case "fuse":
		s.Fatal = &fsyscall.Fatal{Code: fsyscall.FatalFUSE, Errno: 2}
	case "hostile":
		s.Fatal = &fsyscall.Fatal{Code: fsyscall.FatalView, Detail: "\x1b]0;owned\a\n\u202e"}
	case "version":
		s.Fatal = &fsyscall.Fatal{Code: fsyscall.FatalVersion, Detail: "9"}
	case "cut":
		s.OnHello = func(*fsyscall.Hello) { os.Exit(0) }
	case "cut-later":
		s.OnExec = func(*fsyscall.Exec) { time.AfterFunc(500*time.Millisecond, func() { os.Exit(0) }) }
	case "silent":
		s.Silent = true
	case "lost":
		s.EditExit = func(e *fsyscall.Exit) {
			e.Lost = []fsyscall.LostWrite{{Path: "/data/x", Errno: 28}}
			e.LostCount = 3
		}
	case "stats":
		s.EditExit = func(e *fsyscall.Exit) { e.Stats = []byte("round trips 3\nevil \x1b[2J\n") }
	case "describe":
		s.OnExec = func(e *fsyscall.Exec) {
			if err := os.WriteFile(os.Getenv("FAKESSH_OUT"), []byte(clienttest.Describe(e)), 0o600); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	case "offsets":
		off := [3]uint64{}
		s.OnExec = func(e *fsyscall.Exec) { off = [3]uint64{e.Stdio[0].Off + 5, e.Stdio[1].Off + 4} }
		s.EditExit = func(e *fsyscall.Exit) { e.Off = off }
	case "signal":
		n, err := strconv.Atoi(os.Getenv("FAKESSH_SIGNAL"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		s.Exec = func(*fsyscall.Exec) (fsyscall.ExecReply, *fsyscall.Exit) {
			return fsyscall.ExecReply{PID: 1}, &fsyscall.Exit{Signal: uint8(n), Core: true}
		}
	case "deaf":
		// Alive at first, then stopped: nothing is answered any more.
		s.Exec = func(*fsyscall.Exec) (fsyscall.ExecReply, *fsyscall.Exit) {
			time.AfterFunc(200*time.Millisecond, func() { _ = unix.Kill(os.Getpid(), unix.SIGSTOP) })
			return fsyscall.ExecReply{PID: 1}, nil
		}
	case "denied":
		s.Exec = func(*fsyscall.Exec) (fsyscall.ExecReply, *fsyscall.Exit) {
			return fsyscall.ExecReply{Stage: fsyscall.ExecDenied, Errno: 1}, nil
		}
	}
	rw, err := relay.NewPipes(os.Stdin, os.Stdout)
	if err == nil {
		err = s.Serve(rw)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fakessh:", err)
		os.Exit(1)
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			if err := os.MkdirAll(filepath.Join(home, ".config/nexec"), 0o700); err != nil {
				return err
			}
			e.Setenv("HOME", home)
			e.Setenv("FAKESSH_ARGS", filepath.Join(e.WorkDir, "ssh-args"))
			return nil
		},
	})
}
