package client

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// machineFile, in the directory for state, has the secret behind [MachineKey].
const machineFile = "machine"

// MachineKey returns what this user's files on this machine are known by in
// the caches of servers (see fsyscall.Hello). It follows from a random secret
// that is made when it is first asked for, and lies in a file that the server
// is never shown. Without the secret nobody can ask a cache what it has.
//
// Machines that share a home directory share the secret, but not the key.
func MachineKey() ([32]byte, error) {
	base, err := stateHome()
	if err != nil {
		return [32]byte{}, err
	}
	secret, err := machineSecret(filepath.Join(base, "nexec"))
	if err != nil {
		return [32]byte{}, err
	}
	h := hmac.New(sha256.New, secret)
	// Where there is none, as in some containers, the secret has to do.
	id, _ := os.ReadFile("/etc/machine-id")
	h.Write(bytes.TrimSpace(id))
	return [32]byte(h.Sum(nil)), nil
}

// stateHome is the user's directory for what programs remember.
func stateHome() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	// Users that are not people have a home that is not there, and should stay so.
	if st, err := os.Stat(home); err != nil || !st.IsDir() {
		return "", fmt.Errorf("there is no home directory %s", home)
	}
	return filepath.Join(home, ".local/state"), nil
}

// machineSecret reads the secret in dir, and makes it if there is none. Of
// several processes that make it at once all get the same.
func machineSecret(dir string) ([]byte, error) {
	path := filepath.Join(dir, machineFile)
	secret, err := readSecret(path)
	if !errors.Is(err, os.ErrNotExist) {
		return secret, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := makeSecret(dir, path); err != nil {
		return nil, err
	}
	return readSecret(path)
}

func readSecret(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	switch err := unix.Fstat(fd, &st); {
	case err != nil:
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != unix.Geteuid() || st.Mode&0o077 != 0:
		return nil, fmt.Errorf("%s is not a file of this user alone; remove it", path)
	}
	text := make([]byte, 2*sha256.Size)
	if _, err := io.ReadFull(f, text); err == nil {
		secret := make([]byte, sha256.Size)
		if _, err := hex.Decode(secret, text); err == nil {
			return secret, nil
		}
	}
	return nil, fmt.Errorf("%s is damaged; remove it", path)
}

// makeSecret makes the file whole under another name first.
func makeSecret(dir, path string) (err error) {
	f, err := os.CreateTemp(dir, machineFile+".") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	var secret [sha256.Size]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%x\n", secret); err != nil {
		return err
	}
	if err := f.Sync(); err != nil { // a name without content would be there for good
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}
