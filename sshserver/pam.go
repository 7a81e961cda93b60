package sshserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// pamService is whose rules sshd goes by; fallbackService has those of services
// without any.
const (
	pamService      = "sshd"
	fallbackService = "other"
	maxPAMDepth     = 16
	maxPAMFile      = 1 << 20
)

// harmlessModules keep nobody out and limit nothing that nexecd would not, by
// what they are asked for. What is not here might.
func harmlessModules() map[string][]string {
	return map[string][]string{
		"account": {
			"pam_permit", "pam_localuser", "pam_warn", "pam_usertype",
			"pam_unix", "pam_nologin", "pam_shells", // nexecd does these itself
		},
		"session": {
			"pam_permit", "pam_unix", "pam_loginuid", "pam_keyinit", "pam_motd", "pam_mail", "pam_env", "pam_umask",
			"pam_systemd", "pam_lastlog", "pam_lastlog2", "pam_mkhomedir", "pam_xauth", "pam_ck_connector", "pam_warn",
			"pam_gnome_keyring",
		},
	}
}

// CheckPAM looks at how PAM is set up below root for sshd, which is what an
// sshd_config with UsePAM yes was written for. It returns nil when passing that
// over lets nobody in, and gives nobody more, who would be kept from it, and
// else an error with the file, the line and the module that would do so.
func CheckPAM(root string) error {
	p := pamCheck{root: root}
	if _, err := os.Stat(filepath.Join(root, "/etc/pam.d", pamService)); errors.Is(err, os.ErrNotExist) {
		return p.service(fallbackService, "", 0)
	}
	return p.service(pamService, "", 0)
}

type pamCheck struct{ root string }

// service goes through a file of /etc/pam.d; only limits it to one type of
// rules, empty for all.
func (p *pamCheck) service(name, only string, depth int) error {
	if depth > maxPAMDepth {
		return fmt.Errorf("/etc/pam.d/%s: included too deep", name)
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join("/etc/pam.d", name)
	}
	info, err := os.Stat(filepath.Join(p.root, path))
	if err == nil && (info.Size() > maxPAMFile || !info.Mode().IsRegular()) {
		err = fmt.Errorf("%s: not a file of at most %d bytes", path, maxPAMFile)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(filepath.Join(p.root, path))
	}
	if err != nil {
		return fmt.Errorf("PAM's rules: %w", err)
	}
	joined := strings.ReplaceAll(string(text), "\\\n", " \x00") // a rule may go on; its number is its first line's
	n, jumps := 0, false
	for line := range strings.SplitSeq(joined, "\n") {
		n++
		where := fmt.Sprintf("%s:%d", path, n)
		n += strings.Count(line, "\x00")
		line, _, _ = strings.Cut(strings.ReplaceAll(line, "\x00", ""), "#")
		if err := p.rule(where, line, only, depth, &jumps); err != nil {
			return err
		}
	}
	return nil
}

// rule judges one line. jumps says whether the rule before can skip this one,
// as in Debian's files before a pam_deny that is reached by failure only.
func (p *pamCheck) rule(where, line, only string, depth int, jumps *bool) error {
	kind, rest := pamWord(line)
	kind = strings.ToLower(strings.TrimPrefix(kind, "-"))
	if kind == "" {
		return nil
	}
	if kind == "@include" {
		name, _ := pamWord(rest)
		return p.service(name, only, depth+1)
	}
	if kind != "account" && kind != "session" || only != "" && kind != only {
		return nil // auth and password concern passwords, which there are none of
	}
	control, rest := pamWord(rest)
	module, _ := pamWord(rest)
	skippable := *jumps
	*jumps = strings.HasPrefix(control, "[") && (strings.Contains(control, "success=1") || strings.Contains(control, "default=1"))
	if control == "include" || control == "substack" {
		return p.service(module, kind, depth+1)
	}
	module = strings.TrimSuffix(filepath.Base(module), ".so")
	switch {
	case module == "pam_deny" && skippable, slices.Contains(harmlessModules()[kind], module):
		return nil
	case module == "pam_limits" && kind == "session":
		return p.limits(where)
	case module == "pam_selinux" && kind == "session":
		if _, err := os.Stat(filepath.Join(p.root, "/sys/fs/selinux/enforce")); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("%s: %s %s decides about logins, and nexecd does not use PAM", where, kind, printable(module))
}

// pamWord cuts off the first word; brackets keep words together.
func pamWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	end := strings.IndexAny(s, " \t")
	if strings.HasPrefix(s, "[") {
		if end = strings.IndexByte(s, ']') + 1; end == 0 {
			end = -1
		}
	}
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

// limits is pam_limits: nothing, as long as no limit is set.
func (p *pamCheck) limits(where string) error {
	files, err := filepath.Glob(filepath.Join(p.root, "/etc/security/limits.d/*.conf"))
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	for _, f := range append(files, filepath.Join(p.root, "/etc/security/limits.conf")) {
		text, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: pam_limits: %w", where, err)
		}
		for n, line := range strings.Split(string(text), "\n") {
			line, _, _ = strings.Cut(line, "#")
			if strings.TrimSpace(line) != "" {
				return fmt.Errorf("%s:%d: a limit that sessions would have by pam_limits, and nexecd does not use PAM", f, n+1)
			}
		}
	}
	return nil
}
