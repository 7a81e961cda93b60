package client

import (
	"path"
	"slices"
	"strings"
)

// leftOut are the patterns of the environment variables that a command does
// not get, because their values speak of this machine's services or are the
// server's to set. The manual page lists them. -e NAME adds one back.
var leftOut = [...]string{
	// This login's connection and agents: their sockets are not there.
	"SSH_*", "GPG_AGENT_INFO", "GPG_TTY", "GNOME_KEYRING_*", "KRB5CCNAME",
	// What the dynamic loader would load: this machine's libraries.
	"LD_*", "GLIBC_TUNABLES",
	// Displays, buses and sessions that are reached through sockets here.
	"DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY", "WINDOWID",
	"SESSION_MANAGER", "DBUS_*", "AT_SPI_BUS_ADDRESS", "PULSE_*", "PIPEWIRE_*",
	"XDG_RUNTIME_DIR", "XDG_SESSION_*", "XDG_SEAT", "XDG_SEAT_PATH", "XDG_VTNR",
	"TMUX", "TMUX_PANE", "STY", "DOCKER_HOST",
	// A service manager's dealings with nexec itself.
	"INVOCATION_ID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
	"NOTIFY_SOCKET", "MANAGERPID", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC",
	"CREDENTIALS_DIRECTORY",
	// The shell that ran nexec.
	"_", "SHLVL",
}

// serversOwn are left out unless applications come from this machine: what
// they name would be looked for among the server's.
var serversOwn = [...]string{"PATH", "MANPATH", "INFOPATH"}

// EnvRules says which variables go with a command.
type EnvRules struct {
	// AppsLocal: applications are this machine's, and so is PATH.
	AppsLocal bool
	// Keep has patterns (* and ?) of names that go although they would be
	// left out.
	Keep []string
	// Set has NAME=VALUE; the last one of a name counts.
	Set []string
}

// Environment returns the command's environment, made from environ.
func (r EnvRules) Environment(environ []string) []string {
	var env []string
	for _, kv := range environ {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || r.drops(name) {
			continue
		}
		env = append(env, kv)
	}
	for _, kv := range r.Set {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" {
			continue
		}
		env = slices.DeleteFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		env = append(env, kv)
	}
	return env
}

func (r EnvRules) drops(name string) bool {
	if matchAny(r.Keep, name) {
		return false
	}
	return matchAny(leftOut[:], name) || !r.AppsLocal && matchAny(serversOwn[:], name)
}

func matchAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		// A name holds no slash, so path.Match's stars match all of it.
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}
