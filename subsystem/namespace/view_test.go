package namespace

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func TestViewIsPrivate(t *testing.T) {
	s := start(t, rules())
	for _, n := range s.notes {
		t.Errorf("note: %s", n)
	}
	for script, want := range map[string]string{
		"echo $$ is not 1; readlink /proc/self/ns/pid >/dev/null; tr '\\0' ' ' </proc/1/cmdline": "is not 1\nnexec: session ",
		"ls /dev/shm; echo x >/dev/shm/y && ls /dev/shm":                                         "y",
		"ls /dev/pts":                                   "ptmx",
		"stat -c %a /dev/pts/ptmx /dev/ptmx":            "666\n666",
		"ls / | grep -c .":                              "14", // what makeClient made
		"touch /tmp/t && ls -A /tmp":                    "t",
		"head -c3 /dev/zero | wc -c":                    "3",
		"echo lost >/dev/null; stat -c %t:%T /dev/null": "1:3",
	} {
		if got := s.sh(script); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if got := s.sh("script -qec tty /dev/null </dev/null"); strings.TrimSpace(got) != "/dev/pts/0" {
		t.Errorf("a terminal made in the session: %q", got)
	}
	if got := s.sh(`for p in /proc/[0-9]*; do echo ${p#/proc/}; done`); strings.Count(got, "\n") > 3 {
		t.Errorf("processes seen: %q", got)
	}
}

func TestAccounts(t *testing.T) {
	s := start(t, rules())
	got := s.sh("getent passwd $(id -u) | cut -d: -f3,4,6; id -gn >/dev/null && echo named; getent passwd daemon | cut -d: -f1; stat -c %a /etc/passwd")
	if want := fmt.Sprintf("%d:%d:/home/u\nnamed\ndaemon\n644", os.Geteuid(), os.Getegid()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPrivilege(t *testing.T) {
	s := start(t, rules())
	got := s.sh("grep -E '^(Cap|NoNewPrivs|Uid|Groups)' /proc/self/status")
	t.Log(got)
	if os.Geteuid() == 0 {
		if !strings.Contains(got, "NoNewPrivs:\t0") || strings.Contains(got, "CapEff:\t0000000000000000") {
			t.Errorf("root's session has lost privilege: %s", got)
		}
		return
	}
	for _, want := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", fmt.Sprintf("Uid:\t%d", os.Geteuid())} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
	if got := s.sh("umount /usr 2>&1; mount -t tmpfs x /tmp 2>&1; ls -d /usr/bin; su -c id </dev/null >/dev/null 2>&1 || echo no su"); !strings.HasSuffix(got, "/usr/bin\nno su") {
		t.Errorf("%q", got)
	}
	if os.Getenv(userEnv) != "" {
		if got := s.sh("cat /proc/self/status | grep ^Groups"); !strings.Contains(got, "65534") {
			t.Errorf("supplementary groups: %q", got) // kept, shown as unmapped
		}
	}
}

// An init that a command signals goes on.
func TestInitIsNotKilledFromInside(t *testing.T) {
	s := start(t, rules())
	s.sh("for sig in HUP INT QUIT TERM USR1 USR2 ALRM TSTP PIPE ABRT KILL STOP; do kill -$sig 1 2>/dev/null; done; true")
	if got := s.sh("echo alive"); got != "alive" {
		t.Errorf("%q", got)
	}
}

// localTree makes a tree of the client at p.
func localTree(t *testing.T, client, p string) {
	t.Helper()
	if err := os.MkdirAll(client+p, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(client+p+"/mine", []byte("client\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLocalBelowRemote(t *testing.T) {
	plan, err := NewPlan(rules("/usr/share/nexec-test/tool", "/usr/bin", "/usr/lib/nexec-missing", "/etc/hostname", "/usr/share/doc", "/usr/share/nexec-test/other"))
	if err != nil {
		t.Fatal(err)
	}
	client := makeClient(t, plan)
	localTree(t, client, "/usr/share/nexec-test/tool")
	localTree(t, client, "/usr/share/nexec-test/other")
	localTree(t, client, "/usr/bin")
	if err := os.MkdirAll(client+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(client+"/etc/hostname", []byte("the-client\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startIn(t, plan, client)
	for script, want := range map[string]string{
		"cat /usr/share/nexec-test/tool/mine /usr/share/nexec-test/other/mine": "client\nclient",
		"ls /usr/share/nexec-test":                            "other\ntool",
		"cat /usr/bin/mine; [ -e /usr/bin/env ] || echo gone": "client\ngone",
		"cat /etc/hostname; [ -s /etc/passwd ] && echo there": "the-client\nthere",
		"[ -e /usr/share/doc ] || echo hidden":                "hidden", // the client has none
		"[ -d /usr/share/terminfo ] || [ -d /usr/share/perl5 ] || [ -d /usr/share/bash-completion ] && echo rest": "rest",
		"[ -d /usr/lib/nexec-missing ] || echo missing":                                                           "missing",
		"echo new >/usr/share/nexec-test/tool/new && cat /usr/share/nexec-test/tool/new":                          "new",
	} {
		if got := s.sh(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	out, end := s.output(request("/bin/sh", "-c", "echo x 2>&1 >/usr/share/nexec-test/lost"))
	if end.Code == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("writing into a rebuilt directory: %q, %+v", out, end)
	}
}

func TestRemoteBelowLocal(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("server\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := append(rules(), fsyscall.ViewRule{Path: dir, Remote: true}, fsyscall.ViewRule{Path: "/no/such/tree", Remote: true},
		fsyscall.ViewRule{Path: "/home/u/hosts", Remote: true})
	s := start(t, r)
	if got := s.sh("cat " + dir + "/file; ls " + dir + "; [ -e /no/such/tree ] || echo missing"); got != "server\nfile\nmissing" {
		t.Errorf("%q", got)
	}
}

// The server's links are links in the view, where they lead to the same.
func TestLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/usr/bin", "/usr/lib", "/mine", "/dirs"} {
		if err := os.MkdirAll(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"bin": "usr/bin", "lib": dir + "/usr/lib", "sbin": "bin", "out": "mine", "over": "usr", "gone": "nowhere", "usr/bin2": "bin"} {
		if err := os.Symlink(text, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	r := []fsyscall.ViewRule{{Path: "/"}}
	for _, p := range []string{"/usr", "/bin", "/lib", "/sbin", "/out", "/over", "/gone", "/dirs"} {
		r = append(r, fsyscall.ViewRule{Path: dir + p, Remote: true})
	}
	r = append(r, fsyscall.ViewRule{Path: dir + "/over/lib"})
	plan, err := NewPlan(r)
	if err != nil {
		t.Fatal(err)
	}
	links := plan.Links()
	if len(links) != 3 || links[dir+"/bin"] != "usr/bin" || links[dir+"/lib"] != dir+"/usr/lib" || links[dir+"/sbin"] != "bin" {
		t.Errorf("links %q", links)
	}
	mounts := plan.Mountpoints()
	for p, want := range map[string]bool{"/usr": true, "/dirs": true, "/out": true, "/bin": false, "/lib": false, "/gone": false} {
		if _, got := mounts[dir+p]; got != want {
			t.Errorf("%s is mounted: %v, want %v", p, got, want)
		}
	}
	// A tree of the client at the other end: the link would lead there.
	plan, err = NewPlan(append(r, fsyscall.ViewRule{Path: dir + "/usr/bin"}))
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := plan.Links()[dir+"/bin"]; ok {
		t.Errorf("bin is a link to %s, which is the client's", text)
	}
}

// A client's symbolic link on the way to a mount point is not followed.
func TestMountPointBehindSymlink(t *testing.T) {
	plan, err := NewPlan(append(rules(), fsyscall.ViewRule{Path: "/home/link/usr", Remote: true}))
	if err != nil {
		t.Fatal(err)
	}
	// The server has no such directory: an empty one is mounted.
	plan.Trees = append(plan.Trees, Tree{Path: "/home/link/usr", Remote: true, Dir: true, Missing: true})
	client := makeClient(t, plan)
	if err := os.RemoveAll(client + "/home/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", client+"/home/link"); err != nil {
		t.Fatal(err)
	}
	f := startFailing(t, plan, client)
	if f.Code != fsyscall.FatalView || f.Path != "/home/link/usr" || f.Errno != 40 {
		t.Errorf("%+v", f)
	}
}

func TestPlan(t *testing.T) {
	p, err := NewPlan([]fsyscall.ViewRule{
		{Path: "/usr", Remote: true}, {Path: "/"}, {Path: "/usr/local"}, {Path: "/usr/local/lib", Remote: true},
		{Path: "/usr/share", Remote: true}, {Path: "/usr-not-there", Remote: true}, {Path: "/proc", Remote: true},
		{Path: "/nowhere", Remote: true}, {Path: "/nowhere/x"}, {Path: "/etc/passwd", Remote: true}, {Path: "/home"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, tr := range p.Trees {
		got = append(got, fmt.Sprintf("%s %v %v %v", tr.Path, tr.Remote, tr.Dir, tr.Missing))
	}
	want := []string{"/etc/passwd true false false", "/nowhere true true true", "/nowhere/x false false false",
		"/usr true true false", "/usr/local false false false", "/usr/local/lib true true false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	m := p.Mountpoints()
	if _, file := m["/etc/passwd"]; len(m) != 5 || !m["/usr/.nexec-mounts"] || !file || m["/etc/passwd"] || !m["/nowhere/.nexec-mounts"] ||
		!m["/usr/local/lib"] || !m["/proc"] {
		t.Errorf("%v", m)
	}
	if h := p.Hidden(); len(h) != 1 || h[0] != "/usr-not-there" {
		t.Errorf("hidden: %v", h)
	}
	var e encoder
	p.encode(&e)
	back := decodePlan(&decoder{b: e.b})
	if len(back.Trees) != len(p.Trees) || back.Trees[3] != p.Trees[3] {
		t.Errorf("%+v", back.Trees)
	}
	for _, bad := range [][]fsyscall.ViewRule{
		nil, {{Path: "/", Remote: true}}, {{Path: "/usr", Remote: true}}, {{Path: "/"}, {Path: "usr", Remote: true}},
		{{Path: "/"}, {Path: "/usr/../etc", Remote: true}}, {{Path: "/"}, {Path: "/usr/", Remote: true}},
		{{Path: "/"}, {Path: "/a"}, {Path: "/a", Remote: true}}, {{Path: "/"}, {Path: "/a\x00b"}},
	} {
		if _, err := NewPlan(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}
