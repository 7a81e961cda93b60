// Command bench measures nexec against the same work done natively, by ssh
// alone, by rsync there and back, and on an sshfs mount, over emulated links.
// It starts everything itself, on loopback, and writes doc/bench.md and
// doc/bench.json. `make bench` runs it; BENCHFLAGS='-rows echo,find -runs 5'
// and so on choose a part.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

type bench struct {
	site *harness.Site
	lua  string // archive of the C library
	src  string // file of random bytes on the server
	runs int
	max  time.Duration
}

func shapes() []harness.Shape {
	return []harness.Shape{
		{Name: "loopback"},
		{Name: "20ms-1G", Delay: 10 * time.Millisecond, Rate: 1e9 / 8},
		{Name: "80ms-1G", Delay: 40 * time.Millisecond, Rate: 1e9 / 8},
		{Name: "80ms-100M", Delay: 40 * time.Millisecond, Rate: 100e6 / 8},
	}
}

func main() {
	var (
		rowNames  = flag.String("rows", "echo,find,git-status,git-grep,lua,untar,python,read,write,cpu,usr", "rows to run, or all; also read-256m, sessions-1, sessions-10, sessions-100, find-100k, find-1m")
		linkNames = flag.String("links", "loopback,20ms-1G,80ms-100M", "links to run over; also 80ms-1G")
		peerNames = flag.String("peers", "native,ssh,rsync,sshfs,nexec", "what to measure")
		runs      = flag.Int("runs", 3, "runs of each row, of which the median counts")
		limit     = flag.Duration("max", 2*time.Minute, "how long one run may take")
		out       = flag.String("out", "doc/bench", "where the results go, without .md and .json")
	)
	flag.Parse()
	b := &bench{runs: *runs, max: *limit}
	if err := b.run(split(*rowNames), split(*linkNames), split(*peerNames), *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func split(s string) []string { return strings.Split(s, ",") }

func chosen(names []string, name string) bool {
	return slices.Contains(names, name) || slices.Contains(names, "all")
}

func shell(dir, script string) error {
	c := exec.Command("sh", "-ec", script)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

func (b *bench) run(rowNames, linkNames, peerNames []string, out string) (err error) {
	if err := harness.Adopt(); err != nil {
		return err
	}
	if b.lua, err = filepath.Abs("test/.cache/lua.tar.gz"); err != nil {
		return err
	}
	if chosen(rowNames, "lua") {
		if err := shell(".", "test/lua.sh test/.cache"); err != nil {
			return err
		}
	}
	if b.site, err = harness.NewSite(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.site.Close()) }()
	// The server's own disk: /var comes from the server in every session.
	source, err := os.MkdirTemp("/var/tmp", "nexec-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(source)
	b.src = filepath.Join(source, "random")
	if chosen(rowNames, "write") {
		if err := shell(source, "head -c 1073741824 /dev/urandom >random"); err != nil {
			return err
		}
	}
	// So that a hundred may knock at once.
	const startups = "MaxStartups 200"
	nexecd, err := b.site.StartNexecd(harness.ServerOptions{Alias: "direct", Config: []string{startups}})
	if err != nil {
		return err
	}
	sshd, err := b.site.StartSSHD(harness.ServerOptions{Alias: "directssh", Config: []string{"Subsystem sftp internal-sftp", startups}})
	if err != nil {
		return err
	}
	report := newReport(b.runs)
	for _, shape := range shapes() {
		if !chosen(linkNames, shape.Name) {
			continue
		}
		if err := b.overLink(shape, nexecd.Port, sshd.Port, rowNames, peerNames, report); err != nil {
			return err
		}
	}
	return report.write(out)
}

// overLink runs all rows over one link.
func (b *bench) overLink(shape harness.Shape, nexecdPort, sshdPort int, rowNames, peerNames []string, report *report) error {
	ports := map[string]int{"nexec-" + shape.Name: nexecdPort, "ssh-" + shape.Name: sshdPort}
	for alias, port := range ports {
		if !shape.Direct() {
			link, err := harness.NewLink(shape, fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				return err
			}
			defer link.Close()
			port = link.Port()
		}
		if err := b.site.AddHost(alias, port, "Compression no"); err != nil {
			return err
		}
	}
	for _, r := range b.rows() {
		if !chosen(rowNames, r.name) {
			continue
		}
		if line := shape.Carries(r.bytes); line > b.max/2 {
			fmt.Printf("%-10s %-10s left out: the line alone takes %s\n", shape.Name, r.name, line.Round(time.Second))
			continue
		}
		dir := filepath.Join(b.site.Work, r.name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if r.prepare != nil {
			if err := r.prepare(dir); err != nil {
				return err
			}
		}
		b.row(shape, r, dir, peerNames, report)
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// row runs a row's peers in turn, several times over, so that what disturbs
// the machine disturbs all of them.
func (b *bench) row(shape harness.Shape, r row, dir string, peerNames []string, report *report) {
	given := map[string]bool{}
	for run := range b.runs {
		if run > 0 && r.slow {
			break
		}
		for _, p := range b.peers(shape) {
			if !chosen(peerNames, p.name) || given[p.name] || !p.does(r) {
				continue
			}
			results, err := p.measure(r, dir)
			if err != nil {
				report.note(shape, r, p.name, err)
				given[p.name] = true // once is enough to know
				continue
			}
			for what, m := range results {
				report.add(shape, r, what, m)
			}
		}
	}
	fmt.Println(report.line(shape, r))
}
