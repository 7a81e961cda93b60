package harness

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Adopt makes this process the parent of every descendant whose own parent
// has ended, so that [Descendants] finds what a session left behind.
func Adopt() error {
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// Proc is a process as /proc shows it.
type Proc struct {
	PID, Parent int
	State       byte
	Name        string
}

func (p Proc) String() string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	return fmt.Sprintf("%d (%s, parent %d, state %c) %q", p.PID, p.Name, p.Parent, p.State, strings.ReplaceAll(string(line), "\x00", " "))
}

// processes reads /proc. Processes that end meanwhile are left out.
func processes() []Proc {
	var all []Proc
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		text := string(stat)
		open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		fields := strings.Fields(text[end+1:])
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		all = append(all, Proc{PID: pid, Parent: parent, State: fields[0][0], Name: text[open+1 : end]})
	}
	return all
}

// Descendants returns the living processes below root, zombies left out.
func Descendants(root int) []Proc {
	all := processes()
	below := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if below[p.Parent] && !below[p.PID] {
				below[p.PID], grown = true, true
			}
		}
	}
	var found []Proc
	for _, p := range all {
		if below[p.PID] && p.PID != root && p.State != 'Z' {
			found = append(found, p)
		}
	}
	return found
}

// Named returns the descendants of this process with the given name.
func Named(name string) []Proc {
	var found []Proc
	for _, p := range Descendants(os.Getpid()) {
		if p.Name == name {
			found = append(found, p)
		}
	}
	return found
}

// Leftovers waits up to limit for every descendant of this process to end,
// except those listed, and returns what still lives then.
func Leftovers(limit time.Duration, except ...int) []Proc {
	kept := map[int]bool{}
	for _, pid := range except {
		kept[pid] = true
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		var left []Proc
		for _, p := range Descendants(os.Getpid()) {
			if !kept[p.PID] {
				left = append(left, p)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// Leftovers is like the function of this name; the site's servers may live.
func (s *Site) Leftovers(limit time.Duration) []Proc {
	var except []int
	for _, p := range s.servers {
		except = append(except, p.PID)
	}
	return Leftovers(limit, except...)
}

// Mounts returns the lines of /proc/self/mountinfo about FUSE mounts.
func Mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, line := range strings.Split(string(text), "\n") {
		if strings.Contains(line, " - fuse") && !strings.Contains(line, " - fusectl") {
			found = append(found, line)
		}
	}
	return found
}

// RSS returns the peak resident memory of a process in bytes, 0 if it ended.
func RSS(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}
