package view

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

func mustNew(t *testing.T, apps Apps, moves ...Move) *View {
	t.Helper()
	v, err := New(apps, moves)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDefaultTrees(t *testing.T) {
	for _, c := range []struct {
		apps   Apps
		remote string
	}{
		{AppsRemote, "/bin /dev /etc /lib /lib32 /lib64 /libx32 /opt /proc /run /sbin /sys /usr /var"},
		{AppsLocal, "/dev /proc /run /sys"},
	} {
		rules := mustNew(t, c.apps).Rules()
		if rules[0] != (fsyscall.ViewRule{Path: "/"}) {
			t.Errorf("first rule is %+v, want the local root", rules[0])
		}
		var got []string
		for _, r := range rules[1:] {
			if !r.Remote {
				t.Errorf("%s is local by default", r.Path)
			}
			got = append(got, r.Path)
		}
		if s := strings.Join(got, " "); s != c.remote {
			t.Errorf("apps %d: %s, want %s", c.apps, s, c.remote)
		}
	}
}

func TestExplain(t *testing.T) {
	v := mustNew(t, AppsRemote,
		Move{"/usr/local", Local, "--local"},
		Move{"/usr/local/cuda/", Remote, "config:3"},
		Move{"/usr/local", Remote, "config:4"}, // the first one counts
		Move{"/data//sets/../x", Remote, "--remote"},
	)
	for _, c := range []struct {
		path string
		side Side
		rule string
		why  string
	}{
		{"/", Local, "/", "root"},
		{"/home/u/x", Local, "/", "root"},
		{"/usr", Remote, "/usr", "--apps remote"},
		{"/usr/", Remote, "/usr", "--apps remote"},
		{"/usrx", Local, "/", "root"},
		{"/usr/bin/gcc", Remote, "/usr", "--apps remote"},
		{"/usr/local", Local, "/usr/local", "--local /usr/local"},
		{"/usr/local/bin/x", Local, "/usr/local", "--local /usr/local"},
		{"/usr/local/cuda", Remote, "/usr/local/cuda", "config:3 /usr/local/cuda"},
		{"/usr/local/cuda/../x", Local, "/usr/local", "--local"},
		{"/proc/self", Remote, "/proc", "each session"},
		{"/dev/null", Remote, "/dev", "machine"},
		{"/data/x/1", Remote, "/data/x", "--remote /data/x"},
		{"/data", Local, "/", "root"},
	} {
		e, err := v.Explain(c.path)
		if err != nil || e.Side != c.side || e.Rule != c.rule || !strings.Contains(e.Why, c.why) {
			t.Errorf("%s: %+v, %v; want %s by %s (%s)", c.path, e, err, c.side, c.rule, c.why)
		}
	}
	if _, err := v.Explain("relative"); err == nil {
		t.Error("a relative path was explained")
	}
}

func TestBadTrees(t *testing.T) {
	for _, m := range []Move{
		{"", Remote, "--remote"},
		{"rel", Remote, "--remote"},
		{"/", Remote, "--remote"},
		{"/..", Local, "--local"},
		{"/proc", Local, "--local"},
		{"/proc/self", Remote, "--remote"},
		{"/dev/shm", Local, "--local"},
		{"/sys", Local, "--local"},
		{"/a\x00b", Remote, "--remote"},
		{"/" + strings.Repeat("a", 5000), Remote, "--remote"},
	} {
		_, err := New(AppsRemote, []Move{m})
		if !errors.Is(err, ErrBadTree) || !strings.HasPrefix(err.Error(), m.Origin+": ") {
			t.Errorf("%.40q: %v", m.Path, err)
		}
	}
	var many []Move
	for i := range maxMoves + 1 {
		many = append(many, Move{fmt.Sprintf("/x/%d", i), Remote, "config:1"})
	}
	if _, err := New(AppsRemote, many); !errors.Is(err, ErrBadTree) {
		t.Errorf("%d moves: %v", len(many), err)
	}
}

func TestParseApps(t *testing.T) {
	for s, want := range map[string]Apps{"remote": AppsRemote, "local": AppsLocal} {
		if got, err := ParseApps(s); got != want || err != nil {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if _, err := ParseApps("Local"); err == nil {
		t.Error("Local was accepted")
	}
}

// A view of many moves must still fit into the message that carries it.
func TestRulesFitIntoHello(t *testing.T) {
	var many []Move
	for i := range maxMoves {
		many = append(many, Move{fmt.Sprintf("/x/%d", i), Remote, "config:1"})
	}
	h := &fsyscall.Hello{Version: fsyscall.Version, View: mustNew(t, AppsRemote, many...).Rules()}
	if _, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpHello}, h); err != nil {
		t.Error(err)
	}
}
