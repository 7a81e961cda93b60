package sshserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Account is a login's entry in the user database.
type Account struct {
	Name  string
	UID   uint32
	GID   uint32
	Home  string
	Shell string // never empty
	// Groups are the numbers of all groups, GID first.
	Groups []uint32
	// GroupNames are the names of those that have one.
	GroupNames []string
}

// Accounts reads the user database from files, as a program without cgo can.
// Accounts known to other name services only are unknown to it. The files are
// read anew for each login; the zero value reads those of /etc.
type Accounts struct {
	// Root is put before /etc/passwd and its like; empty for the machine's own.
	Root string
}

// ErrNoAccount is the answer for unknown names.
var ErrNoAccount = errors.New("no such account")

// maxLine bounds a line of passwd or group: a group with 20,000 members.
const maxLine = 1 << 20

func (a *Accounts) path(name string) string { return filepath.Join("/", a.Root, name) }

// scan calls f with the fields of each line until f returns false.
func (a *Accounts) scan(file string, f func(fields []string) bool) error {
	in, err := os.Open(a.path(file))
	if err != nil {
		return err
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for lines.Scan() {
		if !f(strings.Split(lines.Text(), ":")) {
			return nil
		}
	}
	return lines.Err()
}

// Lookup finds an account by its exact name.
func (a *Accounts) Lookup(name string) (*Account, error) {
	return a.find(func(f []string) bool { return f[0] == name })
}

// LookupID finds the first account with a uid.
func (a *Accounts) LookupID(uid int) (*Account, error) {
	id := strconv.Itoa(uid)
	return a.find(func(f []string) bool { return f[2] == id })
}

func (a *Accounts) find(is func([]string) bool) (*Account, error) {
	var found *Account
	var bad error
	err := a.scan("/etc/passwd", func(f []string) bool {
		if len(f) < 7 || f[0] == "" || strings.HasPrefix(f[0], "+") || strings.HasPrefix(f[0], "-") || !is(f) {
			return true
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if bad = errors.Join(err1, err2); bad != nil {
			return false
		}
		found = &Account{Name: f[0], UID: uint32(uid), GID: uint32(gid), Home: f[5], Shell: f[6]}
		return false
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("user database: %w", err)
	}
	if found == nil {
		return nil, ErrNoAccount
	}
	if found.Shell == "" {
		found.Shell = "/bin/sh"
	}
	return found, a.groups(found)
}

// groups fills in what initgroups(3) would set.
func (a *Accounts) groups(acct *Account) error {
	acct.Groups = []uint32{acct.GID}
	err := a.scan("/etc/group", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			return true
		}
		primary := uint32(gid) == acct.GID
		if !primary && !slices.Contains(strings.Split(f[3], ","), acct.Name) {
			return true
		}
		acct.GroupNames = append(acct.GroupNames, f[0])
		if !slices.Contains(acct.Groups, uint32(gid)) {
			acct.Groups = append(acct.Groups, uint32(gid))
		}
		return true
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// privateGroup reports whether gid is a group whose only member is the
// account with uid.
func (a *Accounts) privateGroup(gid, uid uint32) bool {
	wantGID, wantUID := strconv.Itoa(int(gid)), strconv.Itoa(int(uid))
	members, name := 0, ""
	err := a.scan("/etc/passwd", func(f []string) bool {
		if len(f) < 7 {
			return true
		}
		if f[2] == wantUID && name == "" {
			name = f[0]
		}
		if f[3] == wantGID {
			members++
			if f[2] != wantUID {
				members = -1
				return false
			}
		}
		return true
	})
	if err != nil || members < 0 || name == "" {
		return false
	}
	known := false
	err = a.scan("/etc/group", func(f []string) bool {
		if len(f) < 4 || f[2] != wantGID {
			return true
		}
		known = f[3] == "" || f[3] == name
		if f[3] != "" {
			members++
		}
		return false
	})
	return err == nil && known && members > 0
}

// Usable returns why an account must not log in, or nil: a locked or expired
// one, and one whose shell is not for logging in. sshd starts everything by
// way of the shell, so that nologin, git-shell and the like decide; nexec does
// not, so only shells of /etc/shells that restrict nothing will do.
func (a *Accounts) Usable(acct *Account, now time.Time) error {
	if err := a.shadow(acct, now); err != nil {
		return err
	}
	info, err := os.Stat(acct.Shell)
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("shell %.100s does not exist", acct.Shell)
	}
	if info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("shell %.100s is not executable", acct.Shell)
	}
	switch filepath.Base(acct.Shell) {
	case "nologin", "false", "rbash", "rksh", "rzsh", "git-shell", "scponly", "rssh":
		return fmt.Errorf("shell %.100s does not permit commands", acct.Shell)
	}
	listed, err := a.listedShell(acct.Shell)
	if err != nil {
		return err
	}
	if !listed {
		return fmt.Errorf("shell %.100s is not in /etc/shells", acct.Shell)
	}
	return nil
}

func (a *Accounts) listedShell(shell string) (bool, error) {
	in, err := os.Open(a.path("/etc/shells"))
	if errors.Is(err, os.ErrNotExist) {
		return shell == "/bin/sh" || shell == "/bin/csh", nil // getusershell(3)
	}
	if err != nil {
		return false, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxLine))
	for line := range strings.SplitSeq(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == shell {
			return true, err
		}
	}
	return false, err
}

// PasswordAge returns why PAM would make the account change its password
// before anything else, or nil. See pam_unix(8), shadow(5).
func (a *Accounts) PasswordAge(acct *Account, now time.Time) error {
	var verdict error
	err := a.scan("/etc/shadow", func(f []string) bool {
		if len(f) < 8 || f[0] != acct.Name {
			return true
		}
		changed, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil { // without a date it does not age
			return false
		}
		longest, err := strconv.ParseInt(f[4], 10, 64)
		today := now.Unix() / 86400
		if changed == 0 || err == nil && longest >= 0 && today-changed > longest {
			verdict = errors.New("password has expired and must be changed first")
		}
		return false
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return nil
	}
	return errors.Join(verdict, err)
}

// shadow checks for a locked password and for expiry. Who may not read the
// shadow file cannot become another user either, and is not asked.
func (a *Accounts) shadow(acct *Account, now time.Time) error {
	var verdict error
	err := a.scan("/etc/shadow", func(f []string) bool {
		if len(f) < 8 || f[0] != acct.Name {
			return true
		}
		// As sshd on Linux has it; * is no password but not a lock.
		if strings.HasPrefix(f[1], "!") {
			verdict = errors.New("account is locked")
		}
		if day, err := strconv.ParseInt(f[7], 10, 64); err == nil && day > 0 && now.Unix()/86400 > day {
			verdict = errors.New("account has expired")
		}
		return false
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return nil
	}
	return errors.Join(verdict, err)
}
