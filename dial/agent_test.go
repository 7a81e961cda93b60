package dial

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// tokenAgent is an agent with one security key, which signs as a token does
// that was touched, or was not. See OpenSSH's PROTOCOL.u2f.
type tokenAgent struct {
	agent.Agent // panics on what no client of this test asks for
	key         ssh.PublicKey
	private     ed25519.PrivateKey
	flags       byte
}

func newTokenAgent(t *testing.T, flags byte) *tokenAgent {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Name        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	return &tokenAgent{key: key, private: private, flags: flags}
}

func (a *tokenAgent) List() ([]*agent.Key, error) {
	return []*agent.Key{{Format: a.key.Type(), Blob: a.key.Marshal(), Comment: "token"}}, nil
}

func (a *tokenAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if string(key.Marshal()) != string(a.key.Marshal()) {
		return nil, errors.New("another key")
	}
	app, msg := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	attested := binary.BigEndian.AppendUint32([]byte{a.flags}, 1)
	signed := slices.Concat(app[:], attested, msg[:])
	return &ssh.Signature{Format: a.key.Type(), Blob: ed25519.Sign(a.private, signed), Rest: attested}, nil
}

// serve answers on a socket until the test is over.
func (a *tokenAgent) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = t.TempDir() + "/a"
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = agent.ServeAgent(a, c)
			}()
		}
	}()
	return socket
}

// TestSecurityKeyInAgent logs in to a real sshd with a key that only an agent
// can use, alone and with the file that names it.
func TestSecurityKeyInAgent(t *testing.T) {
	s := startSSHD(t, "PasswordAuthentication no", "KbdInteractiveAuthentication no")
	s.knownHosts()
	token := newTokenAgent(t, 1)
	socket := token.serve(t)
	pub := string(ssh.MarshalAuthorizedKey(token.key))
	write(t, s.path("authorized_keys"), pub)
	with := func(settings ...string) Options {
		o := s.options()
		o.Settings = slices.DeleteFunc(o.Settings, func(s string) bool {
			return strings.HasPrefix(s, "Identit")
		})
		o.Settings = append(append(settings, "IdentityAgent="+socket), o.Settings...)
		return o
	}
	mustEcho(t, mustDial(t, with("IdentityFile=none")))
	file := s.path("id_ed25519_sk")
	write(t, file+".pub", pub)
	mustEcho(t, mustDial(t, with("IdentitiesOnly=yes", "IdentityFile="+file)))
	dialErr(t, with("IdentitiesOnly=yes", "IdentityFile="+s.path("id")), "permission denied")
	dialErr(t, with("IdentityFile=none", "PubkeyAcceptedAlgorithms=ssh-ed25519"), "permission denied")

	token.flags = 0 // nobody touches it
	dialErr(t, with("IdentityFile=none"), "permission denied")
	write(t, s.path("authorized_keys"), "no-touch-required "+pub)
	mustEcho(t, mustDial(t, with("IdentityFile=none")))
}

// TestForwardedAgent uses the socket that Debian's sshd makes for ssh -A.
func TestForwardedAgent(t *testing.T) {
	s := startSSHD(t)
	s.knownHosts()
	socket := startAgent(t, s.path("id"))
	cmd := exec.Command("ssh", "-F", "none", "-A", "-p", strconv.Itoa(s.port), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile="+s.path("known_hosts"), "-o", "GlobalKnownHostsFile=none", fmt.Sprintf("%s@127.0.0.1", s.user), "echo $SSH_AUTH_SOCK; exec cat")
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	forwarded := strings.TrimSpace(line)
	if err != nil || forwarded == "" || forwarded == socket {
		t.Fatalf("no agent is forwarded: %q %v", line, err)
	}
	o := s.options()
	o.Settings = append([]string{"IdentityAgent=" + forwarded, "IdentityFile=none", "IdentitiesOnly=no"}, slices.DeleteFunc(o.Settings, func(s string) bool {
		return strings.HasPrefix(s, "Identit")
	})...)
	mustEcho(t, mustDial(t, o))
}
