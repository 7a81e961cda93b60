// Command fslave serves the user's files to a session's server, inside the
// export policy, over its standard input and output. nexec starts it; it ends
// when its input ends.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fslave"
	"github.com/SumiTomohiko/nexec/relay"
)

type options struct {
	home, cwd  string
	exportOnly bool
	exports    []string
	explain    string
	show       bool
	stats      bool
	require    bool
	stdio      map[int]int // slot → descriptor
	lent       int         // descriptor of a socket, or 0
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "fslave: %v\n", strings.TrimPrefix(err.Error(), "fslave: "))
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{stdio: map[int]int{}}
	cwd, _ := os.Getwd()
	f := flag.NewFlagSet("fslave", flag.ContinueOnError)
	f.StringVar(&o.home, "home", os.Getenv("HOME"), "home `directory`, read-write with its secrets hidden")
	f.StringVar(&o.cwd, "cwd", cwd, "working `directory`, read-write")
	f.BoolVar(&o.exportOnly, "export-only", false, "export nothing but what --export names")
	f.Func("export", "`PATH[:rw|ro|hide]`, any number of times", func(s string) error {
		o.exports = append(o.exports, s)
		return nil
	})
	f.Func("stdio", "`SLOT=FD`: standard stream SLOT of the first command is a file, open on descriptor FD", o.addStdio)
	f.IntVar(&o.lent, "lent", 0, "`descriptor` of a socket on which the files of further commands come")
	f.StringVar(&o.explain, "explain", "", "say what the server may do with `PATH`, and why, and end")
	f.BoolVar(&o.show, "show-exports", false, "print the rules in force and end")
	f.BoolVar(&o.stats, "stats", false, "print the layers of confinement and what was served, on standard error")
	f.BoolVar(&o.require, "require-sandbox", false, "do not go on without every layer of confinement")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return o, nil
}

func (o *options) addStdio(s string) error {
	slot, fd, ok := strings.Cut(s, "=")
	n, err := strconv.Atoi(slot)
	m, err2 := strconv.Atoi(fd)
	if !ok || err != nil || err2 != nil || n < 0 || n > 2 || m < 3 {
		return errors.New("not SLOT=FD with a slot of 0, 1 or 2 and a descriptor above 2")
	}
	o.stdio[n] = m
	return nil
}

func (o *options) policy() (*fslave.Policy, error) {
	d := fslave.Defaults{UID: os.Getuid(), ExportOnly: o.exportOnly}
	if filepath.IsAbs(o.home) {
		d.Home = filepath.Clean(o.home)
	}
	if filepath.IsAbs(o.cwd) {
		d.Cwd = filepath.Clean(o.cwd)
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
		if dir := os.Getenv(name); filepath.IsAbs(dir) {
			d.Own = append(d.Own, filepath.Join(dir, "nexec"))
		}
	}
	var rules []fslave.Rule
	for _, s := range o.exports {
		r, err := fslave.ParseRule(s, d.Home, d.Cwd)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return fslave.NewPolicy("/", d.Rules(rules))
}

func run(o *options) error {
	policy, err := o.policy()
	if err != nil {
		return err
	}
	switch {
	case o.explain != "":
		path, err := filepath.Abs(o.explain)
		if err != nil {
			return err
		}
		mode, rule, reason := policy.Explain(path)
		fmt.Printf("%q is %v: rule %q, %s\n", path, mode, rule, reason)
		return nil
	case o.show:
		for _, r := range policy.Rules() {
			fmt.Printf("%-4v %q  %s\n", r.Mode, r.Path, r.Reason)
		}
		return nil
	}
	return serve(o, policy)
}

func serve(o *options, policy *fslave.Policy) error {
	var keep []int
	streams := map[int]*os.File{}
	for slot, fd := range o.stdio {
		keep = append(keep, fd)
		streams[slot] = os.NewFile(uintptr(fd), "stdio")
	}
	if o.lent > 2 {
		keep = append(keep, o.lent)
	}
	if err := fslave.CloseInherited(keep...); err != nil {
		return err
	}
	stdio := func(cmd uint32, slot uint8) (*os.File, bool) {
		f, ok := streams[int(slot)]
		return f, ok && cmd == 0
	}
	if o.lent > 2 {
		lent := fslave.NewLent(o.lent)
		defer lent.Close()
		stdio = lent.File
	}
	unix.Umask(0)
	signal.Ignore(unix.SIGXFSZ) // a file size limit is an error of the write, EFBIG
	pipes, err := relay.NewPipes(os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	conn := relay.NewMessageConn(pipes)
	s, err := fslave.New(fslave.Config{
		Policy: policy,
		Stdio:  stdio,
	}, conn)
	if err != nil {
		return err
	}
	layers, err := s.Confine()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if o.require && l.Missing != "" {
			return fmt.Errorf("%v (go on without it by leaving out --require-sandbox)", l)
		}
		if o.stats {
			fmt.Fprintf(os.Stderr, "fslave: confined by %v\n", l)
		}
	}
	err = s.Serve()
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		err = nil // nexec has gone with answers unread, which is for it to explain
	}
	if o.stats {
		printStats(s.Stats())
	}
	return err
}

func printStats(st fslave.Stats) {
	calls := uint64(0)
	for _, n := range st.Calls {
		calls += n
	}
	fmt.Fprintf(os.Stderr, "fslave: %d calls, %d leases revoked, %d directories not watched, %d watches given up, %d overflows\n",
		calls, st.Revoked, st.WatchesFailed, st.WatchesDropped, st.Overflows)
	if st.LinkScanCut {
		fmt.Fprintln(os.Stderr, "fslave: too many files in protected directories to know all their hard links")
	}
}
