package keys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxRevokedFile bounds RevokedKeys: about a million serial numbers one by one.
const maxRevokedFile = 64 << 20

// Revoked says which keys must not be accepted. It is not changed once made.
type Revoked struct {
	krl  *KRL
	list map[string]bool // by the key's wire form
}

// LoadRevoked reads a RevokedKeys file: a key revocation list of ssh-keygen(1),
// or public keys one per line.
func LoadRevoked(path string) (*Revoked, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("revoked keys: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("revoked keys: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxRevokedFile {
		return nil, fmt.Errorf("revoked keys %s: not a regular file of at most %d bytes", path, maxRevokedFile)
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil && len(data) > 0 {
		return nil, fmt.Errorf("revoked keys: %w", err)
	}
	r, err := ParseRevoked(data)
	if err != nil {
		return nil, fmt.Errorf("revoked keys %s: %w", path, err)
	}
	return r, nil
}

// ParseRevoked reads the content of a RevokedKeys file. A line that is no key
// is an error: what was to be revoked must not be overlooked.
func ParseRevoked(data []byte) (*Revoked, error) {
	if bytes.HasPrefix(data, []byte(krlMagic)) {
		krl, err := ParseKRL(data)
		return &Revoked{krl: krl}, err
	}
	r := &Revoked{list: map[string]bool{}}
	var bad error
	err := eachLine(bytes.NewReader(data), func(n int, line string) bool {
		key := readKey(line, "")
		if key == nil {
			key, _, bad = parseLine(line, "")
		}
		if bad != nil {
			bad = fmt.Errorf("line %d: %w", n, bad)
			return false
		}
		r.list[string(key.Marshal())] = true
		return true
	})
	return r, errors.Join(err, bad)
}

// Contains reports whether key is revoked. For a certificate that includes its
// own key and its authority.
func (r *Revoked) Contains(key ssh.PublicKey) bool {
	if cert, ok := key.(*ssh.Certificate); ok {
		return r.has(key) || r.has(cert.Key) || r.has(cert.SignatureKey)
	}
	return r.has(key)
}

func (r *Revoked) has(key ssh.PublicKey) bool {
	if r.krl != nil {
		return r.krl.Contains(key)
	}
	return r.list[string(key.Marshal())]
}

// LoadKeyList reads a file of public keys, one per line, such as
// TrustedUserCAKeys. Options before a key are an error.
func LoadKeyList(path string) ([]ssh.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("public keys: %w", err)
	}
	var list []ssh.PublicKey
	var bad error
	err = eachLine(bytes.NewReader(data), func(n int, line string) bool {
		key := readKey(strings.TrimSpace(line)+" ", "")
		if key == nil {
			bad = fmt.Errorf("line %d: %w", n, ErrInvalidKeyLine)
			return false
		}
		list = append(list, key)
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("public keys %s: %w", path, err)
	}
	return list, nil
}
