// Command demo starts a throw-away nexecd on loopback with throw-away keys,
// runs commands on files of a throw-away home directory, shows what happened,
// and cleans up. `make demo` runs it. It exits with status 1 if anything is
// not as it says.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/test/harness"
)

func main() {
	if err := demo(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// scene is one command of the demonstration.
type scene struct {
	says   string
	script string // for sh, in the client's working directory; nexec is in its PATH
	want   string // must occur in the output
	status int
}

func scenes() []scene {
	return []scene{
		{"A command, with the processor of the other machine.",
			`nexec box uname -sm`, "Linux", 0},
		{"It works on the files of this one, in this directory.",
			`nexec box sh -c 'pwd; sort <words >sorted; wc -l sorted'; head -n 3 sorted`, "apple", 0},
		{"Arguments arrive as typed, and so does the exit status.",
			`nexec box sh -c 'echo "[$1] [$2]"; exit 7' sh 'two  words' '*'; echo "status $?"`, "status 7", 0},
		{"Pipes are pipes.",
			`tar cf - words sorted | nexec box gzip -9 | tar tzf -`, "words\nsorted", 0},
		{"A redirected file is that file: the server appends to it.",
			`echo one >log; nexec box echo two >>log; echo three >>log; cat log`, "one\ntwo\nthree", 0},
		{"A program of yours runs there too, straight from your tree.",
			`cp /bin/ls ./my-ls; nexec box ./my-ls`, "my-ls", 0},
		{"A signal that ends the command ends nexec likewise.",
			`sh -c 'nexec box sleep 100 & sleep 1; kill -TERM $!; wait $!'`, "", 143},
		{"Secrets are not lent: the server does not see ~/.ssh.",
			`mkdir -p ~/.ssh; echo secret >~/.ssh/id_demo; nexec box cat ~/.ssh/id_demo`, "No such file", 1},
		{"Where does a path come from?",
			`nexec --explain /usr/bin/python3 box; nexec --explain $PWD/words box`, "client", 0},
		{"Several at once, in one tree.",
			`for i in 1 2 3 4; do nexec box sh -c "seq $i 1000000 | tail -n 1 >n.$i" & done; wait; cat n.*`, "1000000\n1000000\n1000000\n1000000", 0},
	}
}

func demo() (err error) {
	if err := checkFUSE(); err != nil {
		return err
	}
	if err := harness.Adopt(); err != nil {
		return err
	}
	s, err := harness.NewSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p, err := s.StartNexecd(harness.ServerOptions{Alias: "box"})
	if err != nil {
		return err
	}
	fmt.Printf("nexecd listens on 127.0.0.1 port %d; its keys and all files of this demo are in %s\n", p.Port, s.Dir)
	if err := prepare(s); err != nil {
		return err
	}
	for _, sc := range scenes() {
		if err := show(s, sc); err != nil {
			return err
		}
	}
	if left := s.Leftovers(5 * time.Second); len(left) != 0 {
		return fmt.Errorf("processes are left: %v", left)
	}
	fmt.Printf("\nNothing is left of the sessions. nexecd and the files end with the demo.\n")
	return nil
}

func checkFUSE() error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: a session needs it; as root, `modprobe fuse && chmod 0666 /dev/fuse` (as Debian's udev has it)", err)
	}
	return f.Close()
}

// prepare makes the files that the scenes use, and a nexec that uses the
// site's configuration.
func prepare(s *harness.Site) error {
	if err := os.WriteFile(filepath.Join(s.Work, "words"), []byte("pear\napple\nfig\nquince\n"), 0o644); err != nil {
		return err
	}
	tools := filepath.Join(s.Client, "bin")
	if err := os.Mkdir(tools, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", filepath.Join(s.Bin, "nexec"), s.Config)
	return os.WriteFile(filepath.Join(tools, "nexec"), []byte(text), 0o755)
}

// show runs a scene and holds it to what it says.
func show(s *harness.Site, sc scene) error {
	fmt.Printf("\n# %s\n$ %s\n", sc.says, sc.script)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := s.Command(ctx, "sh", "-c", sc.script)
	c.Env = append(c.Env, "PATH="+filepath.Join(s.Client, "bin")+":"+os.Getenv("PATH"))
	start := time.Now()
	out, err := c.CombinedOutput()
	os.Stdout.Write(out)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if got := c.ProcessState.ExitCode(); got != sc.status {
		return fmt.Errorf("status %d, expected %d", got, sc.status)
	}
	if !strings.Contains(string(out), sc.want) {
		return fmt.Errorf("expected %q in the output", sc.want)
	}
	fmt.Printf("  (%.2f s)\n", time.Since(start).Seconds())
	return nil
}
