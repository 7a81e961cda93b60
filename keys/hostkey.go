package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxHostKeyFile bounds a private key file: an RSA key of 16384 bits has 13 KiB.
const maxHostKeyFile = 64 << 10

// LoadHostKey reads a server's private key. As with sshd, a key of our own
// that others may read is refused, and so is one with a passphrase. A
// certificate in PATH-cert.pub is not looked for: see LoadHostCertificate.
func LoadHostKey(path string) (ssh.Signer, error) {
	// Non-blocking: a fifo in the place of a key must not stop the server.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	defer f.Close()
	if err := checkPrivateMode(f, path); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHostKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("host key: %w", err)
	}
	if len(data) > maxHostKeyFile {
		return nil, fmt.Errorf("host key %s: longer than %d bytes", path, maxHostKeyFile)
	}
	signer, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("host key %s: has a passphrase; remove it with ssh-keygen -p", path)
	}
	if err != nil {
		return nil, fmt.Errorf("host key %s: not a private key: %w", path, err)
	}
	return modernSigner(signer)
}

// checkPrivateMode is sshd's rule: a file that is ours is for our eyes only.
func checkPrivateMode(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("host key %s: not a regular file", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) == os.Getuid() && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("host key: Permissions %04o for '%s' are too open; chmod 600 it", info.Mode().Perm(), path)
	}
	return nil
}

// modernSigner leaves SHA-1 out of what an RSA key signs with.
func modernSigner(s ssh.Signer) (ssh.Signer, error) {
	if s.PublicKey().Type() != ssh.KeyAlgoRSA {
		return s, nil
	}
	as, ok := s.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("host key: RSA key of type %T cannot sign with SHA-2", s)
	}
	return ssh.NewSignerWithAlgorithms(as, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
}

// EnsureHostKey loads the ed25519 host key at path and makes it when there is
// none. It reports whether it made one. The file appears whole, with mode
// 0600, or not at all; when two servers start at once both use the first one's.
func EnsureHostKey(path string) (signer ssh.Signer, made bool, err error) {
	if _, err := os.Lstat(path); err == nil {
		signer, err = LoadHostKey(path)
		return signer, false, err
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, false, fmt.Errorf("host key: %w", err)
	}
	made, err = makeHostKey(path)
	if err != nil {
		return nil, false, err
	}
	signer, err = LoadHostKey(path)
	return signer, made, err
}

// makeHostKey writes a new key. It reports false when somebody else was first.
func makeHostKey(path string) (bool, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return false, fmt.Errorf("host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return false, fmt.Errorf("host key: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".host_key_*") // mode 0600
	if err != nil {
		return false, fmt.Errorf("host key: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(tmp.Name(), path) // unlike rename, never over another key
	}
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("host key %s: %w", path, err)
	}
	return true, nil
}

// LoadHostCertificate pairs a host key with its certificate, as HostCertificate
// asks for. signers are the server's host keys.
func LoadHostCertificate(path string, signers []ssh.Signer) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("host certificate %s: %w", path, err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.HostCert {
		return nil, fmt.Errorf("host certificate %s: not a host certificate", path)
	}
	for _, s := range signers {
		if string(s.PublicKey().Marshal()) != string(cert.Key.Marshal()) {
			continue
		}
		return ssh.NewCertSigner(cert, s)
	}
	return nil, fmt.Errorf("host certificate %s: no matching private key among the host keys", path)
}
