package main

import (
	"path/filepath"
	"strings"

	"github.com/SumiTomohiko/nexec/client"
	"github.com/SumiTomohiko/nexec/view"
)

// options is the command line.
type options struct {
	dest    destination
	hasDest bool
	before  []string // what was typed before the command
	argv    []string

	// As ssh's.
	port       int
	user       string
	configFile string
	identities []string
	jump       string
	settings   []string
	terminal   client.TerminalUse
	ttySaid    bool
	verbose    int
	quiet      bool
	noInput    bool

	// nexec's own.
	env        []string
	moves      []view.Move
	apps       string
	exports    []string
	exportOnly bool
	explain    string
	sync       bool
	noCache    bool
	stats      bool
	ssh        string
	persist    persistence
	control    string // -O
	master     string // the name of the socket that this process is to serve
	version    bool
	help       bool
}

// option is one row of the table of options: apply gets the value, if the
// option takes one.
type option struct {
	names    string // as typed, separated by spaces
	value    bool
	apply    func(o *options, name, value string) error
	optional bool // the value may be attached with =, or be left out
}

func flagOption(names string, set func(*options)) option {
	return option{names: names, apply: func(o *options, _, _ string) error { set(o); return nil }}
}

func textOption(names string, set func(*options, string)) option {
	return option{names: names, value: true, apply: func(o *options, _, v string) error { set(o, v); return nil }}
}

func valueOption(names string, apply func(o *options, name, value string) error) option {
	return option{names: names, value: true, apply: apply}
}

func optionTable() []option {
	return []option{
		valueOption("-p", setPort),
		textOption("-l", func(o *options, v string) { o.user = v }),
		textOption("-i", func(o *options, v string) { o.identities = append(o.identities, v) }),
		textOption("-F", func(o *options, v string) { o.configFile = v }),
		textOption("-o", func(o *options, v string) { o.settings = append(o.settings, v) }),
		textOption("-J", func(o *options, v string) { o.jump = v }),
		flagOption("-t", wantTerminal),
		flagOption("-T", func(o *options) { o.terminal, o.ttySaid = client.TerminalNone, true }),
		flagOption("-v", func(o *options) { o.verbose++ }),
		flagOption("-q", func(o *options) { o.quiet = true }),
		flagOption("-n", func(o *options) { o.noInput = true }),
		valueOption("-e --env", addEnv),
		valueOption("--remote", addMove(view.Remote)),
		valueOption("--local", addMove(view.Local)),
		valueOption("--apps", setApps),
		valueOption("--export", addExport),
		flagOption("--export-only", func(o *options) { o.exportOnly = true }),
		valueOption("--explain", setExplain),
		flagOption("--sync", func(o *options) { o.sync = true }),
		flagOption("--no-cache", func(o *options) { o.noCache = true }),
		flagOption("--stats", func(o *options) { o.stats = true }),
		valueOption("--ssh", setSSH),
		{names: "--persist", value: true, optional: true, apply: setPersist},
		valueOption("-O", setControl),
		textOption("--master", func(o *options, v string) { o.master = v }),
		flagOption("-V --version", func(o *options) { o.version = true }),
		flagOption("-h --help", func(o *options) { o.help = true }),
	}
}

func setPort(o *options, name, v string) error {
	n, ok := parsePort(v)
	if !ok {
		return badValue(name, v, "not a number from 1 to 65535")
	}
	o.port = n
	return nil
}

// wantTerminal is -t; given twice it makes a terminal even without one here.
func wantTerminal(o *options) {
	if o.terminal == client.TerminalWanted {
		o.terminal = client.TerminalForced
	} else if o.terminal != client.TerminalForced {
		o.terminal = client.TerminalWanted
	}
	o.ttySaid = true
}

func addEnv(o *options, name, v string) error {
	if n, _, _ := strings.Cut(v, "="); n == "" {
		return badValue(name, v, "the variable's name is empty")
	}
	o.env = append(o.env, v)
	return nil
}

// absolute makes a path that was typed here absolute.
func absolute(name, v string) (string, error) {
	if v == "" {
		return "", badValue(name, v, "the path is empty")
	}
	p, err := filepath.Abs(v)
	if err != nil {
		return "", badValue(name, v, reason(err))
	}
	return p, nil
}

func addMove(side view.Side) func(*options, string, string) error {
	return func(o *options, name, v string) error {
		p, err := absolute(name, v)
		if err == nil {
			o.moves = append(o.moves, view.Move{Path: p, Side: side, Origin: name})
		}
		return err
	}
}

func setApps(o *options, name, v string) error {
	if _, err := view.ParseApps(v); err != nil {
		return badValue(name, v, "want remote or local")
	}
	o.apps = v
	return nil
}

// addExport makes the path of PATH[:rw|ro|hide] absolute and checks the mode.
func addExport(o *options, name, v string) error {
	e, err := exportRule(name, v)
	if err == nil {
		o.exports = append(o.exports, e)
	}
	return err
}

func exportRule(name, v string) (string, error) {
	path, mode := v, ""
	if i := strings.LastIndexByte(v, ':'); i >= 0 && !strings.Contains(v[i:], "/") {
		path, mode = v[:i], v[i:]
	}
	switch mode {
	case "", ":rw", ":ro", ":hide":
	default:
		return "", badValue(name, v, "the mode after the colon is rw, ro or hide")
	}
	p, err := absolute(name, path)
	return p + mode, err
}

func setExplain(o *options, name, v string) error {
	p, err := absolute(name, v)
	o.explain = p
	return err
}

func setSSH(o *options, name, v string) error {
	if _, err := splitCommand(v); err != nil {
		return badValue(name, v, err.Error())
	}
	o.ssh = v
	return nil
}

func setPersist(o *options, name, v string) error {
	p, err := parsePersist(v)
	if err != nil {
		return badValue(name, v, err.Error())
	}
	o.persist = p
	return nil
}

func setControl(o *options, name, v string) error {
	switch v {
	case "check", "exit", "list":
		o.control = v
		return nil
	}
	return badValue(name, v, "want check, exit or list")
}

// parse reads the command line as ssh does: options stop at the first
// argument that is none, short ones may be clustered, and a value may be
// attached to its option or follow it.
func parse(args []string) (*options, error) {
	o := &options{before: args}
	byName := map[string]option{}
	for _, opt := range optionTable() {
		for name := range strings.FieldsSeq(opt.names) {
			byName[name] = opt
		}
	}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "-" {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			break
		}
		var err error
		if strings.HasPrefix(arg, "--") {
			args, err = o.long(byName, arg, args)
		} else {
			args, err = o.short(byName, arg, args)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(args) > 0 {
		var err error
		if o.dest, err = parseDestination(args[0]); err != nil {
			return nil, err
		}
		o.hasDest, o.argv = true, args[1:]
		o.before = o.before[:len(o.before)-len(o.argv)]
	}
	if !o.hasDest && o.explain == "" && o.control != "list" && !o.version && !o.help {
		return nil, noHost()
	}
	return o, nil
}

func (o *options) long(byName map[string]option, arg string, rest []string) ([]string, error) {
	name, value, attached := strings.Cut(arg, "=")
	opt, ok := byName[name]
	switch {
	case !ok:
		return nil, unknownOption(name)
	case !opt.value && attached:
		return nil, needlessValue(name)
	case opt.value && !attached && !opt.optional:
		if len(rest) == 0 {
			return nil, missingValue(name)
		}
		value, rest = rest[0], rest[1:]
	}
	return rest, opt.apply(o, name, value)
}

func (o *options) short(byName map[string]option, arg string, rest []string) ([]string, error) {
	for i := 1; i < len(arg); i++ {
		name := "-" + arg[i:i+1]
		opt, ok := byName[name]
		if !ok {
			return nil, unknownOption(name)
		}
		if !opt.value {
			if err := opt.apply(o, name, ""); err != nil {
				return nil, err
			}
			continue
		}
		value := arg[i+1:]
		if value == "" {
			if len(rest) == 0 {
				return nil, missingValue(name)
			}
			value, rest = rest[0], rest[1:]
		}
		return rest, opt.apply(o, name, value)
	}
	return rest, nil
}
