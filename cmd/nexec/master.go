package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/fslave"
)

// listenerFD is where a master finds the socket that it is to serve.
const listenerFD = 3

// runMaster is the process of a session that stays. All that it has to say it
// says to those whose commands it runs.
func runMaster(v *voice, o *options, s speaker) (client.Result, int) {
	err := serveMaster(v, o, s)
	var said *client.SaidError
	if err != nil && !errors.As(err, &said) {
		return client.Result{}, statusFailure
	}
	return client.Result{}, 0
}

func serveMaster(v *voice, o *options, s speaker) error {
	l, err := inheritedListener()
	if err != nil {
		v.say("--master is for nexec's own use: %s", reason(err))
		return err
	}
	defer l.Close()
	// Everything else that came along is the shell's, and somebody may wait
	// for it to be closed.
	if err := fslave.CloseInherited(listenerFD); err != nil {
		return err
	}
	sockets, err := client.OpenSockets()
	if err != nil {
		return err
	}
	defer sockets.Close()
	way, err := o.transport(v)
	if err != nil {
		return err
	}
	_, byCommand := way.(*sshCommand)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	signal.Ignore(unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTOU)
	session := o.session(v, way, s)
	cwd, err := o.exportedCwd()
	if err != nil {
		return err
	}
	session.Files.Args = append(session.Files.Args, "--cwd", cwd)
	if dir, err := os.Getwd(); err == nil { // of who started it
		session.Prefetch = func() client.Prefetch { return client.Around(dir) }
	}
	err = client.RunMaster(ctx, client.MasterConfig{
		Session: session, Listener: l, Sockets: sockets, Name: o.master,
		Host: o.dest.text, Idle: o.persist.idle, Opened: leaveTerminal, Unsure: byCommand,
		Say: func(err error) string {
			_, text := s.describe(err)
			return text
		},
	})
	_ = way.wait()
	return err
}

func inheritedListener() (*net.UnixListener, error) {
	f := os.NewFile(listenerFD, "socket")
	if f == nil {
		return nil, os.ErrInvalid
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(os.ErrInvalid, l.Close())
	}
	u.SetUnlinkOnClose(false) // done under the directory's lock
	return u, nil
}

// leaveTerminal makes the process a daemon, once nobody has to be asked
// anything any more: whoever reads the standard error that it came with must
// not wait for it, and no directory is kept busy.
func leaveTerminal() {
	// It was no group's leader, and a failure would only leave it at the
	// terminal.
	_, _ = unix.Setsid()
	if null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		for fd := range 3 {
			_ = unix.Dup3(null, fd, 0)
		}
		_ = unix.Close(null)
	}
	_ = os.Chdir("/")
}

// control is -O: it speaks with the masters of sessions whose sockets' names
// begin with prefix, as ssh's -O does with its own.
func (v *voice) control(o *options, prefix string, s speaker) (client.Result, int) {
	sockets, err := client.OpenSockets()
	if err != nil {
		return client.Result{}, v.fail(err, s)
	}
	defer sockets.Close()
	do := sockets.Sessions
	if o.control == "exit" {
		do = sockets.EndSessions
	}
	all, err := do(prefix)
	if err == nil && o.control == "list" {
		err = listSessions(os.Stdout, all)
	}
	switch {
	case err != nil:
		return client.Result{}, v.fail(err, s)
	case o.control == "list":
		return client.Result{}, 0
	case len(all) == 0:
		v.warn("no session with %s", printable(o.dest.text))
		return client.Result{}, statusFailure
	}
	for _, st := range all {
		if o.control == "exit" {
			v.warn("the session with %s (pid %d) was told to end", printable(st.Host), st.PID)
		} else {
			v.warn("a session with %s is running (pid %d)", printable(st.Host), st.PID)
		}
	}
	return client.Result{}, 0
}
