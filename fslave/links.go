package fslave

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxScan bounds the directory entries looked at for hard links of protected
// files. What lies beyond is protected by its path only; Stats says so.
const maxScan = 100_000

// hardLinks knows the files below protected directories that have further
// names. It looks at them the first time that a file with several names is met
// anywhere: most sessions never meet one.
type hardLinks struct {
	policy *Policy
	root   string
	once   sync.Once
	modes  map[inode]protection
	left   int
	cut    atomic.Bool // the bound was reached
}

// limit returns the mode that an inode is limited to because one of its names
// is protected.
func (h *hardLinks) limit(st *unix.Statx_t) Mode {
	h.once.Do(h.scan)
	p, ok := h.modes[inode{statDev(st), st.Ino}]
	if !ok || p.btime.Sec != st.Btime.Sec || p.btime.Nsec != st.Btime.Nsec {
		return ModeReadWrite
	}
	return p.mode
}

func (h *hardLinks) scan() {
	h.modes, h.left = map[inode]protection{}, maxScan
	fd, err := unix.Open(h.root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	for _, r := range h.policy.narrow {
		if inSystem(r.Path) {
			continue // nothing there can be linked to from a user's tree
		}
		h.scanRule(fd, r)
	}
	h.cut.Store(h.left <= 0)
}

func inSystem(path string) bool {
	switch path {
	case "/proc", "/sys", "/dev", "/run", "/var/run":
		return true
	}
	return false
}

func (h *hardLinks) scanRule(root int, r Rule) {
	fd := root
	pos := h.policy.top()
	for _, name := range components(r.Path) {
		pos = pos.child(name)
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if fd != root {
			unix.Close(fd)
		}
		if err != nil {
			return
		}
		fd = next
	}
	var st unix.Statx_t
	if statFD(fd, &st) == nil && isDir(&st) {
		h.scanDir(fd, pos, r, 0)
	}
	unix.Close(fd)
}

// scanDir looks at what is in the directory fd that no other rule covers.
func (h *hardLinks) scanDir(fd int, pos position, r Rule, depth int) {
	list, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil || depth > 64 {
		if err == nil {
			unix.Close(list)
		}
		return
	}
	f := os.NewFile(uintptr(list), r.Path)
	defer f.Close()
	for h.left > 0 {
		names, err := f.Readdirnames(256)
		for _, name := range names {
			h.left--
			h.scanEntry(list, name, pos.child(name), r, depth)
		}
		if err != nil {
			return
		}
	}
}

func (h *hardLinks) scanEntry(dir int, name string, pos position, r Rule, depth int) {
	var st unix.Statx_t
	if pos.ruled() || statAt(dir, name, &st) != nil {
		return
	}
	switch {
	case isDir(&st):
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			h.scanDir(fd, pos, r, depth+1)
			unix.Close(fd)
		}
	case st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG:
		id := inode{statDev(&st), st.Ino}
		if old, ok := h.modes[id]; !ok || r.Mode < old.mode {
			h.modes[id] = protection{mode: r.Mode, btime: st.Btime, rule: r}
		}
	}
}
