package fslave

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// confinedRoot is set in the environment of the process that TestConfine
// starts: confinement is for good, so it has one of its own.
const confinedRoot = "FSLAVE_TEST_CONFINED_ROOT"

// confinedMain is that process: it confines itself and tries what it should and should not be able
// to do, past all of resolution and policy.
func confinedMain(root string) int {
	p, err := NewPolicy(root, []Rule{rule("/rw", ModeReadWrite), rule("/ro", ModeReadOnly)})
	if err != nil {
		fmt.Println("policy:", err)
		return 1
	}
	conn := &pipe{in: make(chan []byte)}
	replies := make(chan []byte, 100)
	conn.out = func(b []byte) { replies <- b }
	std, err := os.OpenFile(filepath.Join(root, "outside"), os.O_RDWR, 0)
	if err != nil {
		fmt.Println("stdio:", err)
		return 1
	}
	s, err := New(Config{Policy: p, Root: root, Stdio: func(uint32, uint8) (*os.File, bool) { return std, true }}, conn)
	if err != nil {
		fmt.Println("new:", err)
		return 1
	}
	layers, err := s.Confine()
	if err != nil {
		fmt.Println("confine:", err)
		return 1
	}
	landlocked := true
	for _, l := range layers {
		fmt.Println("layer:", l)
		if l.Name == "landlock" {
			landlocked = false
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	fail := 0
	expect := func(what string, ok bool) {
		if !ok {
			fmt.Println("not as expected:", what)
			fail = 1
		}
	}
	tryService(expect, func(op fsyscall.Op, m fsyscall.Message) fsyscall.Errno {
		b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindCall, Op: op}, m)
		if err != nil {
			return 1
		}
		conn.in <- b
		for {
			h, _, err := fsyscall.ParseHeader(<-replies)
			if err == nil && h.Kind == fsyscall.KindReply {
				return h.Errno
			}
		}
	})
	if landlocked {
		tryBehind(expect, root, fmt.Sprint(layers))
	}
	conn.close()
	expect("end", <-served == nil)
	return fail
}

// tryService uses the service as a session does.
func tryService(expect func(string, bool), ask func(fsyscall.Op, fsyscall.Message) fsyscall.Errno) {
	expect("lookup", ask(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 1, Name: "rw", ID: 2}) == 0)
	expect("create", ask(fsyscall.OpCreate, &fsyscall.Create{Dir: 2, Name: "new", ID: 3, File: 1, Flags: fsyscall.OpenReadWrite, Mode: 0o600}) == 0)
	expect("open", ask(fsyscall.OpOpen, &fsyscall.Open{ID: 3, File: 2, Flags: fsyscall.OpenReadWrite | fsyscall.OpenTruncate}) == 0)
	expect("truncate", ask(fsyscall.OpSetAttr, &fsyscall.SetAttr{ID: 3, Mask: fsyscall.SetSize | fsyscall.SetMode | fsyscall.SetMtimeNow, Mode: 0o640}) == 0)
	expect("tmpfile", ask(fsyscall.OpTmpFile, &fsyscall.TmpFile{Dir: 2, ID: 4, File: 3, Flags: fsyscall.OpenReadWrite}) == 0)
	expect("link", ask(fsyscall.OpLink, &fsyscall.Link{ID: 4, Dir: 2, Name: "linked"}) == 0)
	expect("mkdir", ask(fsyscall.OpMkdir, &fsyscall.Mkdir{Dir: 2, Name: "dir", ID: 5, Mode: 0o700}) == 0)
	expect("rename to another directory", ask(fsyscall.OpRename, &fsyscall.Rename{Dir: 2, Name: "linked", NewDir: 5, NewName: "moved"}) == 0)
	expect("list", ask(fsyscall.OpList, &fsyscall.List{ID: 2}) == 0)
	expect("list the root", ask(fsyscall.OpList, &fsyscall.List{ID: 1}) == 0)
	expect("setxattr", ask(fsyscall.OpSetXattr, &fsyscall.SetXattr{ID: 3, Name: "user.x"}) == 0)
	expect("lock", ask(fsyscall.OpSetLock, &fsyscall.SetLock{File: 1, Owner: 1, Lock: fsyscall.Lock{Type: 1, End: 1}}) == 0)
	expect("lookup ro", ask(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 1, Name: "ro", ID: 6}) == 0)
	expect("lookup ro/f", ask(fsyscall.OpLookup, &fsyscall.Lookup{Dir: 6, Name: "f", ID: 7}) == 0)
	expect("read ro/f", ask(fsyscall.OpFetch, &fsyscall.Fetch{ID: 7, Size: 10}) == 0)
	expect("stdio", ask(fsyscall.OpStdioNode, &fsyscall.StdioNode{ID: 8}) == 0)
	expect("open stdio", ask(fsyscall.OpOpen, &fsyscall.Open{ID: 8, File: 4, Flags: fsyscall.OpenReadWrite}) == 0)
	expect("write stdio", ask(fsyscall.OpWrite, &fsyscall.Write{File: 4, Data: []byte("x")}) == 0)
}

// tryBehind does what a server that got past resolution would.
func tryBehind(expect func(string, bool), root, layers string) {
	_, err := os.ReadFile(filepath.Join(root, "outside"))
	expect("reading outside", os.IsPermission(err))
	expect("writing outside", os.IsPermission(os.WriteFile(filepath.Join(root, "made"), nil, 0o600)))
	expect("writing in ro", os.IsPermission(os.WriteFile(filepath.Join(root, "ro/f"), []byte("x"), 0o600)))
	expect("removing in ro", os.IsPermission(os.Remove(filepath.Join(root, "ro/f"))))
	_, err = os.ReadFile("/etc/passwd")
	expect("reading /etc/passwd", os.IsPermission(err))
	expect("executing", exec.Command("/bin/true").Run() != nil)
	expect("executing in rw", exec.Command(filepath.Join(root, "rw/prog")).Run() != nil)
	if conn, err := net.Dial("tcp4", os.Getenv("FSLAVE_TEST_ADDR")); err == nil {
		conn.Close()
		expect("connecting", strings.Contains(layers, "network missing"))
	}
	v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	expect("no_new_privs", err == nil && v == 1)
	v, err = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	expect("non-dumpable", err == nil && v == 0)
}

func TestConfine(t *testing.T) {
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	must(t, os.Mkdir(filepath.Join(root, "rw"), 0o755))
	put(t, root, "ro/f", "read")
	put(t, root, "outside", "private")
	prog, err := os.ReadFile("/bin/true")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "rw/prog"), prog, 0o755))
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), confinedRoot+"="+root, "FSLAVE_TEST_ADDR="+l.Addr().String())
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "outside")); string(got) != "xrivate" {
		t.Errorf("the redirected file has %q", got)
	}
}
