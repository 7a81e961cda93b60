package subsystem

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/subsystem/fmaster"
)

// A process that waits for a file cannot be killed before it got an answer;
// the session's end gives it one, even where the file service never will.
func TestProcessThatWaitsForAFile(t *testing.T) {
	stall := make(chan struct{})
	defer close(stall)
	c := open(t, Options{}, func(f *localFiles) { f.stall = stall })
	if err := os.WriteFile(c.dir+"/home/u/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	marker := fmt.Sprintf("7001.%09d", rand.IntN(1e9))
	if r := c.exec(request(0, "sh", "-c", "cat f "+marker+" & cat f "+marker+" & sleep "+marker)); r.Stage != fsyscall.ExecStarted {
		t.Fatalf("%+v", r)
	}
	time.Sleep(200 * time.Millisecond) // until they wait
	if n := len(processes("f\x00" + marker)); n != 2 {
		t.Errorf("%d processes wait for a file, want 2", n)
	}
	c.link.Abort(os.ErrClosed)
	gone(t, marker, 3*time.Second)
	c.hangUp()
}

// A client that answers no call about its files cannot hold up the end.
func TestClientThatNeverAnswers(t *testing.T) {
	c := open(t, Options{NewFiles: func(f FilesConfig) Files {
		return fmaster.New(fmaster.Config{Link: f.Link, Hello: f.Hello, UID: f.UID, GID: f.GID, MappedIDs: f.MappedIDs, Mountpoints: f.Mountpoints})
	}})
	marker := fmt.Sprintf("7000.%09d", rand.IntN(1e9))
	x := request(0, "sh", "-c", ": "+marker+"; cat /home/u/never; echo "+marker)
	x.Cwd = "/usr"
	c.write(fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec}, x)
	time.Sleep(300 * time.Millisecond) // until init, making the view, waits
	c.link.Abort(os.ErrClosed)
	gone(t, marker, 2*time.Second)
	c.hangUp()
}
