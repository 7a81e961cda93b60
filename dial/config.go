package dial

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is what the configuration says of one destination, everything
// expanded. It is not changed once Dial has returned it.
type Config struct {
	Typed    string // the host as typed: what Host patterns matched
	HostName string // the host to connect to
	Port     int
	User     string

	AddressFamily      string // any, inet, inet6
	BindAddress        string
	BindInterface      string
	ConnectTimeout     time.Duration // zero: the system's
	ConnectionAttempts int
	TCPKeepAlive       bool
	TOS                int // IPQoS's second value as a byte; -1 is the system's
	ProxyCommand       string
	ProxyJump          string // the hops with commas between, or ""

	ControlPath   string // or ""
	ControlMaster string // yes, no, auto, ask, autoask

	HostKeyAlias          string
	UserKnownHostsFiles   []string
	GlobalKnownHostsFiles []string
	StrictHostKeyChecking string // yes, no, ask, accept-new
	HashKnownHosts        bool
	CheckHostIP           bool
	UpdateHostKeys        string // yes, no, ask
	NoHostAuthLocalhost   bool
	RevokedHostKeys       string // a file, or ""
	KnownHostsCommand     string // or ""
	FingerprintHash       string // sha256, md5

	HostKeyAlgorithms        []string
	HostKeyAlgorithmsDefault bool // nobody set them: known keys may come first
	KexAlgorithms            []string
	Ciphers                  []string
	MACs                     []string
	PubkeyAcceptedAlgorithms []string
	CASignatureAlgorithms    []string
	RequiredRSASize          int // bits
	RekeyLimit               uint64
	RekeyInterval            time.Duration // zero: never by the clock

	IdentityFiles        []string
	IdentityFilesDefault bool // nobody named any
	CertificateFiles     []string
	IdentitiesOnly       bool
	IdentityAgent        string // a socket's path, or "" for none
	ForwardAgent         string // the socket of the agent that the host may ask, or ""
	AddKeysToAgent       string // yes, no, ask, confirm
	AddKeysLifetime      time.Duration

	PreferredAuthentications []string
	PubkeyAuthentication     bool
	PasswordAuthentication   bool
	KbdInteractive           bool
	NumberOfPasswordPrompts  int
	BatchMode                bool

	ServerAliveInterval time.Duration
	ServerAliveCountMax int

	SendEnv         []string // patterns of names
	SetEnv          []string // NAME=VALUE
	RequestTTY      string   // yes, no, force, auto
	StdinNull       bool
	LogLevel        string
	VersionAddendum string

	values map[string][]string
	tokens map[byte]string
	// oldControlPath is ControlPath with %C as OpenSSH before 9.6 hashed it,
	// where that differs.
	oldControlPath string
}

// Value returns the arguments that set a keyword, in any case, before
// expansion; nil when nothing set it.
func (c *Config) Value(keyword string) []string {
	return slices.Clone(c.values[strings.ToLower(keyword)])
}

// Keywords lists the keywords that something set, in lower case, sorted.
func (c *Config) Keywords() []string { return slices.Sorted(maps.Keys(c.values)) }

// getter reads typed values; its error sticks.
type getter struct {
	values map[string][]string
	err    error
}

func (g *getter) str(key, def string) string {
	if v := g.values[key]; len(v) > 0 {
		return v[0]
	}
	return def
}

func (g *getter) flag(key string, def bool) bool {
	if v := g.values[key]; len(v) > 0 {
		return v[0] == "yes"
	}
	return def
}

func (g *getter) num(key string, def int) int {
	v := g.str(key, "")
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil && g.err == nil {
		g.err = fmt.Errorf("%s: %q is not a number", key, v)
	}
	return n
}

func (g *getter) seconds(key string) time.Duration {
	if g.str(key, "none") == "none" {
		return 0
	}
	return time.Duration(g.num(key, 0)) * time.Second
}

func (g *getter) words(key string, def ...string) []string {
	v, ok := g.values[key]
	switch {
	case !ok:
		return def
	case len(v) == 1 && strings.EqualFold(v[0], "none"):
		return nil
	}
	return v
}

func (g *getter) noneIsEmpty(key string) string {
	if v := g.str(key, ""); !strings.EqualFold(v, "none") {
		return v
	}
	return ""
}

// buildConfig types and expands what the resolver has read. It refuses what
// cannot be done.
func (r *resolver) buildConfig() (*Config, error) {
	g := &getter{values: r.values}
	c := &Config{Typed: r.typed, HostName: r.host, values: r.values}
	c.Port = g.num("port", 22)
	c.User = g.str("user", r.local.user)
	c.buildReach(g)
	c.buildHostKeys(g, r.sysDir)
	c.buildAlgorithms(g)
	c.buildAuth(g)
	c.buildSession(g)
	if g.err != nil {
		return nil, g.err
	}
	if err := r.expandPaths(c, g); err != nil {
		return nil, err
	}
	return c, refuseUnable(c, g)
}

func (c *Config) buildReach(g *getter) {
	c.AddressFamily = g.str("addressfamily", "any")
	c.BindAddress = g.str("bindaddress", "")
	c.BindInterface = g.str("bindinterface", "")
	c.ConnectTimeout = g.seconds("connecttimeout")
	c.ConnectionAttempts = g.num("connectionattempts", 1)
	c.TCPKeepAlive = g.flag("tcpkeepalive", true)
	c.ProxyCommand = g.noneIsEmpty("proxycommand")
	c.ProxyJump = g.noneIsEmpty("proxyjump")
	c.ControlMaster = g.str("controlmaster", "no")
	c.TOS = -1 // the connection carries keystrokes and bulk data alike
	if v := g.values["ipqos"]; len(v) == 2 {
		c.TOS, _ = strconv.Atoi(v[1]) // readIPQoS made it a number
	}
}

func (c *Config) buildHostKeys(g *getter, sysDir string) {
	c.HostKeyAlias = strings.ToLower(g.str("hostkeyalias", ""))
	c.GlobalKnownHostsFiles = g.words("globalknownhostsfile", sysDir+"/ssh_known_hosts", sysDir+"/ssh_known_hosts2")
	c.UserKnownHostsFiles = g.words("userknownhostsfile", "~/.ssh/known_hosts", "~/.ssh/known_hosts2")
	c.StrictHostKeyChecking = g.str("stricthostkeychecking", "ask")
	c.HashKnownHosts = g.flag("hashknownhosts", false)
	c.CheckHostIP = g.flag("checkhostip", false)
	c.KnownHostsCommand = g.noneIsEmpty("knownhostscommand")
	c.RevokedHostKeys = g.noneIsEmpty("revokedhostkeys")
	c.NoHostAuthLocalhost = g.flag("nohostauthenticationforlocalhost", false)
	c.FingerprintHash = g.str("fingerprinthash", "sha256")
	// OpenSSH updates only a known_hosts file nobody has moved, unless asked.
	def := "yes"
	if files := g.values["userknownhostsfile"]; len(files) > 1 || (len(files) == 1 && files[0] != "~/.ssh/known_hosts") {
		def = "no"
	}
	c.UpdateHostKeys = g.str("updatehostkeys", def)
	if c.UpdateHostKeys == "ask" && (g.str("requesttty", "") == "no" || g.str("controlpersist", "no") != "no" && g.noneIsEmpty("controlpath") != "") {
		c.UpdateHostKeys = "no" // as OpenSSH: there is no time to ask
	}
}

func (c *Config) buildAlgorithms(g *getter) {
	keyAlgs, all := defaultKeyAlgorithms(), opensshKeyAlgorithms()
	c.Ciphers = assemble(g.str("ciphers", ""), defaultCiphers(), opensshCiphers())
	c.MACs = assemble(g.str("macs", ""), defaultMACs(), opensshMACs())
	c.KexAlgorithms = assemble(g.str("kexalgorithms", ""), defaultKexes(), opensshKexes())
	c.HostKeyAlgorithms = assemble(g.str("hostkeyalgorithms", ""), keyAlgs, all)
	// As OpenSSH, a list that only adds or takes away is still ordered by
	// the keys that are known.
	spec := g.str("hostkeyalgorithms", "")
	c.HostKeyAlgorithmsDefault = spec == "" || spec[0] == '+' || spec[0] == '-'
	c.PubkeyAcceptedAlgorithms = assemble(g.str("pubkeyacceptedalgorithms", ""), keyAlgs, all)
	c.CASignatureAlgorithms = assemble(g.str("casignaturealgorithms", ""), defaultCASignatures(), all)
	c.RequiredRSASize = max(g.num("requiredrsasize", 1024), 1024)
	if v := g.values["rekeylimit"]; len(v) == 2 {
		c.RekeyLimit, _ = strconv.ParseUint(v[0], 10, 64) // readRekeyLimit made them numbers
		secs, _ := strconv.Atoi(v[1])
		c.RekeyInterval = time.Duration(secs) * time.Second
	}
}

func (c *Config) buildAuth(g *getter) {
	c.IdentityFiles = g.values[identityFileName]
	if c.IdentityFilesDefault = len(c.IdentityFiles) == 0; c.IdentityFilesDefault {
		c.IdentityFiles = defaultIdentities()
	}
	c.CertificateFiles = g.values["certificatefile"]
	c.IdentitiesOnly = g.flag("identitiesonly", false)
	c.AddKeysToAgent = g.str("addkeystoagent", "no")
	if v := g.values["addkeystoagent"]; len(v) == 2 {
		secs, _ := strconv.Atoi(v[1]) // readAddKeys made it a number
		c.AddKeysLifetime = time.Duration(secs) * time.Second
	}
	c.PreferredAuthentications = strings.Split(g.str("preferredauthentications", "gssapi-with-mic,hostbased,publickey,keyboard-interactive,password"), ",")
	c.PubkeyAuthentication = g.str("pubkeyauthentication", "yes") != "no"
	c.PasswordAuthentication = g.flag("passwordauthentication", true)
	c.KbdInteractive = g.flag("kbdinteractiveauthentication", true)
	c.NumberOfPasswordPrompts = g.num("numberofpasswordprompts", 3)
	c.BatchMode = g.flag("batchmode", false)
}

// defaultIdentities are OpenSSH's, without the kinds x/crypto cannot read.
func defaultIdentities() []string {
	var files []string
	for _, name := range []string{"rsa", "ecdsa", "ecdsa_sk", "ed25519", "ed25519_sk"} {
		files = append(files, "~/.ssh/id_"+name)
	}
	return files
}

func (c *Config) buildSession(g *getter) {
	if c.ServerAliveInterval = g.seconds("serveraliveinterval"); c.BatchMode && g.values["serveraliveinterval"] == nil {
		c.ServerAliveInterval = 300 * time.Second // as OpenSSH in Debian; elsewhere it only finds dead links
	}
	c.ServerAliveCountMax = g.num("serveralivecountmax", 3)
	c.SendEnv = g.values["sendenv"]
	c.SetEnv = g.values["setenv"]
	c.RequestTTY = g.str("requesttty", "auto")
	c.StdinNull = g.flag("stdinnull", false)
	c.LogLevel = g.str("loglevel", "INFO")
	c.VersionAddendum = g.noneIsEmpty("versionaddendum")
}

// refuseUnable refuses what OpenSSH would do and this package cannot.
func refuseUnable(c *Config, g *getter) error {
	if reason := g.noneIsEmpty("refuseconnection"); reason != "" {
		return errors.New(printable(reason) + ": the configuration refuses this connection (RefuseConnection)")
	}
	if c.ConnectionAttempts <= 0 {
		return errors.New("invalid number of ConnectionAttempts: use at least 1")
	}
	if g.str("pubkeyauthentication", "") == "host-bound" {
		return errors.New("PubkeyAuthentication host-bound cannot be done here: use yes, or --ssh ssh")
	}
	for _, kw := range keywordsRefused() {
		v := g.noneIsEmpty(strings.ToLower(kw.name))
		if kw.use == refused && v != "" && v != "no" && !(kw.name == "ProxyUseFdpass" && c.ProxyCommand == "") {
			return fmt.Errorf("%s cannot be done here (%s): set it to none or no for this host, or use --ssh ssh", kw.name, kw.note)
		}
	}
	return nil
}

// expandPaths replaces tokens, environment variables and tildes.
func (r *resolver) expandPaths(c *Config, g *getter) error {
	facts := connFacts{host: c.HostName, typed: c.Typed, port: strconv.Itoa(c.Port), user: c.User, keyAlias: c.HostKeyAlias, jump: c.ProxyJump}
	if facts.keyAlias == "" {
		facts.keyAlias = c.Typed
	}
	c.tokens = r.local.tokens(facts)
	e := &expander{local: r.local, tokens: c.tokens}
	c.IdentityAgent = e.agent(g.str("identityagent", "SSH_AUTH_SOCK"))
	switch v := g.str("forwardagent", "no"); v {
	case "no":
	case "yes":
		c.ForwardAgent = c.IdentityAgent
	default:
		c.ForwardAgent = e.agent(v)
	}
	for _, list := range []*[]string{&c.UserKnownHostsFiles, &c.IdentityFiles, &c.CertificateFiles} {
		*list = e.paths(*list)
	}
	for i, f := range c.GlobalKnownHostsFiles {
		c.GlobalKnownHostsFiles[i] = e.tilde(f)
	}
	if c.RevokedHostKeys != "" {
		c.RevokedHostKeys = e.tilde(c.RevokedHostKeys)
	}
	path := g.noneIsEmpty("controlpath")
	if c.ControlPath = e.path(path); c.ProxyJump != "" {
		facts.jump = ""
		old := expander{local: r.local, tokens: r.local.tokens(facts)}
		c.oldControlPath = old.path(path)
	}
	return e.err
}

// expander expands paths; its error sticks.
type expander struct {
	local  localFacts
	tokens map[byte]string
	err    error
}

func (e *expander) tilde(path string) string {
	s, err := e.local.expandTilde(path)
	if err != nil && e.err == nil {
		e.err = err
	}
	return s
}

func (e *expander) path(path string) string {
	s, err := expandPercent(e.tilde(path), e.tokens, true)
	if err != nil && e.err == nil {
		e.err = err
	}
	return s
}

func (e *expander) paths(list []string) []string {
	var out []string
	for _, p := range list {
		out = append(out, e.path(p))
	}
	return out
}

// agent is the agent's socket: from SSH_AUTH_SOCK, another variable, a path,
// or none.
func (e *expander) agent(s string) string {
	switch {
	case s == "none":
		return ""
	case s == "SSH_AUTH_SOCK":
		return os.Getenv("SSH_AUTH_SOCK")
	}
	if s = e.path(s); strings.HasPrefix(s, "$") {
		return os.Getenv(s[1:])
	}
	return s
}
