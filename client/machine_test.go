package client

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestMachineKey(t *testing.T) {
	state := filepath.Join(t.TempDir(), "not/there/yet")
	t.Setenv("XDG_STATE_HOME", state)
	var keys [8][32]byte
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = MachineKey(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] || k == [32]byte{} {
			t.Fatalf("keys %x", keys)
		}
	}
	entries, err := os.ReadDir(filepath.Join(state, "nexec"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("left: %v, %v", entries, err)
	}
	path := filepath.Join(state, "nexec", machineFile)
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 65 || bytes.Contains(text, keys[0][:]) {
		t.Errorf("%q, %v", text, err)
	}
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("HOME", t.TempDir())
	other, err := MachineKey()
	if err != nil || other == keys[0] {
		t.Errorf("another home: %x, %v", other, err)
	}
	if _, err := os.Stat(os.Getenv("HOME") + "/.local/state/nexec/machine"); err != nil {
		t.Error(err)
	}
}

// A secret that others may know, or that is none, is not used.
func TestMachineKeyRefused(t *testing.T) {
	good := []byte(strings.Repeat("0f", 32) + "\n")
	for name, make := range map[string]func(path string) error{
		"open to others": func(p string) error { return os.WriteFile(p, good, 0o640) },
		"cut":            func(p string) error { return os.WriteFile(p, good[:60], 0o600) },
		"empty":          func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"no digits":      func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), 64), 0o600) },
		"a link": func(p string) error {
			if err := os.WriteFile(p+".real", good, 0o600); err != nil {
				return err
			}
			return os.Symlink(p+".real", p)
		},
		"a directory": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		dir := t.TempDir()
		if err := make(filepath.Join(dir, machineFile)); err != nil {
			t.Fatal(err)
		}
		if got, err := machineSecret(dir); err == nil {
			t.Errorf("%s: %x", name, got)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, machineFile), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := machineSecret(dir); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{15}, 32)) {
		t.Errorf("%x, %v", got, err)
	}
}

// A home directory that is not there is not made: Debian's users that are no
// people have /nonexistent.
func TestNoHome(t *testing.T) {
	home := filepath.Join(t.TempDir(), "nonexistent")
	t.Setenv("HOME", home)
	t.Setenv("XDG_STATE_HOME", "")
	if key, err := MachineKey(); err == nil {
		t.Errorf("%x without a home directory", key)
	}
	if w := openWorksets(); w != nil {
		t.Errorf("working sets in %s", w.dir)
	}
	if _, err := os.Lstat(home); err == nil {
		t.Error("it was made")
	}
}
