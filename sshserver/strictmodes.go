package sshserver

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkModes is StrictModes, as OpenSSH's safe_path does it on Debian: the
// file and every directory above it, up to home or the root, belong to root or
// to the account and may be written by nobody else. Write access for a group is
// let pass when the account is the group's only member.
func (a *Accounts) checkModes(file *os.File, name string, acct *Account) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fmt.Errorf("realpath %s failed: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", real)
	}
	if !a.secure(info, acct.UID) {
		return fmt.Errorf("bad ownership or modes for file %s", real)
	}
	home, err := filepath.EvalSymlinks(acct.Home)
	if err != nil {
		home = "" // then everything up to the root counts
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || !a.secure(info, acct.UID) {
			return fmt.Errorf("bad ownership or modes for directory %s", dir)
		}
		if dir == home || dir == "/" || dir == "." {
			return nil
		}
	}
}

func (a *Accounts) secure(info fs.FileInfo, uid uint32) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid != 0 && stat.Uid != uid || stat.Mode&0o002 != 0 {
		return false
	}
	return stat.Mode&0o020 == 0 || a.privateGroup(stat.Gid, uid)
}
