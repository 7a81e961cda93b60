package client

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// A worksets keeps, in a directory that the server is never shown, what each
// command used of this machine's files when it last ran, so that the next time
// the server can ask for all of it at once. A command is known by its arguments,
// the working directory and the view; one that is not, by its program.
//
// What is kept is a hint. That it cannot be read or written is nobody's
// business.
type worksets struct{ dir string }

const (
	// maxWorksets bounds the files in the directory, of some 60 KiB at most and
	// 5 KiB as a rule; the ones used longest ago go.
	maxWorksets = 512
	// pruneEvery is how often, in files written, they are counted.
	pruneEvery   = 32
	worksetsName = "worksets"
)

// openWorksets returns nil where nothing can be kept.
func openWorksets() *worksets {
	base, err := stateHome()
	if err != nil {
		return nil
	}
	return &worksets{filepath.Join(base, "nexec", worksetsName)}
}

// worksetKeys returns the names under which the working set of a command is
// kept, the most telling first.
func worksetKeys(view []fsyscall.ViewRule, cwd string, argv []string) []string {
	key := func(argv []string) string {
		h := sha256.New()
		for _, r := range view {
			fmt.Fprintf(h, "%q %t\n", r.Path, r.Remote)
		}
		fmt.Fprintf(h, "%q %q", cwd, argv)
		return hex.EncodeToString(h.Sum(nil))
	}
	if len(argv) == 0 {
		return nil // a shell does something else each time
	}
	return slices.Compact([]string{key(argv), key(argv[:1])})
}

// load returns what is kept under the first of keys that there is.
func (w *worksets) load(keys []string) []fsyscall.Use {
	if w == nil {
		return nil
	}
	for _, key := range keys {
		b, err := readBounded(filepath.Join(w.dir, key))
		if err != nil {
			continue
		}
		var e fsyscall.Exit
		_, body, err := fsyscall.ParseHeader(b)
		if err == nil {
			err = fsyscall.Decode(body, &e)
		}
		if err == nil {
			return e.Used
		}
	}
	return nil
}

// readBounded reads a regular file that is no larger than a message.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() > fsyscall.MaxMessage) {
		err = fmt.Errorf("%s is no working set", path)
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, fsyscall.MaxMessage))
}

// store keeps uses under keys, if they are not what was loaded.
func (w *worksets) store(keys []string, uses, loaded []fsyscall.Use) {
	if w == nil || len(uses) == 0 {
		return
	}
	// The encoding is that of the message that they came with.
	b, err := fsyscall.AppendMessage(nil, fsyscall.Header{Kind: fsyscall.KindNotice, Op: fsyscall.OpExit}, &fsyscall.Exit{Used: uses})
	if err != nil || os.MkdirAll(w.dir, 0o700) != nil {
		return
	}
	now := time.Now()
	for i, key := range keys {
		path := filepath.Join(w.dir, key)
		if i == 0 && slices.Equal(uses, loaded) && os.Chtimes(path, now, now) == nil {
			continue
		}
		w.write(path, b)
	}
	if now.Nanosecond()/1000%pruneEvery == 0 {
		w.prune()
	}
}

// write replaces a file as a whole.
func (w *worksets) write(path string, b []byte) {
	f, err := os.CreateTemp(w.dir, ".new-") // mode 0600
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if errClose := f.Close(); err == nil {
		err = errClose
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

// prune removes what was used longest ago, and what a write that was killed has
// left.
func (w *worksets) prune() {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return
	}
	type file struct {
		name string
		used time.Time
	}
	var files []file
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil:
		case strings.HasPrefix(e.Name(), "."):
			if time.Since(info.ModTime()) > time.Hour {
				os.Remove(filepath.Join(w.dir, e.Name()))
			}
		default:
			files = append(files, file{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b file) int { return b.used.Compare(a.used) })
	for _, f := range files[min(len(files), maxWorksets):] {
		os.Remove(filepath.Join(w.dir, f.name))
	}
}
