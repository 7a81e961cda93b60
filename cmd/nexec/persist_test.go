package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/dial"
	"github.com/SumiTomohiko/nexec/view"
)

func TestParsePersist(t *testing.T) {
	for v, want := range map[string]persistence{
		"": {true, true, 10 * time.Minute}, "yes": {true, true, 10 * time.Minute}, "no": {said: true},
		"0": {true, true, 0}, "90": {true, true, 90 * time.Second}, "10m": {true, true, 10 * time.Minute},
		"1h30m": {true, true, 90 * time.Minute}, "2D": {true, true, 48 * time.Hour}, "1w5": {true, true, 7*24*time.Hour + 5*time.Second},
	} {
		if got, err := parsePersist(v); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", v, got, err, want)
		}
	}
	for _, v := range []string{"m", "10x", "-5", "1h-5m", "maybe", "99999999999", "1 h"} {
		if got, err := parsePersist(v); err == nil {
			t.Errorf("%q was accepted: %+v", v, got)
		}
	}
}

// resolved is what ssh_config says with the given settings and no files.
func resolved(t *testing.T, settings ...string) *dial.Config {
	t.Helper()
	c, err := dial.Resolve(t.Context(), dial.Options{Destination: "u@h", ConfigFile: "none", Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSSHPersist(t *testing.T) {
	const path = "ControlPath=/tmp/x-%C"
	for _, c := range []struct {
		settings []string
		want     persistence
	}{
		{nil, persistence{}},
		{[]string{path, "ControlMaster=auto", "ControlPersist=10m"}, persistence{stay: true, idle: 10 * time.Minute}},
		{[]string{path, "ControlMaster=yes", "ControlPersist=yes"}, persistence{stay: true}},
		{[]string{path, "ControlMaster=auto", "ControlPersist=no"}, persistence{}},
		{[]string{path, "ControlMaster=auto"}, persistence{}},
		{[]string{path, "ControlPersist=10m"}, persistence{}},
		{[]string{"ControlPath=none", "ControlMaster=auto", "ControlPersist=10m"}, persistence{}},
	} {
		if got := sshPersist(resolved(t, c.settings...)); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.settings, got, c.want)
		}
	}
}

// What decides about the files that a command finds decides about its session,
// and what concerns one command does not.
func TestIdentity(t *testing.T) {
	home := t.TempDir()
	outside := t.TempDir() // in /tmp, if TMPDIR is
	t.Setenv("HOME", home)
	t.Chdir(home)
	base := func() *options { return &options{dest: destination{host: "h"}} }
	name := func(o *options, moves []view.Move, settings ...string) identity {
		t.Helper()
		vw, err := view.New(o.viewApps(), moves)
		if err != nil {
			t.Fatal(err)
		}
		id, err := o.identity(resolved(t, settings...), vw)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := name(base(), nil)
	for what, same := range map[string]identity{
		"the same":      name(base(), nil),
		"log level":     name(base(), nil, "LogLevel=DEBUG"),
		"terminal":      name(base(), nil, "RequestTTY=force", "SetEnv=A=1"),
		"ControlMaster": name(base(), nil, "ControlMaster=auto", "ControlPersist=1"),
		"environment":   name(&options{dest: destination{host: "h"}, env: []string{"A=1"}, stats: true, argv: []string{"x"}}, nil),
	} {
		if same != id {
			t.Errorf("%s makes another session", what)
		}
	}
	exports := base()
	exports.exports = []string{"/srv:ro"}
	only := base()
	only.exportOnly = true
	local := base()
	local.apps = "local"
	synced := base()
	synced.sync = true
	names := map[string]string{id.name: "the first"}
	for what, other := range map[string]identity{
		"exports": name(exports, nil), "export only": name(only, nil), "applications": name(local, nil), "sync": name(synced, nil),
		"a tree": name(base(), []view.Move{{Path: "/opt", Side: view.Local}}),
		"a key":  name(base(), nil, "IdentityFile=/k"), "a cipher": name(base(), nil, "Ciphers=aes256-ctr"),
	} {
		if names[other.name] != "" {
			t.Errorf("%s and %s make the same session", what, names[other.name])
		}
		names[other.name] = what
		if other.host != id.host {
			t.Errorf("%s makes another host", what)
		}
	}
	for what, other := range map[string]identity{"port": name(base(), nil, "Port=23"), "user": name(base(), nil, "User=v"), "host name": name(base(), nil, "HostName=g")} {
		if other.host == id.host {
			t.Errorf("%s makes no other host", what)
		}
	}
	t.Setenv("HOME", outside)
	if name(base(), nil) == id {
		t.Error("another home makes the same session")
	}
}

func TestExportedCwd(t *testing.T) {
	home := "/home/u"
	t.Setenv("HOME", home)
	dir, err := os.MkdirTemp("/var/tmp", "nexec-cwd-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	tmp, err := os.MkdirTemp("/tmp", "nexec-cwd-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	for _, c := range []struct {
		dir  string
		opts options
		want string
	}{
		{tmp, options{}, ""},
		{dir, options{}, dir},
		{dir, options{exportOnly: true}, ""},
		{dir, options{exports: []string{"/var:rw"}}, ""},
		{dir, options{exports: []string{dir + ":ro"}}, dir},
		{tmp, options{exports: []string{tmp + ":ro"}}, tmp},
		{tmp, options{exports: []string{filepath.Dir(tmp) + ":hide"}}, tmp},
		{"/", options{}, ""},
		{"/etc", options{}, "/etc"},
	} {
		t.Chdir(c.dir)
		if got, err := c.opts.exportedCwd(); err != nil || got != c.want {
			t.Errorf("%s with %q: %q, %v; want %q", c.dir, c.opts.exports, got, err, c.want)
		}
	}
}
