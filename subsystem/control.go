package subsystem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/namespace"
)

// send writes one message on the control stream.
func (s *session) send(h fsyscall.Header, m fsyscall.Message) error {
	b, err := fsyscall.AppendMessage(nil, h, m)
	if err != nil {
		return err
	}
	return s.ctl.WriteMessage(b)
}

func (s *session) notice(op fsyscall.Op, m fsyscall.Message) error {
	return s.send(fsyscall.Header{Kind: fsyscall.KindNotice, Op: op}, m)
}

// protocolError ends the session over what the client sent.
func protocolError(err error) error {
	return &fatalError{fsyscall.Fatal{Code: fsyscall.FatalProtocol, Detail: clip(err.Error())}, fmt.Errorf("the client broke the protocol: %w", err)}
}

// clip keeps a text within what a Fatal may carry.
func clip(s string) string { return s[:min(len(s), 4000)] }

// readMessage reads and decodes one message of the client.
func (s *session) readMessage() (fsyscall.Header, fsyscall.Message, error) {
	b, err := s.ctl.ReadMessage(nil)
	if err != nil {
		if lerr := s.link.Err(); lerr != nil {
			err = lerr
		}
		return fsyscall.Header{}, nil, err
	}
	h, body, err := fsyscall.ParseHeader(b)
	if err != nil {
		return h, nil, protocolError(err)
	}
	if h.Kind != fsyscall.KindCall && h.Kind != fsyscall.KindNotice || h.Op.Info().To != fsyscall.ToServer {
		return h, nil, protocolError(fmt.Errorf("a %s of kind %d is not for the server", h.Op, h.Kind))
	}
	m := h.NewBody()
	if err := fsyscall.Decode(body, m); err != nil {
		return h, nil, protocolError(fmt.Errorf("%s: %w", h.Op, err))
	}
	return h, m, nil
}

// readHello reads the client's first message.
func (s *session) readHello() error {
	late := time.AfterFunc(helloTimeout, func() {
		s.link.Abort(fmt.Errorf("the client said nothing for %v", helloTimeout))
	})
	defer late.Stop()
	_, m, err := s.readMessage()
	if err != nil {
		return err
	}
	hello, ok := m.(*fsyscall.Hello)
	if !ok {
		return protocolError(errors.New("the first message is no hello"))
	}
	if hello.Version != fsyscall.Version {
		return &fatalError{
			fsyscall.Fatal{Code: fsyscall.FatalVersion, Detail: strconv.Itoa(fsyscall.Version)},
			fmt.Errorf("the client speaks version %d of the protocol, this is version %d: install the same nexec on both", hello.Version, fsyscall.Version),
		}
	}
	s.hello = hello
	return nil
}

// findLogin finds out which account this is.
func (s *session) findLogin() login {
	l := login{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	env := s.opts.Environ
	name := lookup(env, "USER")
	if name == "" {
		name = lookup(env, "LOGNAME")
	}
	if f, err := os.Open("/etc/passwd"); err == nil {
		b, err := io.ReadAll(io.LimitReader(f, 4<<20))
		f.Close()
		if err == nil {
			l.name, l.shell = namespace.LoginShell(b, l.uid, name)
		}
	}
	if l.name == "" { // an account of a directory service: the front door knows it
		l.name, l.shell = name, lookup(env, "SHELL")
	}
	if l.name == "" {
		l.name = "u" + strconv.FormatUint(uint64(l.uid), 10)
	}
	if l.shell == "" {
		l.shell = "/bin/sh"
	}
	if l.home = lookup(env, "HOME"); !strings.HasPrefix(l.home, "/") {
		l.home = "/"
	}
	l.path = searchPath(env, l.uid == 0)
	return l
}

func (s *session) welcome() {
	host, err := os.Hostname()
	if err != nil {
		host = "" // it is only shown
	}
	// That the client is gone is found out by the reader.
	s.notice(fsyscall.OpWelcome, &fsyscall.Welcome{
		Version: fsyscall.Version, UID: s.login.uid, GID: s.login.gid, User: s.login.name,
		Hostname: host, PID: uint32(os.Getpid()),
	})
}

// control carries out what the client asks for, until the session or the link
// ends.
func (s *session) control() {
	for {
		h, m, err := s.readMessage()
		if err == nil {
			err = s.request(h, m)
		}
		if err != nil {
			s.end(err)
			return
		}
	}
}

// errBye is the client's orderly end.
var errBye = fmt.Errorf("the client said goodbye: %w", io.EOF)

func (s *session) request(h fsyscall.Header, m fsyscall.Message) error {
	switch m := m.(type) {
	case *fsyscall.Exec:
		return s.exec(h.Tag, m)
	case *fsyscall.Signal:
		s.signal(m)
	case *fsyscall.Winsize:
		s.winsize(m)
	case *fsyscall.Empty:
		if h.Op == fsyscall.OpBye {
			return errBye
		}
		return s.send(fsyscall.Header{Kind: fsyscall.KindReply, Op: h.Op, Tag: h.Tag}, nil)
	default:
		return protocolError(fmt.Errorf("%s is not for the control stream", h.Op))
	}
	return nil
}

// events hands the news of commands on, until init is gone.
func (s *session) events() {
	for ev := range s.space.Events() {
		s.mu.Lock()
		c := s.commands[ev.Cmd]
		s.mu.Unlock()
		if c == nil || !c.tell(ev) {
			if ev.Master != nil {
				ev.Master.Close()
			}
		}
	}
	s.end(asFatal(s.space.Failure()))
}
