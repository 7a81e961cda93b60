package sshserver

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
)

// BenchmarkToRealClient moves bytes to ssh(1) through a program, as a session
// has it; BenchmarkFromRealClient the other way.
func BenchmarkToRealClient(b *testing.B) {
	benchReal(b, "exec dd if=/dev/zero bs=256k count=2048 status=none")
}
func BenchmarkFromRealClient(b *testing.B) { benchReal(b, "exec cat >/dev/null") }

func benchReal(b *testing.B, script string) {
	const size = 512 << 20
	dir := b.TempDir()
	b.SetBytes(size)
	run := realClient(b, dir, map[string]Handler{"nexec": &Program{Path: "/bin/sh", Args: []string{"-c", "" + script}}})
	b.ResetTimer()
	for range b.N {
		cmd := run("-c", "aes128-gcm@openssh.com")
		cmd.Stdin = io.LimitReader(zeros{}, size)
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// realClient starts a server and returns a function that makes an ssh command
// for it.
func realClient(b testing.TB, dir string, handlers map[string]Handler) func(args ...string) *exec.Cmd {
	b.Helper()
	key := filepath.Join(dir, "id")
	tool(b, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		b.Fatal(err)
	}
	s := startWith(b, dir, "", handlers, nil)
	s.authorize(string(pub))
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		b.Fatal(err)
	}
	known := filepath.Join(dir, "known_hosts")
	text := "[" + host + "]:" + port + " " + string(ssh.MarshalAuthorizedKey(s.host.PublicKey()))
	if err := os.WriteFile(known, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return func(args ...string) *exec.Cmd {
		args = append([]string{"-F", "none", "-o", "BatchMode=yes", "-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=none",
			"-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-i", key, "-p", port}, args...)
		return exec.Command("ssh", append(args, "-s", me(b)+"@"+host, "nexec")...)
	}
}
