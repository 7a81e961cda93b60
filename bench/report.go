package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// columns in the order of the table.
func columns() []string {
	return []string{"native", "ssh", "rsync cold", "rsync warm", "sshfs cold", "sshfs warm", "nexec cold", "nexec known", "nexec again", "nexec warm"}
}

// cell has the runs of one column of one row over one link.
type cell struct {
	Link   string        `json:"link"`
	Row    string        `json:"row"`
	Column string        `json:"column"`
	Runs   []measurement `json:"runs,omitempty"`
	Note   string        `json:"note,omitempty"` // why there are none
}

type report struct {
	Date     string            `json:"date"`
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Runs     int               `json:"runs"`
	Cells    []*cell           `json:"cells"`

	rows  []row
	links []string
}

func newReport(runs int) *report {
	return &report{
		Date: time.Now().UTC().Format("2006-01-02 15:04 MST"), Runs: runs,
		Machine: fmt.Sprintf("%d × %s, Linux %s", runtime.NumCPU(), oneLine("sh", "-c", "sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1"), oneLine("uname", "-r")),
		Versions: map[string]string{
			"go": runtime.Version(), "ssh": oneLine("ssh", "-V"), "rsync": oneLine("rsync", "--version"), "sshfs": oneLine("sshfs", "--version"),
		},
	}
}

func oneLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return "none"
	}
	return firstLine(string(out))
}

func (r *report) cell(link, row, column string) *cell {
	for _, c := range r.Cells {
		if c.Link == link && c.Row == row && c.Column == column {
			return c
		}
	}
	c := &cell{Link: link, Row: row, Column: column}
	r.Cells = append(r.Cells, c)
	return c
}

func (r *report) see(s harness.Shape, w row) {
	if !slices.Contains(r.links, s.Name) {
		r.links = append(r.links, s.Name)
	}
	if !slices.ContainsFunc(r.rows, func(x row) bool { return x.name == w.name }) {
		r.rows = append(r.rows, w)
	}
}

func (r *report) add(s harness.Shape, w row, column string, m measurement) {
	r.see(s, w)
	c := r.cell(s.Name, w.name, column)
	c.Runs = append(c.Runs, m)
}

// note says why a column is empty.
func (r *report) note(s harness.Shape, w row, peer string, err error) {
	r.see(s, w)
	for _, column := range columns() {
		if strings.HasPrefix(column, peer) {
			if c := r.cell(s.Name, w.name, column); len(c.Runs) == 0 {
				c.Note = err.Error()
			}
		}
	}
	fmt.Fprintf(os.Stderr, "%s over %s by %s: %v\n", w.name, s.Name, peer, err)
}

// median returns the run in the middle.
func (c *cell) median() (measurement, bool) {
	if len(c.Runs) == 0 {
		return measurement{}, false
	}
	sorted := slices.Clone(c.Runs)
	slices.SortFunc(sorted, func(a, b measurement) int {
		switch {
		case a.Seconds < b.Seconds:
			return -1
		case a.Seconds > b.Seconds:
			return 1
		}
		return 0
	})
	return sorted[len(sorted)/2], true
}

func (r *report) text(link string, w row, column string) string {
	c := r.cell(link, w.name, column)
	m, ok := c.median()
	switch {
	case ok && w.bytes > 0 && column != "native":
		return fmt.Sprintf("%.2f (%.0f MB/s)", m.Seconds, float64(w.bytes)/1e6/m.Seconds)
	case ok:
		return fmt.Sprintf("%.2f", m.Seconds)
	case strings.HasPrefix(c.Note, "stopped"):
		return ">" + strings.TrimPrefix(c.Note, "stopped after ")
	case c.Note != "":
		return "failed"
	}
	return "–"
}

// ratio is the median of the ratios of runs that were made one after the other.
func (r *report) ratio(link string, w row, column, to string) string {
	a, b := r.cell(link, w.name, column).Runs, r.cell(link, w.name, to).Runs
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i].Seconds > 0 {
			ratios = append(ratios, a[i].Seconds/b[i].Seconds)
		}
	}
	if len(ratios) == 0 {
		return "–"
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f", ratios[len(ratios)/2])
}

func (r *report) extra(link string, w row) (trips, memory string) {
	m, ok := r.cell(link, w.name, "nexec cold").median()
	trips, memory = "–", "–"
	if ok && m.Trips >= 0 {
		trips = fmt.Sprint(m.Trips)
		if known, ok := r.cell(link, w.name, "nexec known").median(); ok && known.Trips >= 0 {
			trips += fmt.Sprintf(" / %d", known.Trips)
		}
	}
	if ok && m.Memory > 0 {
		memory = fmt.Sprint(m.Memory >> 20)
	}
	return trips, memory
}

// line is what is printed when a row is done.
func (r *report) line(s harness.Shape, w row) string {
	var parts []string
	for _, column := range columns() {
		if text := r.text(s.Name, w, column); text != "–" {
			parts = append(parts, column+" "+text)
		}
	}
	trips, memory := r.extra(s.Name, w)
	return fmt.Sprintf("%-10s %-10s %s; trips %s, %s MiB", s.Name, w.name, strings.Join(parts, ", "), trips, memory)
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measurements\n\n%s, %s. Seconds, median of %d (slow rows once), both ends on this machine, over emulated links; `make bench` makes this file.\n", r.Date, r.Machine, r.Runs)
	fmt.Fprintf(&b, "%s; %s; %s; %s.\n\n", r.Versions["go"], r.Versions["ssh"], r.Versions["rsync"], r.Versions["sshfs"])
	b.WriteString("Cold is a first run with nothing kept anywhere; known (nexec) is one with nothing kept on the server, of a command that the client has run before; again (nexec) is the same with what the server's content cache has; warm is the second run of the same command: within one session (nexec, without starting nexec), on the same mount (sshfs), with the tree there (rsync). The rsync way is push, ssh, pull over one connection. Round trips are those that nexec waited for, cold / known; memory is the peak of nexec and nexec-server together. Ratios are medians over runs made in turn. `>` was stopped there.\n")
	for _, link := range r.links {
		fmt.Fprintf(&b, "\n## %s\n\n| workload | %s | round trips | MiB | cold : native | cold : ssh | cold : rsync cold | warm : rsync warm |\n|---%s|\n", link, strings.Join(columns(), " | "), strings.Repeat("|---", len(columns())+6))
		for _, w := range r.rows {
			fmt.Fprintf(&b, "| %s |", w.says)
			for _, column := range columns() {
				fmt.Fprintf(&b, " %s |", r.text(link, w, column))
			}
			trips, memory := r.extra(link, w)
			fmt.Fprintf(&b, " %s | %s | %s | %s | %s | %s |\n", trips, memory,
				r.ratio(link, w, "nexec cold", "native"), r.ratio(link, w, "nexec cold", "ssh"),
				r.ratio(link, w, "nexec cold", "rsync cold"), r.ratio(link, w, "nexec warm", "rsync warm"))
		}
	}
	var notes []string
	for _, c := range r.Cells {
		if c.Note != "" {
			notes = append(notes, fmt.Sprintf("- %s over %s, %s: %s\n", c.Row, c.Link, c.Column, c.Note))
		}
	}
	if len(notes) > 0 {
		b.WriteString("\nNot measured:\n\n" + strings.Join(notes, ""))
	}
	return b.String()
}

// write makes out.md and out.json.
func (r *report) write(out string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(out+".md", []byte(r.markdown()), 0o644), os.WriteFile(out+".json", append(text, '\n'), 0o644))
}
