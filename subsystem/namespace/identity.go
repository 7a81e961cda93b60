package namespace

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Identity is who a session's commands run as.
type Identity struct {
	Name     string // login name; empty where it is not known
	UID, GID uint32
	Home     string // the client's home directory
	Shell    string // login shell, for an account that /etc/passwd lacks
}

func (id *Identity) encode(e *encoder) {
	e.string(id.Name)
	e.u32(id.UID)
	e.u32(id.GID)
	e.string(id.Home)
	e.string(id.Shell)
}

func decodeIdentity(d *decoder) Identity {
	return Identity{Name: d.string(), UID: d.u32(), GID: d.u32(), Home: d.string(), Shell: d.string()}
}

// fieldSafe tells whether s can be a field of /etc/passwd.
func fieldSafe(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == ':' || r < ' ' || r == 0x7f })
}

// name returns the login name, or a made-up one.
func (id *Identity) name() string {
	if id.Name == "" || !fieldSafe(id.Name) {
		return "u" + strconv.FormatUint(uint64(id.UID), 10)
	}
	return id.Name
}

// passwd returns a passwd file whose first entry for the session's uid is the
// session's user with the client's home. Other lines stay as they are.
func (id *Identity) passwd(old []byte) []byte {
	home := id.Home
	if home == "" || !fieldSafe(home) {
		home = "/"
	}
	line, rest := takeEntry(old, 2, id.UID, id.Name)
	if line == nil {
		shell := id.Shell
		if shell == "" || !fieldSafe(shell) {
			shell = "/bin/sh"
		}
		entry := fmt.Sprintf("%s:x:%d:%d::%s:%s\n", id.name(), id.UID, id.GID, home, shell)
		return append([]byte(entry), old...)
	}
	fields := strings.Split(string(line), ":")
	if len(fields) != 7 {
		return old
	}
	if fields[5] == home && bytes.HasPrefix(old, line) {
		return old
	}
	fields[5] = home
	return append([]byte(strings.Join(fields, ":")), rest...)
}

// group returns a group file that has a name for the session's gid.
func (id *Identity) group(old []byte) []byte {
	if line, _ := takeEntry(old, 2, id.GID, ""); line != nil {
		return old
	}
	return append(fmt.Appendf(nil, "%s:x:%d:\n", id.name(), id.GID), old...)
}

// takeEntry finds the line whose numeric field is want, preferring one that
// begins with name, and returns it with its newline and the file without it.
func takeEntry(file []byte, field int, want uint32, name string) (line, rest []byte) {
	lines := bytes.SplitAfter(file, []byte("\n"))
	found := -1
	for i, l := range lines {
		f := bytes.Split(bytes.TrimSuffix(l, []byte("\n")), []byte(":"))
		if len(f) <= field {
			continue
		}
		n, err := strconv.ParseUint(string(f[field]), 10, 32)
		if err != nil || uint32(n) != want {
			continue
		}
		if named := name != "" && string(f[0]) == name; found < 0 || named {
			found = i
			if named {
				break
			}
		}
	}
	if found < 0 {
		return nil, file
	}
	line = slices.Clone(lines[found])
	if !bytes.HasSuffix(line, []byte("\n")) {
		line = append(line, '\n')
	}
	return line, bytes.Join(slices.Delete(lines, found, found+1), nil)
}

// LoginShell returns the session user's shell and name from the server's
// passwd file, empty where it has no line.
func LoginShell(passwd []byte, uid uint32, name string) (user, shell string) {
	line, _ := takeEntry(passwd, 2, uid, name)
	f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
	if len(f) != 7 {
		return "", ""
	}
	return f[0], f[6]
}
