package keys

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxKeyFile bounds a private or public key file, as OpenSSH's
// MAX_KEY_FILE_SIZE.
const maxKeyFile = 1 << 20

// Errors of private key files.
var (
	// ErrPassphrase: the key is encrypted, and not with the passphrase given.
	ErrPassphrase = errors.New("incorrect passphrase supplied to decrypt private key")
	// ErrNoPrivateKey: the file has a public key or something else.
	ErrNoPrivateKey = errors.New("no private key in it")
)

// UnprotectedKeyError says that others could read a private key file. It is
// then not used.
type UnprotectedKeyError struct {
	File string
	Mode fs.FileMode
}

func (e *UnprotectedKeyError) Error() string {
	return fmt.Sprintf("permissions %#04o for '%s' are too open: run chmod 600 on it", e.Mode.Perm(), e.File)
}

// Warning is what OpenSSH writes about such a file.
func (e *UnprotectedKeyError) Warning() string {
	const rule = "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n"
	return rule + "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\n" + rule +
		fmt.Sprintf("Permissions %#04o for '%s' are too open.\n", e.Mode.Perm(), e.File) +
		"It is required that your private key files are NOT accessible by others.\n" +
		"This private key will be ignored.\n"
}

// CheckKeyFile refuses a private key file that is ours and that others can
// read or write. One that belongs to somebody else is that one's to guard, as
// with OpenSSH.
func CheckKeyFile(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if ok && int(sys.Uid) == os.Getuid() && st.Mode().Perm()&0o077 != 0 {
		return &UnprotectedKeyError{File: f.Name(), Mode: st.Mode()}
	}
	return nil
}

// LoadPrivateKey reads a private key file in any format that OpenSSH writes,
// encrypted or not; passphrase may be nil. Its errors are *fs.PathError,
// *UnprotectedKeyError, ErrPassphrase, or say what is wrong with the file.
// The key is what ssh.NewSignerFromKey and agent.AddedKey take.
func LoadPrivateKey(file string, passphrase []byte) (any, error) {
	data, err := readKeyFile(file, true)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	var key any
	if len(passphrase) == 0 {
		key, err = ssh.ParseRawPrivateKey(data)
	} else {
		key, err = ssh.ParseRawPrivateKeyWithPassphrase(data, passphrase)
	}
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return key, nil
	case errors.As(err, &missing), isWrongPassphrase(err):
		return nil, ErrPassphrase
	case !bytes.Contains(data, []byte("-----BEGIN")):
		return nil, fmt.Errorf("%s: %w: give the private half", file, ErrNoPrivateKey)
	}
	return nil, fmt.Errorf("%s: %w: make it anew with ssh-keygen, or load a key of a kind that is not supported here into an agent", file, err)
}

func readKeyFile(file string, private bool) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if private {
		if err := CheckKeyFile(f); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("%s is larger than %d bytes: it is no key file", file, maxKeyFile)
	}
	return data, nil
}

// LoadPublicIdentity finds the public key of an identity without decrypting
// anything: in the file itself, if it has a public key or a private key in
// OpenSSH's own format or unencrypted, else in the file with .pub after its
// name. It returns nil when none of them has one; the private key must then
// be decrypted first.
func LoadPublicIdentity(file string) (ssh.PublicKey, error) {
	data, err := readKeyFile(file, false)
	if err == nil {
		defer clear(data)
		if pub := publicOf(data); pub != nil {
			return pub, nil
		}
	}
	if pub, pubErr := readPublicKey(file + ".pub"); pubErr == nil {
		return pub, nil
	}
	return nil, err
}

func publicOf(data []byte) ssh.PublicKey {
	if !bytes.Contains(data, []byte("-----BEGIN")) {
		pub, _, _, _, err := ssh.ParseAuthorizedKey(data)
		if err != nil {
			return nil
		}
		return pub
	}
	key, err := ssh.ParseRawPrivateKey(data)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		return missing.PublicKey // nil for PEM, whose public half is encrypted too
	}
	if err != nil {
		return nil
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil
	}
	return signer.PublicKey()
}

func readPublicKey(file string) (ssh.PublicKey, error) {
	data, err := readKeyFile(file, false)
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return pub, nil
}

// LoadUserCertificate reads a user certificate from a file, or from the file
// with .pub after its name.
func LoadUserCertificate(file string) (*ssh.Certificate, error) {
	pub, err := readPublicKey(file)
	if err != nil {
		var pubErr error
		if pub, pubErr = readPublicKey(file + ".pub"); pubErr != nil {
			return nil, err
		}
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.UserCert {
		return nil, fmt.Errorf("%s: not a user certificate: name the file that ssh-keygen -s made", file)
	}
	return cert, nil
}

// RSABits is the size of an RSA key or of a certificate's, and 0 of others.
func RSABits(key ssh.PublicKey) int {
	parsed, err := ssh.ParsePublicKey(key.Marshal()) // agents hand out opaque ones
	if err != nil {
		return 0
	}
	ck, ok := PlainKey(parsed).(ssh.CryptoPublicKey)
	if !ok {
		return 0
	}
	if pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok {
		return pub.N.BitLen()
	}
	return 0
}

// TypeName is OpenSSH's short name of a key's type: ED25519, RSA, ECDSA.
func TypeName(key ssh.PublicKey) string {
	name := key.Type()
	cert := strings.Contains(name, "-cert-v01@")
	name = strings.Replace(strings.TrimSuffix(name, "@openssh.com"), "-cert-v01", "", 1)
	switch {
	case strings.HasPrefix(name, "sk-ssh-ed25519"):
		name = "ED25519-SK"
	case strings.HasPrefix(name, "sk-ecdsa"):
		name = "ECDSA-SK"
	case name == "ssh-ed25519":
		name = "ED25519"
	case name == "ssh-rsa":
		name = "RSA"
	case name == "ssh-dss":
		name = "DSA"
	case strings.HasPrefix(name, "ecdsa-"):
		name = "ECDSA"
	}
	if cert {
		name += "-CERT"
	}
	return name
}

// Fingerprint is a key's as OpenSSH shows it, by sha256 or md5.
func Fingerprint(key ssh.PublicKey, hash string) string {
	if hash == "md5" {
		return "MD5:" + ssh.FingerprintLegacyMD5(PlainKey(key))
	}
	return ssh.FingerprintSHA256(PlainKey(key))
}
