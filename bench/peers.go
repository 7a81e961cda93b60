package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

// measurement is one run.
type measurement struct {
	Seconds float64 `json:"seconds"`
	// Trips is how many round trips nexec waited for, -1 if it did not say.
	Trips int `json:"trips"`
	// Memory is the peak of nexec and nexec-server together, in bytes.
	Memory int64 `json:"memory,omitempty"`
}

// peer is a way to have a row's work done. measure returns one measurement
// for each column that it fills.
type peer struct {
	name    string
	does    func(row) bool
	measure func(r row, dir string) (map[string]measurement, error)
}

func (b *bench) peers(shape harness.Shape) []peer {
	p := peering{b, shape}
	always := func(row) bool { return true }
	return []peer{
		{"native", always, p.native},
		{"ssh", func(r row) bool { return r.ssh != "" }, p.ssh},
		{"rsync", func(r row) bool { return !r.noFiles }, p.rsync},
		{"sshfs", func(r row) bool { return !r.noFiles && r.name != "find-1m" }, p.sshfs},
		{"nexec", always, p.nexec},
	}
}

type peering struct {
	*bench
	shape harness.Shape
}

// timed runs a script on the client and returns how long it took.
func (p peering) timed(dir, script string, env ...string) (time.Duration, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.max)
	defer cancel()
	c := p.site.Command(ctx, "sh", "-ec", script)
	c.Dir = dir
	c.Env = append(append(c.Env, "SRC="+p.src, "DIR="+dir), env...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	start := time.Now()
	err := c.Run()
	took := time.Since(start)
	if ctx.Err() != nil {
		return took, "", fmt.Errorf("stopped after %s", p.max)
	}
	if err != nil {
		return took, "", fmt.Errorf("%w: %s", err, firstLine(stderr.String()))
	}
	return took, stderr.String(), nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func (p peering) before(r row, dir string) error {
	if r.before == "" {
		return nil
	}
	return shell(dir, r.before)
}

func seconds(d time.Duration) measurement { return measurement{Seconds: d.Seconds(), Trips: -1} }

func (p peering) native(r row, dir string) (map[string]measurement, error) {
	if err := p.before(r, dir); err != nil {
		return nil, err
	}
	took, _, err := p.timed(dir, r.script)
	return map[string]measurement{"native": seconds(took)}, err
}

func (p peering) sshCommand() string {
	return fmt.Sprintf("ssh -F %s -o BatchMode=yes", p.site.Config)
}

func (p peering) ssh(r row, dir string) (map[string]measurement, error) {
	remote := strings.NewReplacer("$SRC", p.src, "$DIR", dir).Replace(r.ssh)
	took, _, err := p.timed(dir, r.times(fmt.Sprintf("%s ssh-%s %s >/dev/null", p.sshCommand(), p.shape.Name, quote(remote))))
	return map[string]measurement{"ssh": seconds(took)}, err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// rsync is the manual way: push, run, pull, over one connection. Cold has
// nothing there; warm has the tree of the run before.
func (p peering) rsync(r row, dir string) (map[string]measurement, error) {
	// It goes with the site, at the end: see putAway.
	there, err := os.MkdirTemp(filepath.Join(p.site.Server, "tmp"), "rsync-"+r.name+"-")
	if err != nil {
		return nil, err
	}
	if r.bytes > 0 {
		defer os.RemoveAll(there)
	}
	socket := filepath.Join(p.site.Client, "mux")
	ssh := fmt.Sprintf("%s -o ControlMaster=auto -o ControlPath=%s -o ControlPersist=30", p.sshCommand(), socket)
	host := "ssh-" + p.shape.Name
	remote := "cd " + there + " && SRC=" + p.src + " && " + r.script
	script := fmt.Sprintf("rsync -a -e %s ./ %s:%s/; %s %s %s >/dev/null; rsync -a -e %s %s:%s/ ./; %s -O exit %s 2>/dev/null",
		quote(ssh), host, there, ssh, host, quote(remote), quote(ssh), host, there, ssh, host)
	results := map[string]measurement{}
	for _, what := range []string{"rsync cold", "rsync warm"} {
		if err := p.before(r, dir); err != nil {
			return results, err
		}
		took, _, err := p.timed(dir, script)
		if err != nil {
			return results, err
		}
		results[what] = seconds(took)
		if r.before != "" && what == "rsync cold" {
			if err := shell(there, r.before); err != nil {
				return results, err
			}
		}
	}
	return results, nil
}

// sshfs mounts the client's directory on the server, over the link, and runs
// the script there. What it would take to start the script by ssh is left out.
func (p peering) sshfs(r row, dir string) (map[string]measurement, error) {
	if _, err := exec.LookPath("sshfs"); err != nil {
		return nil, fmt.Errorf("not installed")
	}
	point := filepath.Join(p.site.Server, "tmp", "sshfs")
	if err := os.MkdirAll(point, 0o755); err != nil {
		return nil, err
	}
	defer os.Remove(point)
	defer exec.Command("umount", "-l", point).Run()
	if err := p.before(r, dir); err != nil {
		return nil, err
	}
	mount := fmt.Sprintf("sshfs -o ssh_command=%s ssh-%s:%s %s", quote(strings.ReplaceAll(p.sshCommand(), ",", `\,`)), p.shape.Name, dir, point)
	run := "cd " + point + " && " + r.script + " >/dev/null"
	results := map[string]measurement{}
	took, _, err := p.timed(dir, mount+"; "+run)
	if err != nil {
		return results, err
	}
	results["sshfs cold"] = seconds(took)
	if err := p.before(r, dir); err != nil {
		return results, err
	}
	if took, _, err = p.timed(dir, run); err == nil {
		results["sshfs warm"] = seconds(took)
	}
	return results, err
}

// storeTime is more than a session takes to store what it has read, once it is
// over.
const storeTime = 2 * time.Second

// noticeTime is more than a session takes to hear of changes on the client.
const noticeTime = time.Second

var tripsLine = regexp.MustCompile(`(?im)round[ -]trips waited(?: for)?:?\s*(\d+)`)

// nexec runs the script as one command: cold in a session of its own, known in
// one to which the first one has left its working set alone, again in one that
// finds what it has left in the content cache as well, and warm as the second
// one of a session.
func (p peering) nexec(r row, dir string) (map[string]measurement, error) {
	host := "nexec-" + p.shape.Name
	nexec := fmt.Sprintf("%s/nexec -F %s --stats -e SRC=%s", p.site.Bin, p.site.Config, p.src)
	if err := p.before(r, dir); err != nil {
		return nil, err
	}
	// A machine that the server does not know.
	state, err := os.MkdirTemp(p.site.Client, "state-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	command := r.times(fmt.Sprintf("%s %s sh -c %s >/dev/null", nexec, host, quote(r.script)))
	watch := watchMemory()
	cold, err := p.session(dir, command, state)
	cold.Memory = watch()
	if err != nil {
		return nil, err
	}
	results := map[string]measurement{"nexec cold": cold}
	if r.sessions > 0 {
		return results, nil
	}
	time.Sleep(storeTime)
	for _, name := range []string{"nexec known", "nexec again"} {
		from := state
		if name == "nexec known" {
			// Another machine, so that the server has nothing of it.
			if from, err = os.MkdirTemp(p.site.Client, "state-"); err != nil {
				return results, err
			}
			defer os.RemoveAll(from)
			sets := "nexec/worksets"
			if err := os.CopyFS(filepath.Join(from, sets), os.DirFS(filepath.Join(state, sets))); err != nil {
				return results, err
			}
		}
		if err := p.before(r, dir); err != nil {
			return results, err
		}
		if results[name], err = p.session(dir, command, from); err != nil {
			delete(results, name)
			return results, err
		}
		time.Sleep(storeTime)
	}
	if warm, err := p.warm(r, dir, host); err != nil {
		return results, err
	} else {
		results["nexec warm"] = warm
	}
	return results, nil
}

// session times a command in a session of its own whose client remembers what
// state has.
func (p peering) session(dir, command, state string) (measurement, error) {
	took, said, err := p.timed(dir, command, "XDG_STATE_HOME="+state)
	m := seconds(took)
	if found := tripsLine.FindStringSubmatch(said); found != nil {
		m.Trips, _ = strconv.Atoi(found[1])
	}
	return m, err
}

// warm times the second command of one session: a shell that is told to run
// the script twice, and what it took from the order to the answer. This is
// what a further command of a session that stays costs, without starting nexec.
func (p peering) warm(r row, dir, host string) (measurement, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*p.max)
	defer cancel()
	c := p.site.Nexec(ctx, "-e", "SRC="+p.src, host, "sh")
	c.Dir = dir
	in, err := c.StdinPipe()
	if err != nil {
		return measurement{}, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return measurement{}, err
	}
	if err := c.Start(); err != nil {
		return measurement{}, err
	}
	defer c.Wait()
	defer in.Close()
	var took time.Duration
	for range 2 {
		if err := p.before(r, dir); err != nil {
			return measurement{}, err
		}
		time.Sleep(noticeTime)
		start := time.Now()
		fmt.Fprintf(in, "( %s ) >/dev/null; echo $?\n", r.script)
		answer, err := readLine(out)
		if err != nil || answer != "0" {
			return measurement{}, fmt.Errorf("answer %q, %v", answer, err)
		}
		took = time.Since(start)
	}
	return seconds(took), nil
}

func readLine(r interface{ Read([]byte) (int, error) }) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		if _, err := r.Read(one); err != nil {
			return string(line), err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[0])
	}
}

// watchMemory samples the processes of a session until the returned function
// is called, which gives the sum of their peaks. A peak is the kernel's own
// figure, so that looking seldom is enough once short commands are over; it
// takes processor time from what is measured.
func watchMemory() func() int64 {
	stop, done := make(chan struct{}), make(chan struct{})
	peaks := map[int]int64{}
	go func() {
		defer close(done)
		for pause := 20 * time.Millisecond; ; pause = min(pause*5/4, 250*time.Millisecond) {
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
			for _, name := range []string{"nexec", "nexec-server"} {
				for _, proc := range harness.Named(name) {
					peaks[proc.PID] = max(peaks[proc.PID], harness.RSS(proc.PID))
				}
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-done
		var sum int64
		for _, p := range peaks {
			sum += p
		}
		return sum
	}
}
