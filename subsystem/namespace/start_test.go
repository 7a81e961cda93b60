package namespace

import (
	"testing"
	"time"
)

// BenchmarkStart measures a session from Start to the end of its first
// command; "view" is the part until commands can run.
func BenchmarkStart(b *testing.B) {
	plan, err := NewPlan(rules())
	if err != nil {
		b.Fatal(err)
	}
	client := makeClient(b, plan)
	var view, ended time.Duration
	for b.Loop() {
		began := time.Now()
		s := startIn(b, plan, client)
		view += time.Since(began)
		s.output(request("/bin/true"))
		ended += time.Since(began)
		s.close()
	}
	b.ReportMetric(float64(view.Microseconds())/float64(b.N)/1000, "ms-view/op")
	b.ReportMetric(float64(ended.Microseconds())/float64(b.N)/1000, "ms-ended/op")
}
