package fslave

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func rule(path string, mode Mode) Rule {
	return Rule{Path: path, Mode: mode, Reason: "test", User: true}
}

func newPolicy(t *testing.T, root string, rules ...Rule) *Policy {
	t.Helper()
	p, err := NewPolicy(root, rules)
	must(t, err)
	return p
}

func TestParseRule(t *testing.T) {
	tests := []struct {
		in   string
		path string
		mode Mode
	}{
		{"/a/b", "/a/b", ModeReadWrite},
		{"/a/b:ro", "/a/b", ModeReadOnly},
		{"/a/../b/:hide", "/b", ModeHide},
		{"~", "/home/u", ModeReadWrite},
		{"~/.ssh:ro", "/home/u/.ssh", ModeReadOnly},
		{"sub:rw", "/work/dir/sub", ModeReadWrite},
		{"/a:b/c", "/a:b/c", ModeReadWrite},
		{"/a:b:rw", "/a:b", ModeReadWrite},
		{"/", "/", ModeReadWrite},
	}
	for _, tt := range tests {
		r, err := ParseRule(tt.in, "/home/u", "/work/dir")
		if err != nil || r.Path != tt.path || r.Mode != tt.mode || !r.User {
			t.Errorf("%q: %+v, %v", tt.in, r, err)
		}
	}
	for _, in := range []string{"", ":rw", "/a:write", "/a:", "a\x00b", "/a\x00:ro"} {
		if r, err := ParseRule(in, "/home/u", "/w"); !errors.Is(err, ErrRule) {
			t.Errorf("%q: %+v, %v", in, r, err)
		}
	}
	for _, in := range []string{"~", "sub"} {
		if _, err := ParseRule(in, "", ""); !errors.Is(err, ErrRule) {
			t.Errorf("%s of nowhere: %v", in, err)
		}
	}
}

func TestExplain(t *testing.T) {
	root := t.TempDir()
	d := Defaults{Home: "/home/u", Cwd: "/srv/work", UID: 1000}
	tests := []struct {
		name string
		d    Defaults
		user []Rule
		path string
		want Mode
	}{
		{"root", d, nil, "/", ModeReadOnly},
		{"elsewhere", d, nil, "/srv/data", ModeReadOnly},
		{"home", d, nil, "/home/u/file", ModeReadWrite},
		{"cwd", d, nil, "/srv/work/x", ModeReadWrite},
		{"tmp", d, nil, "/tmp/x", ModeReadWrite},
		{"secret", d, nil, "/home/u/.ssh", ModeHide},
		{"below a secret", d, nil, "/home/u/.ssh/id_ed25519", ModeHide},
		{"bytes, not letters", d, nil, "/home/u/.SSH/x", ModeReadWrite},
		{"a longer name", d, nil, "/home/u/.sshx", ModeReadWrite},
		{"run by the user", d, nil, "/home/u/.bashrc", ModeReadOnly},
		{"processes", d, nil, "/proc/self/environ", ModeHide},
		{"nexec's secret", d, nil, "/home/u/.local/state/nexec/machine", ModeHide},
		{"nexec's cache", d, nil, "/home/u/.cache/nexec/pack", ModeHide},
		{"nexec's own elsewhere", Defaults{Home: "/home/u", Own: []string{"/home/u/state/nexec"}}, nil, "/home/u/state/nexec/machine", ModeHide},
		{"beside nexec's own", Defaults{Home: "/home/u", Own: []string{"/home/u/state/nexec"}}, nil, "/home/u/state/x", ModeReadWrite},
		{"hashes", d, nil, "/etc/shadow", ModeHide},
		{"tickets", d, nil, "/tmp/krb5cc_1000", ModeHide},
		{"lent all the same", d, []Rule{rule("/home/u/.ssh", ModeReadOnly)}, "/home/u/.ssh/config", ModeReadOnly},
		{"a wide rule lends no secret", d, []Rule{rule("/", ModeReadWrite)}, "/home/u/.ssh/id", ModeHide},
		{"a wide rule is a rule", d, []Rule{rule("/", ModeReadWrite)}, "/opt/x", ModeReadWrite},
		{"narrowed", d, []Rule{rule("/home/u/doc", ModeReadOnly)}, "/home/u/doc/x", ModeReadOnly},
		{"longest wins", d, []Rule{rule("/srv", ModeHide), rule("/srv/pub/in", ModeReadWrite), rule("/srv/pub", ModeReadOnly)}, "/srv/pub/in/x", ModeReadWrite},
		{"hidden", d, []Rule{rule("/srv", ModeHide)}, "/srv/other", ModeHide},
		{"on the way", d, []Rule{rule("/srv", ModeHide)}, "/srv", ModeBare},
		{"last of two", d, []Rule{rule("/x", ModeReadOnly), rule("/x", ModeReadWrite)}, "/x", ModeReadWrite},
		{"cwd is the root", Defaults{Home: "/home/u", Cwd: "/"}, nil, "/opt", ModeReadOnly},
		{"home is the root", Defaults{Home: "/", Cwd: "/srv"}, nil, "/opt", ModeReadOnly},
		{"cwd in a secret", Defaults{Home: "/home/u", Cwd: "/home/u/.ssh/keys"}, nil, "/home/u/.ssh/keys/x", ModeHide},
		{"cwd in a guarded tree", Defaults{Home: "/home/u", Cwd: "/home/u/.config/systemd/user"}, nil, "/home/u/.config/systemd/user/x", ModeReadOnly},
		{"only: nothing", Defaults{Home: "/home/u", ExportOnly: true}, nil, "/home/u/x", ModeHide},
		{"only: the way", Defaults{Home: "/home/u", ExportOnly: true}, []Rule{rule("/home/u/p", ModeReadWrite)}, "/home/u", ModeBare},
		{"only: beside", Defaults{Home: "/home/u", ExportOnly: true}, []Rule{rule("/home/u/p", ModeReadWrite)}, "/home/u/q", ModeHide},
		{"only: there", Defaults{Home: "/home/u", ExportOnly: true}, []Rule{rule("/home/u/p", ModeReadWrite)}, "/home/u/p/q", ModeReadWrite},
		{"only: secrets stay", Defaults{Home: "/home/u", ExportOnly: true}, []Rule{rule("/home/u", ModeReadWrite)}, "/home/u/.gnupg", ModeHide},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPolicy(t, root, tt.d.Rules(tt.user)...)
			mode, r, reason := p.Explain(tt.path)
			if mode != tt.want || reason == "" || (r.Path != "/" && !strings.HasPrefix(tt.path+"/", r.Path+"/")) {
				t.Errorf("%s: %v by %v (%s), want %v", tt.path, mode, r, reason, tt.want)
			}
		})
	}
}

func TestBadRules(t *testing.T) {
	for _, r := range []Rule{{Path: "relative"}, {Path: "/a/"}, {Path: "/a/../b"}, {Path: "/a", Mode: ModeBare}, {Path: "/" + strings.Repeat("x", 5000)}} {
		if _, err := NewPolicy("/", []Rule{r}); !errors.Is(err, ErrRule) {
			t.Errorf("%.20s: %v", r, err)
		}
	}
}

// What a guarded path links to is guarded as well.
func TestRuleFollowsLink(t *testing.T) {
	root := t.TempDir()
	put(t, root, "home/dotfiles/bashrc", "echo hi")
	must(t, os.Symlink("dotfiles/bashrc", filepath.Join(root, "home/.bashrc")))
	c := dial(t, root, Config{}, rule("/home/.bashrc", ModeReadOnly))
	id := c.walk("home/dotfiles/bashrc")
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 99, Flags: fsyscall.OpenWriteOnly}, unix.EROFS)
	c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: c.walk("home/dotfiles"), Name: "bashrc"}, unix.EROFS)
}

// guardedTree is a home with a secret and a file the user runs.
func guardedTree(t *testing.T) (root string, rules []Rule) {
	root = t.TempDir()
	put(t, root, "home/.ssh/id", "secret key")
	put(t, root, "home/.ssh/deep/key", "deep secret")
	put(t, root, "home/.bashrc", "original")
	put(t, root, "home/.config/autostart/x", "run me")
	put(t, root, "home/doc", "mine")
	put(t, root, "ro/file", "look")
	return root, []Rule{
		rule("/home/.ssh", ModeHide), rule("/home/.bashrc", ModeReadOnly), rule("/home/.zshrc", ModeReadOnly),
		rule("/home/.config/autostart", ModeReadOnly), rule("/home/.config/secret", ModeHide), rule("/ro", ModeReadOnly),
	}
}

func TestHidden(t *testing.T) {
	each(t, func(t *testing.T, _ *client, _ string) {
		root, rules := guardedTree(t)
		c := dial(t, root, Config{}, rules...)
		home := c.walk("home")
		if got := c.names(home); slices.Contains(got, ".ssh") || !slices.Contains(got, ".bashrc") {
			t.Errorf("listed %q", got)
		}
		for path, want := range map[string]bool{"": true, "home": true, "home/.config": true, "home/doc": false, "home/.bashrc": false} {
			if a := c.attr(c.walk(path)); a.Flags&fsyscall.AttrRuled != 0 != want {
				t.Errorf("%q is marked as ruled about: %v, want %v", path, !want, want)
			}
		}
		for _, path := range []string{"home/.ssh", "home/.ssh/id", "home/.ssh/deep/key"} {
			if _, e := c.tryWalk(path); e != unix.ENOENT {
				t.Errorf("%s: %v", path, errString(e))
			}
			id := c.attach(path)
			c.do(fsyscall.OpGetAttr, &fsyscall.GetAttr{ID: id}, unix.ESTALE)
			c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 9}, unix.ESTALE)
			c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: id, Size: 10}, unix.ESTALE)
			c.do(fsyscall.OpList, &fsyscall.List{ID: id}, unix.ESTALE)
		}
		c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: home, Name: ".ssh", ID: 1000, Mode: 0o777}, unix.EACCES)
		c.do(fsyscall.OpCreate, &fsyscall.Create{Dir: c.attach("home/.ssh"), Name: "authorized_keys", ID: 1001, File: 9}, unix.ESTALE)
		c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: home, Name: ".ssh"}, unix.ENOENT)
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: ".ssh", NewDir: home, NewName: "x"}, unix.ENOENT)
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: "doc", NewDir: home, NewName: ".ssh"}, unix.EACCES)
		c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: "doc", NewDir: home, NewName: ".ssh", Flags: fsyscall.RenameExchange}, unix.EACCES)
	})
}

func TestReadOnly(t *testing.T) {
	root, rules := guardedTree(t)
	c := dial(t, root, Config{}, rules...)
	home, ro, file, rc := c.walk("home"), c.walk("ro"), c.walk("ro/file"), c.walk("home/.bashrc")
	doc := c.walk("home/doc")
	if got := c.read(c.open(rc, 0), 0, 100); got != "original" {
		t.Errorf("read %q", got)
	}
	if a := c.attr(rc); a.Flags&fsyscall.AttrReadOnly == 0 || a.Access&2 != 0 {
		t.Errorf("%+v", a)
	}
	for op, m := range map[fsyscall.Op]fsyscall.Message{
		fsyscall.OpSetAttr:     &fsyscall.SetAttr{ID: rc, Mask: fsyscall.SetMode, Mode: 0o777},
		fsyscall.OpSetXattr:    &fsyscall.SetXattr{ID: rc, Name: "user.a", Value: []byte("b")},
		fsyscall.OpRemoveXattr: &fsyscall.RemoveXattr{ID: rc, Name: "user.a"},
		fsyscall.OpUnlink:      &fsyscall.Unlink{Dir: home, Name: ".bashrc"},
		fsyscall.OpRmdir:       &fsyscall.Rmdir{Dir: ro, Name: "file"},
		fsyscall.OpMkdir:       &fsyscall.Mkdir{Dir: ro, Name: "new", ID: 900, Mode: 0o777},
		fsyscall.OpMknod:       &fsyscall.Mknod{Dir: ro, Name: "new", ID: 900, Mode: unix.S_IFIFO | 0o600},
		fsyscall.OpSymlink:     &fsyscall.Symlink{Dir: ro, Name: "new", ID: 900, Target: "x"},
		fsyscall.OpCreate:      &fsyscall.Create{Dir: home, Name: ".zshrc", ID: 900, File: 9, Mode: 0o644},
		fsyscall.OpTmpFile:     &fsyscall.TmpFile{Dir: ro, ID: 900, File: 9, Flags: fsyscall.OpenReadWrite},
		fsyscall.OpLink:        &fsyscall.Link{ID: file, Dir: home, Name: "hard"},
		fsyscall.OpOpen:        &fsyscall.Open{ID: file, File: 9, Flags: fsyscall.OpenReadWrite},
		fsyscall.OpRename:      &fsyscall.Rename{Dir: home, Name: "doc", NewDir: home, NewName: ".bashrc"},
	} {
		c.do(op, m, unix.EROFS)
	}
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: file, File: 9, Flags: fsyscall.OpenTruncate}, unix.EROFS)
	c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: ".bashrc", NewDir: home, NewName: "x"}, unix.EROFS)
	c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: "doc", NewDir: ro, NewName: "doc"}, unix.EROFS)
	c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: "doc", NewDir: home, NewName: ".bashrc", Flags: fsyscall.RenameExchange}, unix.EROFS)
	c.do(fsyscall.OpLink, &fsyscall.Link{ID: doc, Dir: ro, Name: "hard"}, unix.EROFS)
	c.do(fsyscall.OpAccess, &fsyscall.Access{ID: file, Mask: 2}, unix.EROFS)
	c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: ro, Name: "file", ID: 900, Mode: 0o777}, unix.EEXIST)
	// A file opened for reading changes nothing either.
	f := c.open(file, fsyscall.OpenReadOnly)
	c.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{File: f, Mask: fsyscall.SetMtimeNow}, unix.EROFS)
	c.do(fsyscall.OpWrite, &fsyscall.Write{File: f, Data: []byte("x")}, unix.EROFS)
	c.do(fsyscall.OpFallocate, &fsyscall.Fallocate{File: f, Len: 10}, unix.EROFS)
	got, err := os.ReadFile(filepath.Join(root, "home/.bashrc"))
	if err != nil || string(got) != "original" {
		t.Errorf("%q, %v", got, err)
	}
}

// The table's mutating operations are all refused below a read-only export:
// an operation added later is, too.
func TestEveryMutationIsGuarded(t *testing.T) {
	covered := []fsyscall.Op{
		fsyscall.OpSetAttr, fsyscall.OpCreate, fsyscall.OpTmpFile, fsyscall.OpMkdir, fsyscall.OpMknod,
		fsyscall.OpSymlink, fsyscall.OpLink, fsyscall.OpUnlink, fsyscall.OpRmdir, fsyscall.OpRename,
		fsyscall.OpWrite, fsyscall.OpFallocate, fsyscall.OpCopyRange, fsyscall.OpSetXattr, fsyscall.OpRemoveXattr,
	}
	for _, info := range fsyscall.Table {
		if info.To == fsyscall.ToClient && info.Mutates && !slices.Contains(covered, info.Op) {
			t.Errorf("%s is not tried by TestReadOnly", info.Name)
		}
	}
}

// What leads to a guarded path neither moves nor is replaced.
func TestAnchors(t *testing.T) {
	root, rules := guardedTree(t)
	c := dial(t, root, Config{}, append(rules, rule("/home/.local/bin", ModeReadOnly))...)
	home := c.walk("home")
	put(t, root, "home/evil/autostart/x", "evil")
	put(t, root, "home/evil2/f", "evil")
	doc := c.walk("home/doc")
	for _, m := range []fsyscall.Message{
		&fsyscall.Rename{Dir: home, Name: ".config", NewDir: home, NewName: "moved"},
		&fsyscall.Rename{Dir: home, Name: ".config", NewDir: home, NewName: "evil", Flags: fsyscall.RenameExchange},
		&fsyscall.Rename{Dir: home, Name: "evil", NewDir: home, NewName: ".config", Flags: fsyscall.RenameExchange},
		&fsyscall.Rename{Dir: home, Name: "evil2", NewDir: home, NewName: ".local"},
		&fsyscall.Rename{Dir: fsyscall.RootNode, Name: "home", NewDir: fsyscall.RootNode, NewName: "home2"},
	} {
		c.do(fsyscall.OpRename, m, unix.EPERM)
	}
	c.do(fsyscall.OpSymlink, &fsyscall.Symlink{Dir: home, Name: ".local", ID: 900, Target: "evil"}, unix.EPERM)
	c.do(fsyscall.OpLink, &fsyscall.Link{ID: doc, Dir: home, Name: ".local"}, unix.EPERM)
	c.do(fsyscall.OpMknod, &fsyscall.Mknod{Dir: home, Name: ".local", ID: 900, Mode: unix.S_IFREG}, unix.EPERM)
	c.do(fsyscall.OpCreate, &fsyscall.Create{Dir: home, Name: ".local", ID: 900, File: 9}, unix.EPERM)
	// A directory is what belongs there.
	c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: home, Name: ".local", ID: 901, Mode: 0o755}, 0)
	c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: 901, Name: "bin", ID: 902, Mode: 0o755}, unix.EROFS)
	c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: 901, Name: "share", ID: 903, Mode: 0o755}, 0)
	// What only lies beside is free.
	c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: home, Name: "evil", NewDir: home, NewName: "fine"}, 0)
}

// A guarded inode is guarded under every other name it has or gets.
func TestGuardedByIdentity(t *testing.T) {
	root, rules := guardedTree(t)
	must(t, os.Link(filepath.Join(root, "home/.bashrc"), filepath.Join(root, "home/hardrc")))
	must(t, os.Link(filepath.Join(root, "home/.ssh/deep/key"), filepath.Join(root, "home/hardkey")))
	c := dial(t, root, Config{}, rules...)
	home := c.walk("home")
	if _, e := c.tryWalk("home/hardkey"); e != unix.ENOENT {
		t.Errorf("a hard link to a secret: %v", errString(e))
	}
	if got := c.names(home); slices.Contains(got, "hardkey") {
		t.Errorf("listed %q", got)
	}
	id := c.walk("home/hardrc")
	c.do(fsyscall.OpOpen, &fsyscall.Open{ID: id, File: 9, Flags: fsyscall.OpenWriteOnly}, unix.EROFS)
	c.do(fsyscall.OpUnlink, &fsyscall.Unlink{Dir: home, Name: "hardrc"}, unix.EROFS)
	// Someone moves the secrets while the session runs.
	must(t, os.Rename(filepath.Join(root, "home/.ssh"), filepath.Join(root, "home/visible")))
	for _, path := range []string{"home/visible", "home/visible/id", "home/visible/deep/key"} {
		if _, e := c.tryWalk(path); e != unix.ENOENT {
			t.Errorf("%s: %v", path, errString(e))
		}
		c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: c.attach(path), Size: 10}, unix.ESTALE)
	}
	if got := c.names(home); slices.Contains(got, "visible") {
		t.Errorf("listed %q", got)
	}
	if c.s.Stats().LinkScanCut {
		t.Error("scan cut short")
	}
}

func TestExportOnly(t *testing.T) {
	root := t.TempDir()
	put(t, root, "home/u/proj/src/f", "content")
	put(t, root, "home/u/other", "private")
	put(t, root, "home/x/other", "private")
	put(t, root, "etc/passwd", "users")
	p := newPolicy(t, root, rule("/home/u/proj", ModeReadWrite), rule("/absent/dir", ModeReadOnly))
	c := dial(t, root, Config{Policy: p})
	if got := c.names(fsyscall.RootNode); !slices.Equal(got, []string{"home"}) {
		t.Errorf("root has %q", got)
	}
	u := c.walk("home/u")
	if got := c.names(u); !slices.Equal(got, []string{"proj"}) {
		t.Errorf("home has %q", got)
	}
	for _, path := range []string{"etc", "etc/passwd", "home/u/other", "home/x"} {
		if _, e := c.tryWalk(path); e != unix.ENOENT {
			t.Errorf("%s: %v", path, errString(e))
		}
		c.do(fsyscall.OpFetch, &fsyscall.Fetch{ID: c.attach(path), Size: 1}, unix.ESTALE)
	}
	c.do(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: u, Name: "new", ID: 900, Mode: 0o777}, unix.EACCES)
	c.do(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: u, Mask: fsyscall.SetMode, Mode: 0o777}, unix.EROFS)
	c.do(fsyscall.OpRename, &fsyscall.Rename{Dir: u, Name: "proj", NewDir: u, NewName: "p"}, unix.EROFS)
	f := c.open(c.walk("home/u/proj/src/f"), fsyscall.OpenReadWrite)
	c.write(f, 0, "C")
}

// A listing names what the rules are about, there or not, so that other names
// in the same directory can be changed without asking.
func TestRuledNames(t *testing.T) {
	root := t.TempDir()
	put(t, root, "home/plain", "")
	put(t, root, "home/secrets/key", "")
	c := dial(t, root, Config{Policy: newPolicy(t, root, rule("/", ModeReadWrite),
		rule("/home/secrets/key", ModeHide), rule("/home/absent", ModeReadOnly), rule("/home/open", ModeReadWrite))})
	list := func(path string) *fsyscall.ListReply {
		return c.do(fsyscall.OpList, &fsyscall.List{ID: c.walk(path)}, 0).(*fsyscall.ListReply)
	}
	for path, want := range map[string][]string{"home": {"absent", "secrets"}, "home/secrets": {"key"}, "": {"home"}} {
		if l := list(path); !slices.Equal(l.Ruled, want) || l.Self.Flags&fsyscall.AttrRuled == 0 {
			t.Errorf("%q: %q, flags %b", path, l.Ruled, l.Self.Flags)
		}
	}
	dir := c.walk("home")
	for name, want := range map[string]unix.Errno{"absent": unix.EROFS, "other": 0, "open": 0} {
		id := c.id()
		c.do(fsyscall.OpCreate, &fsyscall.Create{Dir: dir, Name: name, ID: id, File: fsyscall.FileID(id), Mode: 0o600}, want)
	}
}
