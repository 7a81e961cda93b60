package fslave

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Layer is a layer of confinement that the process has, or why not.
type Layer struct {
	Name string
	// Missing is empty where the layer is in force.
	Missing string
}

func (l Layer) String() string {
	if l.Missing == "" {
		return l.Name
	}
	return l.Name + " missing: " + l.Missing
}

// Confine gives up, for the whole process and for good, what the server does
// not need: privileges by exec, being read by a debugger, files outside of the
// policy's rules, executing anything, the network. The rules are kept by
// resolution as well; this is for the day that resolution has a bug.
//
// It is called before Serve. A layer that the kernel lacks is named in the
// result; an error means that the process is not as confined as the kernel
// could make it, and must not go on.
func (s *Server) Confine() ([]Layer, error) {
	if s.policy.top().mode == ModeHide {
		// What is outside of the exports cannot be looked at later.
		s.links.once.Do(s.links.scan)
	}
	if err := ll.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("confine: no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("confine: non-dumpable: %w", err)
	}
	layers := []Layer{{Name: "no_new_privs"}, {Name: "non-dumpable"}}
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return append(layers, Layer{"landlock", "the kernel has none"}), nil
	}
	if err := landlock.V11.BestEffort().Restrict(s.landlockRules()...); err != nil {
		return nil, fmt.Errorf("confine: landlock: %w", err)
	}
	layers = append(layers, Layer{Name: fmt.Sprintf("landlock files (ABI %d)", abi)})
	for _, part := range []struct {
		name string
		abi  int
	}{{"landlock truncate", 3}, {"landlock network", 4}, {"landlock signals and sockets", 6}} {
		l := Layer{Name: part.name}
		if abi < part.abi {
			l.Missing = "the kernel is too old"
		}
		layers = append(layers, l)
	}
	return layers, nil
}

const (
	rightsRead  = ll.AccessFSReadFile | ll.AccessFSReadDir
	rightsWrite = ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile |
		ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo |
		ll.AccessFSMakeSym | ll.AccessFSRefer
	rightsOfFiles = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate
)

// landlockRules grants what the policy's rules grant. Landlock cannot take
// away below what it grants: hide and ro within rw are resolution's alone.
// Bare directories need nothing: they are opened with O_PATH, which Landlock
// leaves alone, and are never read, because their names come from the rules.
func (s *Server) landlockRules() []landlock.Rule {
	var out []landlock.Rule
	for _, r := range s.policy.rules {
		rights := landlock.AccessFSSet(rightsRead)
		switch r.Mode {
		case ModeReadWrite:
			rights |= rightsWrite
		case ModeReadOnly:
		default:
			continue
		}
		path := filepath.Join(s.cfg.Root, r.Path)
		fi, err := os.Stat(path)
		if err != nil {
			continue // made later, by way of its parent
		}
		if !fi.IsDir() {
			rights &= rightsOfFiles
		}
		out = append(out, landlock.PathAccess(rights, path).IgnoreIfMissing())
	}
	return out
}

// CloseInherited closes the descriptors that the process was started with,
// except 0, 1, 2 and those to keep. The program calls it first.
func CloseInherited(keep ...int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || slices.Contains(keep, fd) {
			continue
		}
		// Go's own descriptors, and those of packages, are close-on-exec;
		// what came through exec is not.
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	for _, fd := range keep {
		unix.CloseOnExec(fd)
	}
	return nil
}
