package fmaster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestCosts: of any number of paths, those that cost the most are known, in
// order, and by no more than the bound that costs states too dear.
func TestCosts(t *testing.T) {
	var c costs
	var total time.Duration
	add := func(path string, took time.Duration) {
		c.add(path, took)
		total += took
	}
	for i := range 20_000 {
		add(fmt.Sprintf("/cheap/%d", i), time.Millisecond)
		if i%10 == 0 { // a tenth each, and growing
			for d := range 12 {
				add(fmt.Sprintf("/dear/%d", d), time.Duration(10+d)*time.Millisecond)
			}
		}
	}
	if n := len(c.all()); n != costsMost {
		t.Fatalf("%d paths", n)
	}
	list := dearest(c.all())
	if len(list) != costsShown {
		t.Fatalf("%d paths shown", len(list))
	}
	for i, p := range list {
		d := 11 - i
		truth := 2000 * time.Duration(10+d) * time.Millisecond
		if p.path != fmt.Sprintf("/dear/%d", d) || p.time < truth || p.time > truth+total/costsMost {
			t.Errorf("%d: %+v, in truth %v", i, p, truth)
		}
	}
}

func TestCostsSince(t *testing.T) {
	var c counters
	c.costs.add("/a", 3*time.Second)
	c.costs.add("/b", 2*time.Second)
	c.waits.Add(5)
	c.call(7)
	before := c.figures()
	c.costs.add("/b", time.Second)
	c.costs.add("/new\nround trips waited: 0", time.Second)
	c.waits.Add(2)
	c.read.Add(1000)
	c.readUnused.Add(10)
	c.call(8)
	text := string(c.figures().since(before).text())
	for _, want := range []string{
		"round trips waited: 2\n", "read ahead: 1000 bytes, 10 of them for nothing\n",
		"waited 1.000 s in 1 requests: /b\n", `waited 1.000 s in 1 requests: "/new\nround trips waited: 0"` + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	if strings.Contains(text, "/a") || strings.Count(text, "round trips waited: ") != 2 {
		t.Errorf("%q", text)
	}
	// The counters themselves go on.
	if all := string(c.figures().text()); !strings.Contains(all, "round trips waited: 7\n") || !strings.Contains(all, "waited 3.000 s in 1 requests: /a\nwaited 3.000 s in 2 requests: /b\n") {
		t.Errorf("%q", all)
	}
}
