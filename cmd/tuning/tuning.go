// Package tuning sets Go's runtime to what nexec's processes do: move bulk data
// through a heap that is almost empty, each as one of several processes that
// the data passes in turn.
package tuning

import (
	"os"
	"runtime"
)

// Tune is called once, by main. What the environment says (GOGC, GOMAXPROCS)
// stays.
func Tune() {
	if os.Getenv("GOGC") == "" {
		tuneCollector()
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(runtime.GOMAXPROCS(0)))
	}
}

// processors is how many of the machine's processors one process uses at once.
// Whatever nexec does, its other process on the machine and the program do
// their part at the same time. With as many threads in each as there are
// processors, the schedulers wake threads that find nothing to do: on two, a
// GiB read or written took 10 to 18 % more processor time, and twice the
// changes of context.
func processors(n int) int { return (n + 1) / 2 }
