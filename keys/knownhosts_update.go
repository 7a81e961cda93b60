package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxKnownHostsFile bounds a file that is rewritten as a whole.
const maxKnownHostsFile = 64 << 20

// AddKnownHost appends a line for each name to a known_hosts file, hashed if
// asked, and makes the file and its directory where they are missing. The
// lines are written at once while the file is locked against other programs of
// this package.
func AddKnownHost(file string, key ssh.PublicKey, hash bool, names ...string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", file, err)
	}
	var lines bytes.Buffer
	if err := endLastLine(f, &lines); err != nil {
		return err
	}
	for _, name := range names {
		lines.WriteString(KnownHostsLine(name, key, hash) + "\n")
	}
	_, err = f.Write(lines.Bytes())
	return errors.Join(err, f.Sync())
}

// endLastLine adds the newline that an editor may have left out, lest two
// lines become one.
func endLastLine(f *os.File, lines *bytes.Buffer) error {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, st.Size()-1); err != nil {
		return err
	}
	if last[0] != '\n' {
		lines.WriteByte('\n')
	}
	return nil
}

// ReplaceKnownHost rewrites a known_hosts file so that exactly the given keys
// are on file for names: lines about names with other keys go, keys that are
// missing are added at the end, and all else stays byte for byte. The old file
// stays beside it as file.old, as with OpenSSH; the new one takes its place at
// once, so that a reader sees one or the other.
func ReplaceKnownHost(file string, names []string, want []ssh.PublicKey, hash bool) error {
	file, err := filepath.EvalSymlinks(file) // a link stays a link
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", file, err)
	}
	old, err := io.ReadAll(io.LimitReader(f, maxKnownHostsFile+1))
	if err != nil {
		return err
	}
	if len(old) > maxKnownHostsFile {
		return fmt.Errorf("%s is larger than %d bytes: remove lines", file, maxKnownHostsFile)
	}
	text := replaceLines(string(old), names, want, hash)
	if text == string(old) {
		return nil
	}
	return replaceFile(f, file, text)
}

func replaceLines(old string, names []string, want []ssh.PublicKey, hash bool) string {
	var b strings.Builder
	have := make([]bool, len(want))
	for line := range strings.Lines(old) {
		marker, hosts, rest, ok := splitKnownHost(strings.TrimRight(line, "\n"))
		if !ok || marker != MarkerNone || !matchesAny(hosts, names) {
			b.WriteString(line)
			continue
		}
		key, ok := parseKeyFields(rest)
		if !ok {
			b.WriteString(line)
			continue
		}
		for i := range want {
			if SameKey(want[i], key) {
				have[i] = true
				b.WriteString(line)
				break
			}
		}
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	for i, key := range want {
		if have[i] {
			continue
		}
		if hash {
			for _, name := range names {
				b.WriteString(KnownHostsLine(name, key, true) + "\n")
			}
			continue
		}
		b.WriteString(KnownHostsLine(strings.Join(names, ","), key, false) + "\n")
	}
	return b.String()
}

// replaceFile puts text in the place of a file, with its mode, and keeps the
// old one under another name.
func replaceFile(old *os.File, file, text string) error {
	st, err := old.Stat()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once it has been renamed
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Chmod(st.Mode().Perm()), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	backup := file + ".old"
	if err := os.Remove(backup); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(file, backup); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
