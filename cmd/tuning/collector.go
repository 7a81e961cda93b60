package tuning

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Each SSH packet, and each request of the kernel, takes memory of its own, so
// that with the few MiB that a process of nexec has in use the collector would
// take a tenth to a third of its processor time. The heap may therefore grow by
// slack between two collections, and by the runtime's usual half when there is
// more in use than that.
const (
	slack   = 48 << 20 // bytes
	usual   = 100      // the runtime's GOGC
	largest = 400      // reached with 12 MiB or less in use
)

// percent is GOGC for a heap with live bytes in use.
func percent(live uint64) int {
	return int(min(max(slack*100/max(live, 1), usual), largest))
}

// watch is collected with every collection, which is what its finalizer takes
// note of.
type watch struct{ _ [16]byte }

// tuneCollector keeps GOGC at what the heap asks for from now on.
func tuneCollector() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := largest
	debug.SetGCPercent(set)
	var look func(*watch)
	look = func(*watch) {
		metrics.Read(sample)
		if want := percent(sample[0].Value.Uint64()); want != set {
			set = want
			debug.SetGCPercent(set)
		}
		runtime.SetFinalizer(new(watch), look)
	}
	runtime.SetFinalizer(new(watch), look)
}
