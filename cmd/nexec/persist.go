package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/dial"
	"github.com/SumiTomohiko/nexec/fslave"
	"github.com/SumiTomohiko/nexec/fsyscall"
	"github.com/SumiTomohiko/nexec/view"
)

// persistence says whether a session is to stay, and for how long without a
// command; zero is until it is told to end.
type persistence struct {
	said bool // by the user, either way
	stay bool
	idle time.Duration
}

// defaultIdle is --persist's without a value: long enough for the next command
// of somebody at work, short enough not to be forgotten.
const defaultIdle = 10 * time.Minute

// parsePersist reads yes, no or a time as ssh writes it (90, 10m, 1h30m).
func parsePersist(v string) (persistence, error) {
	p := persistence{said: true, stay: true}
	switch v {
	case "", "yes":
		p.idle = defaultIdle
		return p, nil
	case "no":
		p.stay = false
		return p, nil
	}
	for rest := v; rest != ""; {
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		digits, unit := rest, "s"
		if end >= 0 {
			digits, unit = rest[:end], strings.ToLower(rest[end:end+1])
			rest = rest[end+1:]
		} else {
			rest = ""
		}
		n, err := strconv.ParseUint(digits, 10, 31)
		of, ok := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}[unit]
		if err != nil || !ok {
			return p, fmt.Errorf("want yes, no or a time such as 10m")
		}
		p.idle += time.Duration(n) * of
	}
	return p, nil
}

// sshPersist is what ssh_config says: as with ssh, ControlPersist counts for
// who would be a master, which takes ControlMaster and ControlPath.
func sshPersist(c *dial.Config) persistence {
	v := c.Value("ControlPersist")
	if c.ControlMaster == "no" || c.ControlPath == "" || len(v) == 0 || v[0] != "yes" {
		return persistence{}
	}
	p := persistence{stay: true}
	if len(v) > 1 {
		seconds, err := strconv.ParseUint(v[1], 10, 31)
		if err == nil {
			p.idle = time.Duration(seconds) * time.Second
		}
	}
	return p
}

// perCommand tells the keywords of ssh_config that say something of a single
// command, or of who makes sessions: they make no other session.
func perCommand(keyword string) bool {
	switch keyword {
	case "loglevel", "requesttty", "sendenv", "setenv", "stdinnull", "batchmode", "escapechar",
		"controlmaster", "controlpath", "controlpersist", "remotecommand", "sessiontype", "forkafterauthentication":
		return true
	}
	return false
}

// filesVariables are those in the environment that decide about the export
// policy.
var filesVariables = [...]string{"HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "TMPDIR"}

// identity names a session for its socket. host is the same for all sessions
// with one account of one host; the rest tells those apart in which a command
// would find other files, or that were reached in another way.
type identity struct{ host, name string }

func (o *options) identity(way *dial.Config, vw *view.View) (identity, error) {
	host, rest := newFingerprint(), newFingerprint()
	rest.add("uid", strconv.Itoa(os.Geteuid()), "protocol", strconv.Itoa(fsyscall.Version))
	if way != nil {
		host.add("ssh", way.HostName, way.User, strconv.Itoa(way.Port))
		for _, k := range way.Keywords() {
			if !perCommand(k) {
				rest.add(append([]string{"keyword", k}, way.Value(k)...)...)
			}
		}
	} else {
		args, err := o.sshArguments()
		if err != nil {
			return identity{}, err
		}
		host.add("command", o.dest.host, o.user, o.dest.user, strconv.Itoa(o.port), strconv.Itoa(o.dest.port))
		rest.add(append([]string{"command"}, args...)...)
	}
	// A master of another version is left alone until it ends.
	exe, err := os.Stat("/proc/self/exe")
	if err != nil {
		return identity{}, err
	}
	rest.add("program", exe.ModTime().String(), strconv.FormatInt(exe.Size(), 10))
	for _, r := range vw.Rules() {
		rest.add("view", r.Path, strconv.FormatBool(r.Remote))
	}
	cwd, err := o.exportedCwd()
	if err != nil {
		return identity{}, err
	}
	rest.add(append([]string{"exports", strconv.FormatBool(o.exportOnly), cwd}, o.exports...)...)
	rest.add("caches", strconv.FormatBool(o.sync), strconv.FormatBool(o.noCache))
	for _, name := range filesVariables {
		rest.add(name, os.Getenv(name))
	}
	h := host.sum(16)
	return identity{host: h + "-", name: h + "-" + rest.sum(24)}, nil
}

// exportedCwd is the working directory if the default rules lend it, and lend
// it because it is the working directory. It is empty where it lies in what is
// lent read-write anyway: such directories make no other session. Paths are
// taken as they stand; the file service of the session gets this directory
// and no other, so that a symbolic link can at worst make it lend less.
func (o *options) exportedCwd() (string, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return "", &client.CwdError{Err: err}
	}
	without := fslave.Defaults{UID: os.Getuid(), ExportOnly: o.exportOnly}
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		without.Home = filepath.Clean(home)
	}
	with := without
	with.Cwd = filepath.Clean(cwd)
	if len(with.Rules(nil)) == len(without.Rules(nil)) {
		return "", nil
	}
	var rules []fslave.Rule
	for _, s := range o.exports {
		r, err := fslave.ParseRule(s, with.Home, with.Cwd)
		if err != nil {
			return "", err
		}
		rules = append(rules, r)
	}
	if modeOf(with.Cwd, without.Rules(rules)) == fslave.ModeReadWrite {
		return "", nil
	}
	return with.Cwd, nil
}

// modeOf is the mode that rules give a path, links and other files aside: that
// of the longest one above it; of two for one place the user's, then the
// stricter.
func modeOf(path string, rules []fslave.Rule) fslave.Mode {
	best := fslave.Rule{Mode: fslave.ModeHide}
	for _, r := range rules {
		above := r.Path == "/" || path == r.Path || strings.HasPrefix(path, r.Path+"/")
		switch {
		case !above || len(r.Path) < len(best.Path):
		case len(r.Path) > len(best.Path), r.User, !best.User && r.Mode < best.Mode:
			best = r
		}
	}
	return best.Mode
}

// fingerprint hashes lists of strings, no two of which look the same to it.
type fingerprint struct{ text strings.Builder }

func newFingerprint() *fingerprint { return &fingerprint{} }

func (f *fingerprint) add(words ...string) {
	fmt.Fprintf(&f.text, "%d", len(words))
	for _, w := range words {
		fmt.Fprintf(&f.text, " %d:%s", len(w), w)
	}
}

// sum returns the first n hexadecimal digits.
func (f *fingerprint) sum(n int) string {
	h := sha256.Sum256([]byte(f.text.String()))
	return hex.EncodeToString(h[:])[:n]
}

// persistent settles whether the session is to stay. Where the command line and the configuration file are silent, ssh_config
// decides.
func (o *options) persistent(t transport, hc hostConfig) persistence {
	if o.persist.said {
		return o.persist
	}
	if hc.persist.said {
		return hc.persist
	}
	if c := t.config(); c != nil {
		return sshPersist(c)
	}
	return persistence{}
}

// shared finds the session that stays for this command. It is nil without one.
func (o *options) shared(way transport, vw *view.View, p persistence) (*client.Shared, error) {
	if !p.stay {
		return nil, nil
	}
	id, err := o.identity(way.config(), vw)
	if err != nil {
		return nil, err
	}
	sockets, err := client.OpenSockets()
	if err != nil {
		return nil, err
	}
	return &client.Shared{Sockets: sockets, Name: id.name, Launch: o.launch(p, id.name)}, nil
}

// launch returns what starts a master: this program once more, with the same
// options and in the same place, so that it comes to the same conclusions, and
// with this one's standard error and terminal for as long as the connection
// may need to ask something.
func (o *options) launch(p persistence, name string) func(*net.UnixListener) error {
	return func(l *net.UnixListener) error {
		f, err := l.File()
		if err != nil {
			return err
		}
		defer f.Close()
		args := append([]string{"--master", name, fmt.Sprintf("--persist=%d", int(p.idle/time.Second))}, o.before...)
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := exec.Command(exe, args...)
		cmd.Args[0] = os.Args[0]
		cmd.Stderr = os.Stderr
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Start(); err != nil {
			return err
		}
		// It lives longer than this process, as a rule.
		return cmd.Process.Release()
	}
}
