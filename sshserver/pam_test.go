package sshserver

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
)

// debianPAM is what Debian 12 installs, without its comments.
func debianPAM() map[string]string {
	return map[string]string{
		"/etc/pam.d/sshd": `# PAM configuration for the Secure Shell service
@include common-auth
account    required     pam_nologin.so
@include common-account
session [success=ok ignore=ignore module_unknown=ignore default=bad]        pam_selinux.so close
session    required     pam_loginuid.so
session    optional     pam_keyinit.so force revoke
@include common-session
session    optional     pam_motd.so  motd=/run/motd.dynamic
session    optional     pam_mail.so standard noenv # [1]
session    required     pam_limits.so
session    required     pam_env.so user_readenv=1 envfile=/etc/default/locale
@include common-password
`,
		"/etc/pam.d/common-auth":     "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\n",
		"/etc/pam.d/common-password": "password requisite pam_deny.so\n",
		"/etc/pam.d/common-account":  "account\t[success=1 new_authtok_reqd=done default=ignore]\tpam_unix.so \naccount\trequisite\tpam_deny.so\naccount required pam_permit.so\n",
		"/etc/pam.d/common-session":  "session\t[default=1]\tpam_permit.so\nsession requisite pam_deny.so\nsession required pam_permit.so\nsession optional pam_systemd.so\n",
		"/etc/security/limits.conf":  "# *  soft core 0\n\n",
	}
}

func TestCheckPAM(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]string // added to the end of a file; nothing: the file is removed
		want   string
	}{
		"stock":              {nil, ""},
		"access":             {map[string]string{"/etc/pam.d/sshd": "account required \\\n pam_access.so\n"}, "/etc/pam.d/sshd:14: account pam_access decides"},
		"by another path":    {map[string]string{"/etc/pam.d/common-account": "-account sufficient /lib/security/pam_ldap.so\n"}, "/etc/pam.d/common-account:4: account pam_ldap"},
		"included":           {map[string]string{"/etc/pam.d/sshd": "account include mine\n", "/etc/pam.d/mine": "session required pam_x.so\naccount required pam_time.so\n"}, "/etc/pam.d/mine:2: account pam_time"},
		"everybody":          {map[string]string{"/etc/pam.d/sshd": "account required pam_deny.so\n"}, "account pam_deny"},
		"unknown in session": {map[string]string{"/etc/pam.d/sshd": "session required pam_exec.so /x\n"}, "session pam_exec"},
		"auth is passwords":  {map[string]string{"/etc/pam.d/sshd": "auth required pam_faillock.so\n"}, ""},
		"limits":             {map[string]string{"/etc/security/limits.d/a.conf": "# x\n@users hard nproc 10\n"}, "a.conf:2: a limit"},
		"SELinux":            {map[string]string{"/sys/fs/selinux/enforce": "1"}, "session pam_selinux"},
		"no file":            {map[string]string{"/etc/pam.d/sshd": "", "/etc/pam.d/other": "@include common-account\n"}, ""},
		"no file at all":     {map[string]string{"/etc/pam.d/sshd": ""}, "no such file"},
		"a missing one":      {map[string]string{"/etc/pam.d/common-session": ""}, "no such file"},
		"endless":            {map[string]string{"/etc/pam.d/sshd": "@include sshd\n"}, "too deep"},
	} {
		files := debianPAM()
		for path, text := range c.change {
			if files[path] += text; text == "" {
				delete(files, path)
			}
		}
		root := t.TempDir()
		for path, text := range files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		err := CheckPAM(root)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestPasswordAge is what UsePAM asks for and nexecd does without PAM.
func TestPasswordAge(t *testing.T) {
	accounts := accountsIn(t, "a:x:1:1::/:/bin/sh\n", "", strings.Join([]string{
		"fresh:*:19000:0:99999:7:::", "old:*:100:0:90:7:::", "must:*:0:0:99999:7:::", "never:*::::::", "forever:*:100:0:::::", "disabled:*:100:0:-1::::",
	}, "\n")+"\n")
	now := time.Unix(20000*86400, 0)
	for name, usable := range map[string]bool{"fresh": true, "old": false, "must": false, "never": true, "forever": true, "disabled": true, "nobody": true} {
		if err := accounts.PasswordAge(&Account{Name: name}, now); (err == nil) != usable {
			t.Errorf("%s: %v", name, err)
		}
	}
	j := newJudge(t)
	j.accounts = accountsIn(t, "alice:x:"+strconv.Itoa(os.Geteuid())+":7001::/:/bin/sh\n", "", "alice:*:0:0:99999:7:::\n")
	for lines, in := range map[string]bool{"UsePAM no": true, "": true, "UsePAM yes": false} {
		if got := j.ask(lines, "alice", j.key.PublicKey()) != nil; got != in {
			t.Errorf("%q: %v\n%s", lines, got, j.log)
		}
	}
}

// TestStockConfig reads what Debian installs for sshd: it loads, and says
// in one line what it does not do.
func TestStockConfig(t *testing.T) {
	text, err := os.ReadFile("/usr/share/openssh/sshd_config")
	if err != nil {
		t.Fatal(err)
	}
	local := strings.Replace(string(text), "Include /etc/ssh/sshd_config.d/", "Include "+t.TempDir()+"/", 1)
	cfg, err := sshdconfig.Parse("sshd_config", []byte(local))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "UsePAM: PAM is not used") || !strings.HasPrefix(cfg.Warnings[0], "sshd_config:") {
		t.Errorf("warnings: %q", cfg.Warnings)
	}
}
