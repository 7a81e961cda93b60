package client

import (
	"os"
	"path"
	"path/filepath"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Prefetch are directories of this machine, absolute and clean, that a command
// needs.
type Prefetch struct {
	// OnWay are those that it will go through, or look for a name in.
	OnWay []string
	// Whole are those that it will read as a whole.
	Whole []string
}

// Around returns what most commands need that begin in cwd.
func Around(cwd string) Prefetch {
	p := Prefetch{OnWay: []string{cwd}}
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return p
	}
	home = filepath.Clean(home)
	p.OnWay = append(p.OnWay, home)
	for _, name := range fsyscall.Settings {
		p.OnWay = append(p.OnWay, filepath.Join(home, name))
	}
	return p
}

// expecting adds the directories that are expected to be read whole and lie in
// others that are prefetched. It is told what is used, parents first.
func (p *Prefetch) expecting(uses []fsyscall.PathUse) {
	known := map[string]bool{}
	for _, way := range p.OnWay {
		for ; !known[way]; way = path.Dir(way) {
			known[way] = true
		}
	}
	for _, u := range uses {
		if u.What&fsyscall.UseListing != 0 && !known[u.Path] && known[path.Dir(u.Path)] {
			known[u.Path] = true
			p.Whole = append(p.Whole, u.Path)
		}
	}
}

// slotSet is the set of the slots that have a descriptor.
func slotSet(stdio map[int]int) uint8 {
	set := uint8(0)
	for slot := range stdio {
		set |= 1 << slot
	}
	return set
}

// prefetched returns the paths that the server is told to be on their way, those
// of Prefetch that the view takes from here, and how many directories that are
// only gone through come first; see fsyscall.PrefetchDirs.
func (cfg *SessionConfig) prefetched() (paths []string, onWay int) {
	if cfg.Prefetch == nil || cfg.NoCache {
		return nil, 0
	}
	p := cfg.Prefetch()
	for i, list := range [][]string{p.OnWay, p.Whole} {
		for _, dir := range list {
			if len(paths) < fsyscall.MaxPrefetch && fromHere(cfg.View, dir) {
				paths = append(paths, dir)
			}
		}
		if i == 0 {
			onWay = len(fsyscall.PrefetchDirs(paths))
		}
	}
	return paths, onWay
}
