package harness

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"

	"golang.org/x/crypto/ssh"
)

// writeKey makes an Ed25519 key pair in path and path.pub as OpenSSH's
// ssh-keygen does, and returns the public key's line.
func writeKey(path string) ([]byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "throw-away")
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	line := ssh.MarshalAuthorizedKey(key)
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return line, os.WriteFile(path+".pub", line, 0o644)
}

// NewKey makes a further key pair, which no server accepts, and returns the
// path of its private half.
func (s *Site) NewKey(name string) (string, error) {
	path := s.Client + "/" + name
	_, err := writeKey(path)
	return path, err
}
