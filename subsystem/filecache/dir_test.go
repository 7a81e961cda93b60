package filecache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Directories that are not the user's alone are refused, and left as they are.
func TestOpenRefuses(t *testing.T) {
	elsewhere := t.TempDir()
	must(t, os.Chmod(elsewhere, 0o700))
	for name, tc := range map[string]struct {
		make func(path string) error
		want string
	}{
		"link to a directory": {func(p string) error { return os.Symlink(elsewhere, p) }, "symbolic link"},
		"link to itself":      {func(p string) error { return os.Symlink(p, p) }, "symbolic link"},
		"link to nothing":     {func(p string) error { return os.Symlink(elsewhere+"/x", p) }, "symbolic link"},
		"file":                {func(p string) error { return os.WriteFile(p, nil, 0o600) }, "not a directory"},
		"pipe":                {func(p string) error { return unix.Mkfifo(p, 0o600) }, "not a directory"},
		"group may read":      {func(p string) error { return mkdir(p, 0o740) }, "open to others"},
		"group may search":    {func(p string) error { return mkdir(p, 0o710) }, "open to others"},
		"world may write":     {func(p string) error { return mkdir(p, 0o702) }, "open to others"},
		"sticky and open":     {func(p string) error { return mkdir(p, 0o777|os.ModeSticky) }, "open to others"},
		"parent missing":      {func(string) error { return nil }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cache")
			if name == "parent missing" {
				path = filepath.Join(path, "cache")
			}
			must(t, tc.make(path))
			c, err := Open(path, Options{})
			if err == nil {
				c.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want %q and the path in it", err, tc.want)
			}
		})
	}
	if list, err := os.ReadDir(elsewhere); err != nil || len(list) != 0 {
		t.Errorf("written through a link: %v %v", list, err)
	}
}

func mkdir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return os.Chmod(path, mode) // past the umask
}

// Another user's directory is refused: as root one of uid 65534, else root's.
func TestOpenRefusesAnothers(t *testing.T) {
	dir := "/"
	if os.Geteuid() == 0 {
		dir = testDir(t)
		must(t, mkdir(dir, 0o700))
		must(t, os.Chown(dir, 65534, 65534))
	}
	if c, err := Open(dir, Options{}); err == nil {
		c.Close()
		t.Error("accepted")
	} else if !strings.Contains(err.Error(), "belongs to uid") {
		t.Error(err)
	}
}

func TestDefaultDir(t *testing.T) {
	home, xdg := t.TempDir(), t.TempDir()
	for _, tc := range []struct{ home, xdg, want string }{
		{home, "", home + "/.cache/nexec"},
		{home, "relative/path", home + "/.cache/nexec"},
		{home, xdg, xdg + "/nexec"},
		{"", xdg + "/deeper", xdg + "/deeper/nexec"},
	} {
		t.Setenv("HOME", tc.home)
		t.Setenv("XDG_CACHE_HOME", tc.xdg)
		dir, err := DefaultDir()
		if err != nil || dir != tc.want {
			t.Errorf("HOME=%q XDG_CACHE_HOME=%q: %q %v, want %q", tc.home, tc.xdg, dir, err, tc.want)
			continue
		}
		for _, d := range []string{dir, filepath.Dir(dir)} {
			if fi, err := os.Lstat(d); err != nil || d != xdg && fi.Mode() != os.ModeDir|0o700 {
				t.Errorf("%s: %v %v", d, fi.Mode(), err)
			}
		}
		if again, err := DefaultDir(); err != nil || again != dir {
			t.Errorf("a second time: %q %v", again, err)
		}
	}
	must(t, os.Chmod(xdg+"/nexec", 0o750))
	t.Setenv("XDG_CACHE_HOME", xdg)
	if dir, err := DefaultDir(); err == nil {
		t.Errorf("%s is open to the group and accepted", dir)
	}
	must(t, os.Remove(xdg+"/nexec"))
	must(t, os.Symlink(home, xdg+"/nexec"))
	if dir, err := DefaultDir(); err == nil {
		t.Errorf("%s is a link and accepted", dir)
	}
}

// HOME of another user, as after su: nothing is made there.
func TestDefaultDirInAnothersHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Setenv("HOME", "/proc/1") // root's, where nobody can make anything
		t.Setenv("XDG_CACHE_HOME", "")
		if dir, err := DefaultDir(); err == nil {
			t.Errorf("accepted %s", dir)
		}
		return
	}
	base := filepath.Join(t.TempDir(), "cache")
	must(t, mkdir(base, 0o700))
	must(t, os.Chown(base, 65534, 65534))
	t.Setenv("XDG_CACHE_HOME", base)
	if dir, err := DefaultDir(); err == nil {
		t.Errorf("accepted %s", dir)
	}
	if list, err := os.ReadDir(base); err != nil || len(list) != 0 {
		t.Errorf("made there: %v %v", list, err)
	}
}

// What somebody has planted under the name of a pack is neither read nor
// written, holds nothing up, and does not come in the way of storing.
func TestPlanted(t *testing.T) {
	const n, size = 3, 20
	good, name := onePack(t, n, size)
	target := filepath.Join(t.TempDir(), "target")
	must(t, os.WriteFile(target, good, 0o600))
	for what, plant := range map[string]func(path string) error{
		"link":      func(p string) error { return os.Symlink(target, p) },
		"pipe":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"open file": func(p string) error {
			must(t, os.WriteFile(p, good, 0o600))
			return os.Chmod(p, 0o606)
		},
		"empty file": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zeros":      func(p string) error { return os.WriteFile(p, make([]byte, len(good)), 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := testDir(t)
			must(t, os.Mkdir(dir, 0o700))
			path := filepath.Join(dir, name)
			must(t, plant(path))
			c := open(t, dir, Options{})
			if found := check(t, c, 0, n, size); found != 0 {
				t.Errorf("found %d in it", found)
			}
			closeCache(t, c)
			fill(t, dir, Options{}, 0, n, size)
			c = open(t, dir, Options{})
			if found := check(t, c, 0, n, size); found != n {
				t.Errorf("found %d of %d stored after", found, n)
			}
			if fi, err := os.Lstat(path); err == nil && !fi.IsDir() {
				t.Errorf("still there: %v", fi.Mode())
			}
		})
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != string(good) {
		t.Errorf("the link's target was touched: %v", err)
	}
}

// The same for what is planted after the directory was listed.
func TestOpenIn(t *testing.T) {
	dir := testDir(t)
	d, err := openDir(dir)
	must(t, err)
	defer d.Close()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("file"), []byte("content"), 0o600))
	must(t, os.Symlink("file", at("link")))
	must(t, unix.Mkfifo(at("pipe"), 0o600))
	must(t, mkdir(at("directory"), 0o700))
	must(t, os.WriteFile(at("open"), nil, 0o600))
	must(t, os.Chmod(at("open"), 0o640))
	for _, name := range []string{"link", "pipe", "directory", "open", "missing"} {
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY} {
			if f, _, err := openIn(d, name, flags); err == nil {
				f.Close()
				t.Errorf("%s is opened", name)
			}
		}
	}
	f, size, err := openIn(d, "file", unix.O_RDONLY)
	must(t, err)
	defer f.Close()
	if size != 7 {
		t.Errorf("size %d", size)
	}
	c := open(t, dir, Options{})
	for _, name := range []string{"link", "pipe", "open"} {
		must(t, os.Rename(at(name), at(packName(1, len(name)))))
	}
	if infos, _, err := c.list(); err != nil || len(infos) != 0 {
		t.Errorf("listed: %v %v", infos, err)
	}
}

// A directory put in place of the cache while it is open gets nothing.
func TestDirectoryReplaced(t *testing.T) {
	dir := testDir(t)
	c := open(t, dir, Options{})
	moved, other := dir+"-moved", t.TempDir()
	must(t, os.Rename(dir, moved))
	must(t, os.Symlink(other, dir))
	c.Put(testKey(1, 100), testContent(1, 100))
	closeCache(t, c)
	if list, err := os.ReadDir(other); err != nil || len(list) != 0 {
		t.Errorf("written through the link: %v %v", list, err)
	}
	if len(packsIn(t, moved)) != 1 {
		t.Error("not stored where the directory is now")
	}
}

// A file is only ever made, never opened, to be written.
func TestCreateFollowsNothing(t *testing.T) {
	dir, target := testDir(t), filepath.Join(t.TempDir(), "target")
	d, err := openDir(dir)
	must(t, err)
	defer d.Close()
	must(t, os.Symlink(target, filepath.Join(dir, "temp-x")))
	if f, err := createIn(d, "temp-x"); err == nil {
		f.Close()
		t.Error("made a file where a link is")
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("made the target of a link")
	}
}
