package fmaster

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

const (
	// costsMost bounds the paths that are kept account of, and so the account
	// to 1 MiB with the longest of paths.
	costsMost = 256
	// costsShown is how many of them --stats shows.
	costsShown = 10
	// costsLeast is the least that a request takes that the client has a part
	// in, even over loopback. What takes less is answered from here.
	costsLeast = 200 * time.Microsecond
)

// pathCost is how long the kernel's requests on one path took together.
// Requests that are answered side by side count each.
type pathCost struct {
	path     string
	time     time.Duration
	requests int64
}

// costs is an account of the paths that cost the most. When it is full, a new
// path takes over the place, and the figures, of the cheapest: a path with
// more than one costsMost-th of all time is therefore always in it, and none
// is given more than one costsMost-th too much. This is the space-saving
// algorithm of Metwally, Agrawal and El Abbadi (2005).
type costs struct {
	mu    sync.Mutex
	paths map[string]*pathCost
}

func (c *costs) add(path string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.paths[path]
	switch {
	case p != nil:
	case c.paths == nil:
		c.paths = make(map[string]*pathCost)
		fallthrough
	case len(c.paths) < costsMost:
		p = &pathCost{path: path}
		c.paths[path] = p
	default:
		for _, q := range c.paths {
			if p == nil || q.time < p.time {
				p = q
			}
		}
		delete(c.paths, p.path)
		p.path = path
		c.paths[path] = p
	}
	p.time += took
	p.requests++
}

func (c *costs) all() map[string]pathCost {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]pathCost, len(c.paths))
	for path, p := range c.paths {
		all[path] = *p
	}
	return all
}

// shown is the path on one line.
func (p *pathCost) shown() string {
	if strings.ContainsFunc(p.path, unicode.IsControl) {
		return strconv.Quote(p.path)
	}
	return p.path
}

// costsSince returns what came to now after before.
func costsSince(now, before map[string]pathCost) map[string]pathCost {
	came := make(map[string]pathCost, len(now))
	for path, p := range now {
		b := before[path]
		p.time -= b.time
		p.requests -= b.requests
		if p.requests > 0 {
			came[path] = p
		}
	}
	return came
}

// dearest returns the paths that cost the most, in order.
func dearest(all map[string]pathCost) []pathCost {
	var list []pathCost
	for _, p := range all {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b pathCost) int {
		return cmp.Or(cmp.Compare(b.time, a.time), cmp.Compare(a.path, b.path))
	})
	return list[:min(len(list), costsShown)]
}

// request counts a request of the kernel on a node. The function returned is
// called at its end, with nothing locked.
func (s *Server) request(id uint64) func() {
	s.stats.kernel.Add(1)
	if !s.cfg.Hello.Trace {
		return func() {}
	}
	began := time.Now()
	return func() {
		took := time.Since(began)
		if took < costsLeast {
			return
		}
		s.mu.Lock()
		path := "(gone)"
		if n := s.nodes[fsyscall.NodeID(id)]; n != nil {
			path = n.path()
		}
		s.mu.Unlock()
		s.stats.costs.add(path, took)
	}
}
