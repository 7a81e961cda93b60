// Command nexec runs a program on another machine with this machine's files,
// terminal, streams, signals and exit status. See doc/nexec.1.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/cmd/tuning"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/view"
)

// guardOption, as the only argument, makes nexec the guard of a terminal; see
// client.RunGuard. It is nexec's own and not for users.
const guardOption = "--guard-terminal"

func main() {
	if len(os.Args) == 2 && os.Args[1] == guardOption {
		client.RunGuard()
		return
	}
	tuning.Tune()
	v := &voice{w: os.Stderr}
	res, status := run(v, os.Args[1:])
	if res.Signal != 0 {
		client.DieBySignal(res.Signal)
		status = 128 + int(res.Signal)
	}
	os.Exit(status)
}

// run is nexec without its end: it returns the signal to die by, if any, and
// the exit status.
func run(v *voice, args []string) (client.Result, int) {
	o, err := parse(args)
	if err != nil {
		return client.Result{}, v.fail(err, speaker{})
	}
	v.quiet = o.quiet
	switch {
	case o.help:
		_, err = os.Stdout.WriteString(usageText)
	case o.version:
		_, err = fmt.Printf("nexec %s, protocol %d\n", version(), fsyscall.Version)
	default:
		return runHost(v, o)
	}
	if err != nil {
		return client.Result{}, v.fail(err, speaker{})
	}
	return client.Result{}, 0
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func runHost(v *voice, o *options) (client.Result, int) {
	hc, err := loadConfig(configPath(), o.dest.host)
	if err != nil {
		return client.Result{}, v.fail(err, speaker{})
	}
	if o.control == "list" && !o.hasDest {
		return v.control(o, "", speaker{})
	}
	o.adopt(hc)
	vw, err := o.makeView(hc)
	if err != nil {
		return client.Result{}, v.fail(err, speaker{})
	}
	s := speaker{host: o.dest.host, view: vw}
	if o.explain != "" {
		e, err := vw.Explain(o.explain)
		if err == nil {
			err = explain(os.Stdout, o.explain, e, o.dest.host)
		}
		if err != nil {
			return client.Result{}, v.fail(err, s)
		}
		return client.Result{}, 0
	}
	if o.master != "" {
		return runMaster(v, o, s)
	}
	return runCommand(v, o, hc, s)
}

// adopt fills in from the configuration file what the command line left open.
func (o *options) adopt(hc hostConfig) {
	if o.apps == "" {
		o.apps = hc.apps
	}
	if o.ssh == "" {
		o.ssh = hc.ssh
	}
	o.exportOnly = o.exportOnly || hc.exportOnly == "yes"
	o.sync = o.sync || hc.sync == "yes"
	o.noCache = o.noCache || hc.cache == "no"
	o.exports = append(append([]string(nil), hc.exports...), o.exports...) // the last one counts
	o.env = append(append([]string(nil), hc.env...), o.env...)
}

func (o *options) makeView(hc hostConfig) (*view.View, error) {
	return view.New(o.viewApps(), append(o.moves, hc.moves...))
}

func (o *options) viewApps() view.Apps {
	if o.apps == "local" {
		return view.AppsLocal
	}
	return view.AppsRemote
}

// filesArgs are fslave's arguments. Nothing in them is secret.
func (o *options) filesArgs() []string {
	var args []string
	if o.exportOnly {
		args = append(args, "--export-only")
	}
	for _, e := range o.exports {
		args = append(args, "--export", e)
	}
	return args
}

func (o *options) envRules() client.EnvRules {
	r := client.EnvRules{AppsLocal: o.apps == "local"}
	for _, e := range o.env {
		if strings.Contains(e, "=") {
			r.Set = append(r.Set, e)
		} else {
			r.Keep = append(r.Keep, e)
		}
	}
	return r
}

func runCommand(v *voice, o *options, hc hostConfig, s speaker) (client.Result, int) {
	way, err := o.transport(v)
	if err != nil {
		return client.Result{}, v.fail(err, s)
	}
	if o.control != "" {
		id, err := o.identity(way.config(), s.view)
		if err != nil {
			return client.Result{}, v.fail(err, s)
		}
		return v.control(o, id.host, s)
	}
	session := o.session(v, way, s)
	shared, err := o.shared(way, s.view, o.persistent(way, hc))
	if err != nil {
		v.warn("the session does not stay: %s", reason(err))
	}
	if shared != nil {
		defer shared.Sockets.Close()
		session.Shared = shared
	}
	res := client.Run(context.Background(), client.Config{
		Session: session, Argv: o.argv, Env: o.envRules(), Terminal: o.terminal, NoInput: o.noInput,
		Guard: []string{"nexec", guardOption}, Refine: way.refine,
	})
	wayErr := way.wait()
	var lost *client.LostError
	// What came instead of a session says more than how its bearer then ended.
	if errors.As(res.Err, &lost) && !lost.Began && wayErr != nil && !errors.Is(lost, relay.ErrNotNexec) {
		v.say("%s", wayFailed(way.name(), wayErr))
		return res, statusFailure
	}
	return res, v.report(res, s, o.stats)
}

// session describes the session that the options ask for. The one of a master
// keeps statistics in any case: who will want them is not known yet.
func (o *options) session(v *voice, way transport, s speaker) client.SessionConfig {
	return client.SessionConfig{
		Open: way.open, Further: way.further(),
		Files: client.Files{
			Args: o.filesArgs(), Lend: o.master != "",
			Line: func(line string) { v.warn("fslave: %s", printable(line)) },
		},
		View: s.view.Rules(), Sync: o.sync, NoCache: o.noCache, Trace: o.stats || o.master != "",
		Machine: o.machine(v),
	}
}

// machine is what this machine's files are known by in the server's cache,
// zero where that is not to be used.
func (o *options) machine(v *voice) [32]byte {
	if o.noCache {
		return [32]byte{}
	}
	key, err := client.MachineKey()
	if err != nil && (o.stats || o.verbose > 0) {
		v.warn("no content is kept for later sessions: %s", reason(err))
	}
	return key
}

// report says what the user has to know about a session that is over, and
// returns the exit status.
func (v *voice) report(res client.Result, s speaker, stats bool) int {
	status := res.Code
	if res.Signal != 0 {
		status = 128 + int(res.Signal)
	}
	lost := len(res.Lost) > 0 || res.LostCount > 0 || res.OutputErr != nil
	if lost && res.Err == nil && status == 0 {
		status = statusFailure // it is no success
	}
	if res.Err != nil {
		status = v.fail(res.Err, s)
	}
	v.lostWrites(res.Lost, res.LostCount)
	if res.OutputErr != nil {
		v.outputLost(res.OutputErr)
	}
	if stats {
		v.stats(res.Stats)
	}
	return status
}
