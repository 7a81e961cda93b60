package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Operations that a failing disk refuses.
const (
	failRead = 1 << iota
	failWrite
	failSync
	failName // create, make, rename, remove
	failList
)

// failingDisk is a file system whose operations fail with EIO when they are
// told to.
type failingDisk struct {
	fuse.RawFileSystem
	fails atomic.Uint32
}

func (d *failingDisk) broken(what uint32) bool { return d.fails.Load()&what != 0 }

// Open and Create keep the kernel from going past this process.
func (d *failingDisk) Open(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	st := d.RawFileSystem.Open(c, in, out)
	out.OpenFlags &^= fuse.FOPEN_PASSTHROUGH
	return st
}

func (d *failingDisk) Read(c <-chan struct{}, in *fuse.ReadIn, b []byte) (fuse.ReadResult, fuse.Status) {
	if d.broken(failRead) {
		return nil, fuse.EIO
	}
	return d.RawFileSystem.Read(c, in, b)
}

func (d *failingDisk) Writev(c <-chan struct{}, in *fuse.WriteIn, b [][]byte) (uint32, fuse.Status) {
	if d.broken(failWrite) {
		return 0, fuse.EIO
	}
	return d.RawFileSystem.Writev(c, in, b)
}

func (d *failingDisk) Fsync(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if d.broken(failSync) {
		return fuse.EIO
	}
	return d.RawFileSystem.Fsync(c, in)
}

func (d *failingDisk) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if d.broken(failName) {
		return fuse.EIO
	}
	st := d.RawFileSystem.Create(c, in, name, out)
	out.OpenFlags &^= fuse.FOPEN_PASSTHROUGH
	return st
}

func (d *failingDisk) Mkdir(c <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if d.broken(failName) {
		return fuse.EIO
	}
	return d.RawFileSystem.Mkdir(c, in, name, out)
}

func (d *failingDisk) Rename(c <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if d.broken(failName) {
		return fuse.EIO
	}
	return d.RawFileSystem.Rename(c, in, from, to)
}

func (d *failingDisk) Unlink(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if d.broken(failName) {
		return fuse.EIO
	}
	return d.RawFileSystem.Unlink(c, h, name)
}

func (d *failingDisk) ReadDir(c <-chan struct{}, in *fuse.ReadIn, l *fuse.DirEntryList) fuse.Status {
	if d.broken(failList) {
		return fuse.EIO
	}
	return d.RawFileSystem.ReadDir(c, in, l)
}

func (d *failingDisk) ReadDirPlus(c <-chan struct{}, in *fuse.ReadIn, l *fuse.DirEntryList) fuse.Status {
	if d.broken(failList) {
		return fuse.EIO
	}
	return d.RawFileSystem.ReadDirPlus(c, in, l)
}

// mountFailing mounts a failing disk of the client at eio in the working
// directory, with a file f. What is below it must not be touched by this
// process, which serves it.
func (s *site) mountFailing(t *testing.T) *failingDisk {
	t.Helper()
	dir := filepath.Join(s.Work, "eio")
	must(t, os.Mkdir(dir, 0o755))
	back := t.TempDir()
	must(t, os.WriteFile(filepath.Join(back, "f"), []byte("content\n"), 0o644))
	root, err := fs.NewLoopbackRoot(back)
	must(t, err)
	d := &failingDisk{RawFileSystem: fs.NewNodeFS(root, &fs.Options{})}
	server, err := fuse.NewServer(d, dir, &fuse.MountOptions{DirectMountStrict: true, AllowOther: true, FsName: "failing", Name: "failing"})
	must(t, err)
	go server.Serve()
	must(t, server.WaitMount())
	t.Cleanup(func() {
		if err := exec.Command("umount", "-l", dir).Run(); err != nil {
			t.Error(err)
		}
		server.Wait()
	})
	return d
}

// TestAsRootDiskFails has a disk of the client that answers EIO: the error
// reaches the program where it asks, and else nexec's exit status and a line
// that names the file.
func TestAsRootDiskFails(t *testing.T) {
	s := newSite(t)
	d := s.mountFailing(t)
	const eio = "nput/output error"
	// Told to the program, or by nexec at the end, as the change went at once
	// or behind.
	const someFailure = -1
	for _, c := range []struct {
		name    string
		fails   uint32
		options []string
		script  string
		code    int
		said    []string
	}{
		{"nothing fails", 0, nil, "cat eio/f; echo x >eio/g; sync eio/g; rm eio/g", 0, nil},
		{"read", failRead, nil, "exec cat eio/f", 1, []string{"cat: eio/f: I" + eio}},
		{"list", failList, nil, "exec ls eio", 2, []string{"I" + eio}},
		{"write, synchronous", failWrite, []string{"--sync"}, "exec dd if=/dev/zero of=eio/a bs=64k count=4", 1, []string{"dd: ", "I" + eio}},
		{"write, then fsync", failWrite, nil, "exec dd if=/dev/zero of=eio/b bs=64k count=4 conv=fsync", 1, []string{"dd: ", "I" + eio}},
		{"write, nobody asks", failWrite, nil, "echo lost >eio/c; exit 0", 255, []string{"nexec: ", "/eio/c: ", eio}},
		{"write, and the command fails itself", failWrite, nil, "echo lost >eio/c; exit 3", 3, []string{"nexec: ", "/eio/c: ", eio}},
		{"fsync", failSync, nil, "exec dd if=/dev/zero of=eio/d bs=64k count=4 conv=fsync", 1, []string{"dd: ", "I" + eio}},
		{"create", failName, nil, "echo >eio/e || exit 1", someFailure, []string{"eio/e: ", eio}},
		{"create, synchronous", failName, []string{"--sync"}, "exec touch eio/e", 1, []string{"touch: ", "I" + eio}},
		{"mkdir, synchronous", failName, []string{"--sync"}, "exec mkdir eio/e", 1, []string{"mkdir: ", "I" + eio}},
		{"mkdir", failName, nil, "exec mkdir eio/h", someFailure, []string{"eio/h", eio}},
		{"rename", failName, nil, "exec mv eio/f eio/i", someFailure, []string{"eio/", eio}},
		{"remove", failName, nil, "exec rm eio/f", someFailure, []string{"eio/f", eio}},
		{"mapped memory", failWrite, nil, `exec python3 -c 'import mmap
f = open("eio/f", "r+b"); m = mmap.mmap(f.fileno(), 0); m[0:1] = b"X"; m.flush()'`, 1, []string{"OSError", "I" + eio}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.fails.Store(c.fails)
			defer d.fails.Store(0)
			r := s.run(t, "", append(c.options, "box", "sh", "-c", c.script)...)
			if r.code != c.code && (c.code != someFailure || r.code == 0) || c.said == nil && r.err != "" {
				t.Errorf("%s; want status %d", r, c.code)
			}
			for _, word := range c.said {
				if !strings.Contains(r.err, word) {
					t.Errorf("%s; want %q on standard error", r, word)
				}
			}
			if strings.Contains(r.err, "goroutine") {
				t.Error(r)
			}
		})
	}
	t.Run("redirected output", func(t *testing.T) {
		d.fails.Store(failWrite)
		defer d.fails.Store(0)
		if out := s.local(t, s.Bin+"/nexec -F "+s.Config+" box sh -c 'echo lost' >eio/out 2>err || echo status $?; cat err"); !strings.HasPrefix(out, "status ") || !strings.Contains(out, "/O error") && !strings.Contains(out, eio) {
			t.Errorf("%q", out)
		}
	})
	// The disk works again, and so does the file.
	if got := s.sh(t, "echo again >eio/c; cat eio/c eio/f"); got != "again\ncontent\n" {
		t.Errorf("afterwards: %q", got)
	}
}
