package main

import (
	"os"
	"runtime"
	"runtime/debug"
	goruntime "runtime/metrics"
)

// Each SSH packet is memory of its own, so a few connections that move bulk
// data make the collector run hundreds of times a second over a heap that is
// almost empty: a third of the processor time of nexecd. The heap may therefore
// grow by gcSlack between two collections, and by the runtime's usual half when
// there is more in use than that.
const (
	gcSlack   = 48 << 20 // bytes
	gcUsual   = 100      // the runtime's GOGC
	gcLargest = 400      // reached with 12 MiB or less in use
)

// gcPercent is GOGC for a heap with live bytes in use.
func gcPercent(live uint64) int {
	return int(min(max(gcSlack*100/max(live, 1), gcUsual), gcLargest))
}

// gcWatch is collected with every collection, which is what its finalizer
// takes note of.
type gcWatch struct{ _ [16]byte }

// tuneGC keeps GOGC at gcPercent from now on, unless the environment says what
// it is to be.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []goruntime.Sample{{Name: "/gc/heap/live:bytes"}}
	set := gcLargest
	debug.SetGCPercent(set)
	var watch func(*gcWatch)
	watch = func(*gcWatch) {
		goruntime.Read(sample)
		if want := gcPercent(sample[0].Value.Uint64()); want != set {
			set = want
			debug.SetGCPercent(set)
		}
		runtime.SetFinalizer(new(gcWatch), watch)
	}
	runtime.SetFinalizer(new(gcWatch), watch)
}
