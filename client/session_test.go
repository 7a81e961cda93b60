package client

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client/clienttest"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
)

// catFiles is a file service that does no harm.
var catFiles = Files{Path: "/bin/sh", Args: []string{"-c", "exec cat >/dev/null"}}

// hostile is a server that sends given messages after the hello.
func hostile(t *testing.T, msgs ...[]byte) Opener {
	return func(context.Context) (io.ReadWriteCloser, error) {
		here, there := net.Pipe()
		link := relay.New(there, relay.Config{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			ctl := link.Stream(fsyscall.StreamControl)
			for _, m := range msgs {
				if ctl.WriteMessage(m) != nil {
					break
				}
			}
			_ = link.Wait() // ends with the client's end
		}()
		t.Cleanup(func() {
			link.Abort(nil)
			<-done
		})
		return here, nil
	}
}

func message(t *testing.T, kind fsyscall.Kind, op fsyscall.Op, tag uint32, m fsyscall.Message) []byte {
	t.Helper()
	b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: kind, Op: op, Tag: tag}, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever a server sends, the session ends with an error and nothing hangs.
func TestHostileServer(t *testing.T) {
	welcome := message(t, fsyscall.KindNotice, fsyscall.OpWelcome, 0, &fsyscall.Welcome{Version: 1})
	exit := message(t, fsyscall.KindNotice, fsyscall.OpExit, 0, &fsyscall.Exit{Cmd: 0})
	for name, msgs := range map[string][][]byte{
		"empty message":         {{}},
		"noise":                 {[]byte("\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6")},
		"truncated":             {welcome[:len(welcome)-1]},
		"two welcomes":          {welcome, welcome},
		"exit of no command":    {welcome, exit},
		"reply to nothing":      {message(t, fsyscall.KindReply, fsyscall.OpExec, 7, &fsyscall.ExecReply{PID: 1})},
		"a call to the client":  {message(t, fsyscall.KindCall, fsyscall.OpLookup, 1, &fsyscall.Lookup{Dir: 1, Name: "x", ID: 2})},
		"a message for servers": {message(t, fsyscall.KindNotice, fsyscall.OpSignal, 0, &fsyscall.Signal{Sig: 9})},
		"a failed exec call":    {{byte(fsyscall.KindReply), byte(fsyscall.OpExec), 0, 5, 0, 0, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(context.Background(), SessionConfig{Open: hostile(t, msgs...), Files: catFiles}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			select {
			case <-s.Dead():
			case <-time.After(5 * time.Second):
				t.Fatal("the session goes on")
			}
			var proto *ProtocolError
			if !errors.As(s.Err(), &proto) {
				t.Errorf("ended with %v", s.Err())
			}
		})
	}
}

// run starts one command in a session and waits for its exit.
func runCommand(t *testing.T, server clienttest.Server, argv ...string) (*fsyscall.Exit, error) {
	t.Helper()
	served := make(chan error, 1)
	open := func(context.Context) (io.ReadWriteCloser, error) {
		here, there := net.Pipe()
		go func() { served <- server.Serve(there) }()
		return here, nil
	}
	s, err := Start(context.Background(), SessionConfig{Open: open, Files: catFiles}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		s.Close()
		if err := <-served; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	}()
	null := mustOpen(t, "/dev/null", unix.O_RDWR)
	fds := [3]int{null, null, null}
	c, err := s.Exec(&fsyscall.Exec{Argv: argv, Cwd: "/"}, classify(fds, [3]bool{}, TerminalAuto), fds, newTerminal(-1, false))
	if err != nil {
		return nil, err
	}
	defer c.join()
	defer c.stop()
	select {
	case e := <-c.exit:
		return &e, nil
	case <-s.Dead():
		return nil, s.Err()
	case <-time.After(10 * time.Second):
		t.Fatal("no exit")
		return nil, nil
	}
}

func TestExitOfCommand(t *testing.T) {
	e, err := runCommand(t, clienttest.Server{}, "sh", "-c", "exit 5")
	if err != nil || e.Code != 5 || e.Signal != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestFatalEndsSession(t *testing.T) {
	_, err := runCommand(t, clienttest.Server{Fatal: &fsyscall.Fatal{Code: fsyscall.FatalNamespaces, Errno: 1}}, "true")
	var fatal *FatalError
	if !errors.As(err, &fatal) || fatal.Code != fsyscall.FatalNamespaces {
		t.Errorf("ended with %v", err)
	}
}

func TestHelloSaysWhoAndWhat(t *testing.T) {
	var hello *fsyscall.Hello
	_, err := runCommand(t, clienttest.Server{OnHello: func(h *fsyscall.Hello) { hello = h }}, "true")
	if err != nil || hello == nil {
		t.Fatal(err)
	}
	if hello.UID != uint32(unix.Geteuid()) || hello.Home == "" || hello.Secret == ([32]byte{}) || hello.Now.Sec == 0 {
		t.Errorf("%+v", hello)
	}
}

func TestOpenerFails(t *testing.T) {
	fail := errors.New("no way")
	_, err := Start(context.Background(), SessionConfig{
		Open:  func(context.Context) (io.ReadWriteCloser, error) { return nil, fail },
		Files: catFiles,
	}, nil)
	var open *OpenError
	if !errors.As(err, &open) || !errors.Is(err, fail) {
		t.Errorf("ended with %v", err)
	}
}
