package dial

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// serveOnce runs an SSH server that takes connections until the test ends. The
// sshd of the tests cannot check passwords without PAM.
func serve(t *testing.T, config *ssh.ServerConfig) (dest string) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, chans, reqs, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(reqs)
				for ch := range chans {
					_ = ch.Reject(ssh.Prohibited, "no")
				}
			}()
		}
	}()
	return "bob@" + l.Addr().String()
}

func passwordOptions(t *testing.T, dest string, p *answers, settings ...string) Options {
	dir := t.TempDir()
	return Options{Destination: dest, ConfigFile: "none", Prompt: p, Stderr: &lockedBuffer{}, Home: dir,
		Settings: append(settings, "StrictHostKeyChecking=accept-new", "GlobalKnownHostsFile=none", "IdentityAgent=none")}
}

func TestPassword(t *testing.T) {
	denied := errors.New("no")
	dest := serve(t, &ssh.ServerConfig{
		MaxAuthTries: 20,
		PasswordCallback: func(c ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
			if c.User() == "bob" && string(p) == "right" {
				return nil, nil
			}
			return nil, denied
		},
		BannerCallback: func(ssh.ConnMetadata) string { return "Welcome\x1b[2Jto\nthe server\n" },
	})
	p := &answers{t: t, give: []string{"wrong", "right"}}
	o := passwordOptions(t, dest, p)
	mustDial(t, o)
	if len(p.got) != 2 || p.got[0].Text != "bob@127.0.0.1's password: " || p.got[0].Echo {
		t.Errorf("asked %+v", p.got)
	}
	shown := o.Stderr.(*lockedBuffer).String()
	if !strings.Contains(shown, "Permission denied, please try again.\n") || !strings.Contains(shown, "Welcome\\x1b[2Jto\nthe server\n") {
		t.Errorf("shown %q", shown)
	}
	p = &answers{t: t, give: []string{"a", "b", "c", "d"}}
	dialErr(t, passwordOptions(t, dest, p, "NumberOfPasswordPrompts=2"), "permission denied (password)")
	if len(p.got) != 2 {
		t.Errorf("asked %d times, want 2", len(p.got))
	}
	p = &answers{t: t}
	dialErr(t, passwordOptions(t, dest, p), "no terminal")
	for _, setting := range []string{"BatchMode=yes", "PasswordAuthentication=no", "PreferredAuthentications=publickey"} {
		p = &answers{t: t, give: []string{"right"}}
		dialErr(t, passwordOptions(t, dest, p, setting))
		if len(p.got) != 0 {
			t.Errorf("%s: asked %+v", setting, p.got)
		}
	}
	o = passwordOptions(t, dest, p, "LogLevel=QUIET")
	mustDial(t, o)
	if shown := o.Stderr.(*lockedBuffer).String(); shown != "" {
		t.Errorf("with LogLevel QUIET: %q", shown)
	}
}

func TestKeyboardInteractive(t *testing.T) {
	dest := serve(t, &ssh.ServerConfig{
		KeyboardInteractiveCallback: func(c ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
			got, err := ask("Name", "Do as told", []string{"Code\x07: ", "Pet: "}, []bool{false, true})
			if err != nil || !slices.Equal(got, []string{"123", "cat"}) {
				return nil, fmt.Errorf("%q, %v", got, err)
			}
			_, err = ask("", "", nil, nil)
			return nil, err
		},
	})
	p := &answers{t: t, give: []string{"0", "dog", "123", "cat"}}
	o := passwordOptions(t, dest, p)
	mustDial(t, o)
	if len(p.got) != 4 || p.got[0] != (Question{Text: "(bob@127.0.0.1) Code\\x07: "}) || !p.got[1].Echo {
		t.Errorf("asked %+v", p.got)
	}
	dialErr(t, passwordOptions(t, dest, &answers{t: t}, "BatchMode=yes"), "permission denied (keyboard-interactive)")
}

// TestPartialSuccess: a key and then a password.
func TestPartialSuccess(t *testing.T) {
	s := startSSHD(t) // for its key file
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{
				PasswordCallback: func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
					if string(p) != "right" {
						return nil, errors.New("no")
					}
					return nil, nil
				},
			}}
		},
	}
	p := &answers{t: t, give: []string{"right"}}
	mustDial(t, passwordOptions(t, serve(t, config), p, "IdentityFile="+s.path("id")))
	if len(p.got) != 1 {
		t.Errorf("asked %+v", p.got)
	}
}

// TestTerminal asks on a pseudo-terminal: a secret is not echoed, and the echo
// is back afterwards, also when the question is given up.
func TestTerminal(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer tty.Close()
	poll, err := os.OpenFile(tty.Name(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer poll.Close()
	echo := func() bool {
		st, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return st.Lflag&unix.ECHO != 0
	}
	answered := make(chan string, 1)
	go func() {
		got, err := askTTY(context.Background(), poll, Question{Text: "secret: "})
		answered <- fmt.Sprint(got, err)
	}()
	waitFor(t, func() bool { return !echo() })
	if _, err := master.WriteString("hush\n"); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got != "hush<nil>" {
		t.Errorf("answer %q", got)
	}
	if !echo() {
		t.Error("the echo is off")
	}
	buf := make([]byte, 100)
	n, _ := master.Read(buf)
	if strings.Contains(string(buf[:n]), "hush") {
		t.Errorf("echoed %q", buf[:n])
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := askTTY(ctx, poll, Question{Text: "secret: "}); !errors.Is(err, context.Canceled) || !echo() {
		t.Errorf("given up: %v, echo %v", err, echo())
	}
}
