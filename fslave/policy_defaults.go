package fslave

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// guarded is a path that the default policy takes away, and why. Paths in the
// lists for a home are relative to it.
type guarded struct{ path, reason string }

// hiddenInHome are secrets: whoever reads them can act as the user elsewhere.
func hiddenInHome() []guarded {
	return []guarded{
		{".ssh", "private keys, and which keys may log in"},
		{".gnupg", "private keys"},
		{".aws", "cloud credentials"},
		{".azure", "cloud credentials"},
		{".config/gcloud", "cloud credentials"},
		{".boto", "cloud credentials"},
		{".s3cfg", "cloud credentials"},
		{".config/rclone", "cloud credentials"},
		{".config/doctl", "cloud credentials"},
		{".config/hcloud", "cloud credentials"},
		{".oci", "cloud credentials"},
		{".terraform.d", "cloud credentials"},
		{".vault-token", "token of a secrets store"},
		{".kube", "cluster credentials"},
		{".docker/config.json", "registry credentials"},
		{".config/containers/auth.json", "registry credentials"},
		{".netrc", "passwords"},
		{".pgpass", "passwords"},
		{".my.cnf", "passwords"},
		{".mylogin.cnf", "passwords"},
		{".fetchmailrc", "passwords"},
		{".msmtprc", "passwords"},
		{".config/msmtp", "passwords"},
		{".git-credentials", "passwords"},
		{".config/git/credentials", "passwords"},
		{".config/gh", "token of a code host"},
		{".config/glab-cli", "token of a code host"},
		{".config/hub", "token of a code host"},
		{".npmrc", "token of a package registry"},
		{".pypirc", "token of a package registry"},
		{".gem/credentials", "token of a package registry"},
		{".cargo/credentials", "token of a package registry"},
		{".cargo/credentials.toml", "token of a package registry"},
		{".m2/settings-security.xml", "password of a package registry"},
		{".password-store", "passwords"},
		{".local/share/keyrings", "keyring"},
		{".gnome2/keyrings", "keyring"},
		{".local/share/kwalletd", "keyring"},
		{".kde/share/apps/kwallet", "keyring"},
		{".config/keepassxc", "password manager"},
		{".config/Bitwarden", "password manager"},
		{".config/Bitwarden CLI", "password manager"},
		{".config/1Password", "password manager"},
		{".config/op", "password manager"},
		{".mozilla", "browser profile: passwords and cookies"},
		{".thunderbird", "mail profile: passwords"},
		{".config/google-chrome", "browser profile: passwords and cookies"},
		{".config/google-chrome-beta", "browser profile: passwords and cookies"},
		{".config/chromium", "browser profile: passwords and cookies"},
		{".config/BraveSoftware", "browser profile: passwords and cookies"},
		{".config/microsoft-edge", "browser profile: passwords and cookies"},
		{".config/vivaldi", "browser profile: passwords and cookies"},
		{".config/opera", "browser profile: passwords and cookies"},
		{".cache/mozilla", "what the browser showed"},
		{".cache/google-chrome", "what the browser showed"},
		{".cache/chromium", "what the browser showed"},
		{"snap/firefox", "browser profile: passwords and cookies"},
		{"snap/chromium", "browser profile: passwords and cookies"},
		{".var/app/org.mozilla.firefox", "browser profile: passwords and cookies"},
		{".var/app/com.google.Chrome", "browser profile: passwords and cookies"},
		{".config/Signal", "messages and their keys"},
		{".config/Slack", "session cookies"},
		{".config/discord", "session cookies"},
		{".pki", "private keys"},
		{".putty", "private keys"},
		{".config/sops", "private keys"},
		{".config/age", "private keys"},
		{".minisign", "private keys"},
		{".electrum", "wallet"},
		{".bitcoin", "wallet"},
		{".ethereum", "wallet"},
		{".Xauthority", "lets others draw on the display and read the keyboard"},
		{".ICEauthority", "lets others join the desktop session"},
		{".bash_history", "commands with passwords typed in them"},
		{".zsh_history", "commands with passwords typed in them"},
		{".local/share/fish/fish_history", "commands with passwords typed in them"},
		{".python_history", "commands with passwords typed in them"},
		{".psql_history", "commands with passwords typed in them"},
		{".mysql_history", "commands with passwords typed in them"},
		{".config/nexec", "the rules themselves"},
		{".local/state/nexec", "what this machine is known by in servers' caches"},
		{".cache/nexec", "what sessions that came to this machine have read"},
	}
}

// readOnlyInHome are files that the user's own shell, session or everyday
// programs run or take commands from: whoever writes them runs code as the
// user on this machine.
func readOnlyInHome() []guarded {
	return []guarded{
		{".bashrc", "run by each bash"},
		{".bash_profile", "run at login"},
		{".bash_login", "run at login"},
		{".bash_logout", "run at logout"},
		{".bash_aliases", "run by each bash"},
		{".bash_completion", "run by each bash"},
		{".bashrc.d", "run by each bash"},
		{".profile", "run at login"},
		{".inputrc", "binds keys to shell commands"},
		{".zshrc", "run by each zsh"},
		{".zshenv", "run by each zsh"},
		{".zprofile", "run at login"},
		{".zlogin", "run at login"},
		{".zlogout", "run at logout"},
		{".oh-my-zsh", "run by each zsh"},
		{".config/zsh", "run by each zsh"},
		{".config/bash", "run by each bash"},
		{".kshrc", "run by each ksh"},
		{".mkshrc", "run by each mksh"},
		{".shrc", "run by each sh"},
		{".cshrc", "run by each csh"},
		{".tcshrc", "run by each tcsh"},
		{".login", "run at login"},
		{".logout", "run at logout"},
		{".config/fish", "run by each fish"},
		{".local/share/fish/vendor_conf.d", "run by each fish"},
		{".config/nushell", "run by each nu"},
		{".config/elvish", "run by each elvish"},
		{".config/powershell", "run by each pwsh"},
		{".config/direnv", "run on entering a directory"},
		{".local/share/direnv", "says which directories may run code"},
		{".envrc", "run on entering the home directory"},
		{".config/autostart", "run when the desktop session starts"},
		{".config/autostart-scripts", "run when the desktop session starts"},
		{".config/plasma-workspace", "run when the desktop session starts"},
		{".config/systemd", "services of the user"},
		{".local/share/systemd", "services of the user"},
		{".config/environment.d", "environment of every service and session"},
		{".local/share/dbus-1", "services started on demand"},
		{".local/share/applications", "what the desktop starts for an icon or a file type"},
		{".config/mimeapps.list", "which program opens a file type"},
		{".xsession", "run when the session starts"},
		{".xsessionrc", "run when the session starts"},
		{".xinitrc", "run when the session starts"},
		{".xprofile", "run when the session starts"},
		{".Xclients", "run when the session starts"},
		{".xserverrc", "run when the session starts"},
		{".config/sway", "run when the session starts"},
		{".config/i3", "run when the session starts"},
		{".i3", "run when the session starts"},
		{".config/hypr", "run when the session starts"},
		{".config/awesome", "run when the session starts"},
		{".config/bspwm", "run when the session starts"},
		{".config/openbox", "run when the session starts"},
		{".fluxbox", "run when the session starts"},
		{".xmonad", "run when the session starts"},
		{".config/gtk-3.0", "loads modules into programs"},
		{".config/pam-gnupg", "read at login"},
		{".pam_environment", "environment of the session"},
		{".login_conf", "environment of the session"},
		{".forward", "runs commands for incoming mail"},
		{".procmailrc", "runs commands for incoming mail"},
		{".mailcap", "runs commands for kinds of files"},
		{".rhosts", "says who may log in"},
		{".shosts", "says who may log in"},
		{".k5login", "says who may log in"},
		{".k5users", "says who may log in"},
		{".tmux.conf", "runs commands"},
		{".config/tmux", "runs commands"},
		{".screenrc", "runs commands"},
		{".vimrc", "run by each vim"},
		{".gvimrc", "run by each gvim"},
		{".exrc", "run by each vi"},
		{".vim", "run by each vim"},
		{".config/nvim", "run by each nvim"},
		{".emacs", "run by each emacs"},
		{".emacs.d", "run by each emacs"},
		{".config/emacs", "run by each emacs"},
		{".nanorc", "runs commands"},
		{".lesskey", "environment of the pager"},
		{".lessfilter", "run by the pager"},
		{".gdbinit", "run by each gdb"},
		{".config/gdb", "run by each gdb"},
		{".lldbinit", "run by each lldb"},
		{".gitconfig", "names commands that git runs"},
		{".config/git", "names commands that git runs"},
		{".hgrc", "names commands that hg runs"},
		{".config/hg", "names commands that hg runs"},
		{".pythonrc", "run by each python"},
		{".pythonstartup", "run by each python"},
		{".perldb", "run by perl's debugger"},
		{".irbrc", "run by each irb"},
		{".config/pip", "says where packages come from"},
		{".config/Code/User", "tasks and settings that run commands"},
		{".vscode", "extensions"},
		{".local/bin", "programs that the user runs by name"},
		{"bin", "programs that the user runs by name"},
		{".config/mpv", "scripts run by the player"},
		{".config/ranger", "commands run by the file manager"},
		{".wgetrc", "can send requests through another host"},
		{".curlrc", "can send requests through another host"},
	}
}

// hiddenInSystem are secrets outside any home, and trees that are no files.
func hiddenInSystem() []guarded {
	return []guarded{
		{"/proc", "processes of the client: their memory and environment"},
		{"/sys", "settings of the client's kernel"},
		{"/dev", "devices of the client"},
		{"/run", "sockets and keys of running services"},
		{"/var/run", "sockets and keys of running services"},
		{"/etc/shadow", "password hashes"},
		{"/etc/shadow-", "password hashes"},
		{"/etc/gshadow", "password hashes"},
		{"/etc/gshadow-", "password hashes"},
		{"/etc/security/opasswd", "password hashes"},
		{"/etc/ssh/ssh_host_rsa_key", "this machine's identity"},
		{"/etc/ssh/ssh_host_ecdsa_key", "this machine's identity"},
		{"/etc/ssh/ssh_host_ed25519_key", "this machine's identity"},
		{"/etc/ssh/ssh_host_dsa_key", "this machine's identity"},
		{"/etc/ssl/private", "private keys"},
		{"/etc/pki/tls/private", "private keys"},
		{"/etc/letsencrypt", "private keys"},
		{"/etc/krb5.keytab", "this machine's identity"},
		{"/etc/wireguard", "private keys"},
		{"/etc/openvpn", "private keys"},
		{"/etc/ipsec.secrets", "private keys"},
		{"/etc/NetworkManager/system-connections", "network passwords"},
		{"/etc/netplan", "network passwords"},
		{"/etc/wpa_supplicant", "network passwords"},
		{"/var/lib/NetworkManager", "network passwords"},
		{"/var/lib/iwd", "network passwords"},
		{"/var/lib/bluetooth", "pairing keys"},
		{"/var/lib/sss", "passwords and tickets"},
		{"/var/lib/kubelet", "cluster credentials"},
		{"/etc/kubernetes", "cluster credentials"},
		{"/etc/rancher", "cluster credentials"},
		{"/var/lib/docker", "data of containers"},
		{"/var/lib/containers", "data of containers"},
		{"/var/spool/cron", "commands run by the system"},
	}
}

// readOnlyInSystem matters when root runs nexec, or when a tree that holds
// one of these is the working directory.
func readOnlyInSystem() []guarded {
	return []guarded{
		{"/etc/ld.so.preload", "loaded into every program"},
		{"/etc/crontab", "commands run by the system"},
		{"/etc/cron.d", "commands run by the system"},
		{"/etc/sudoers", "says who may become root"},
		{"/etc/sudoers.d", "says who may become root"},
	}
}

// Defaults says what the default rules are made from. Home and Cwd are
// absolute and clean; an empty one is left out. Own are directories of nexec's
// own that are elsewhere than usual, hidden as those are. UID names the user's
// files in /tmp.
type Defaults struct {
	Home, Cwd string
	Own       []string
	UID       int
	// ExportOnly leaves out everything that the defaults would grant. What
	// they take away stays.
	ExportOnly bool
}

// Rules returns the default rules, followed by the user's.
func (d Defaults) Rules(user []Rule) []Rule {
	guards := d.guards()
	var out []Rule
	if !d.ExportOnly {
		out = append(out, Rule{Path: "/", Mode: ModeReadOnly, Reason: "everything else is read-only"})
		for _, g := range []guarded{{d.Home, "home directory"}, {d.Cwd, "working directory"}, {"/tmp", "temporary files"}} {
			if grantable(g.path, guards) {
				out = append(out, Rule{Path: g.path, Mode: ModeReadWrite, Reason: g.reason})
			}
		}
	}
	return slices.Concat(out, guards, user)
}

// grantable refuses to lend the whole machine because a directory that the
// user happens to be in is "/", and to open what the defaults guard because
// the user happens to be inside of it.
func grantable(path string, guards []Rule) bool {
	if path == "" || path == "/" {
		return false
	}
	return !slices.ContainsFunc(guards, func(g Rule) bool {
		return path == g.Path || strings.HasPrefix(path, g.Path+"/")
	})
}

func (d Defaults) guards() []Rule {
	var out []Rule
	add := func(base string, list []guarded, mode Mode, why string) {
		for _, g := range list {
			out = append(out, Rule{Path: filepath.Join(base, g.path), Mode: mode, Reason: why + ": " + g.reason})
		}
	}
	if d.Home != "" {
		add(d.Home, hiddenInHome(), ModeHide, "secret")
		add(d.Home, readOnlyInHome(), ModeReadOnly, "run by the user")
	}
	for _, dir := range d.Own {
		add(dir, []guarded{{"", "nexec's own"}}, ModeHide, "secret")
	}
	add("/", hiddenInSystem(), ModeHide, "secret")
	add("/", readOnlyInSystem(), ModeReadOnly, "run by the system")
	add("/", []guarded{{fmt.Sprintf("tmp/krb5cc_%d", d.UID), "tickets"}}, ModeHide, "secret")
	return out
}
