package dial

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSameAsSSH resolves generated configurations with this package's own
// resolver and with ssh -G of the OpenSSH that is installed, and holds them
// equal, errors included.
func TestSameAsSSH(t *testing.T) {
	const configurations = 400
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	def := algorithmDefaults(t)
	refusals := 0
	for seed := range uint64(configurations) {
		g := &generator{rng: rand.New(rand.NewPCG(seed, 3)), dir: dir}
		o := g.options(t)
		o.Home = u.HomeDir // also: do not ask ssh
		want, sshErr := sshG(o)
		got, err := Resolve(context.Background(), o)
		if (err != nil) != (sshErr != nil) {
			t.Errorf("seed %d: this package: %v; ssh: %v\noptions %+v\n%s", seed, err, sshErr, o, g.shown())
		}
		if err != nil {
			refusals++
			continue
		}
		if sshErr != nil {
			continue
		}
		for key, val := range dumpConfig(got, def) {
			if want[key] != val {
				t.Errorf("seed %d: %s: this package %q, ssh %q\noptions %+v\n%s", seed, key, val, want[key], o, g.shown())
			}
		}
	}
	if refusals < configurations/50 || refusals > configurations/3 {
		t.Errorf("%d of %d configurations were refused: the generator makes too few good or bad ones", refusals, configurations)
	}
}

// sshG runs the real thing and gives its lines by keyword.
func sshG(o Options) (map[string]string, error) {
	out, err := runSSHG(context.Background(), "ssh", o)
	return byKeyword(out), err
}

func byKeyword(out []byte) map[string]string {
	lines := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, val, _ := strings.Cut(strings.TrimSpace(line), " ")
		key = strings.ToLower(key)
		if old, ok := lines[key]; ok {
			val = old + "\n" + val
		}
		lines[key] = val
	}
	return lines
}

// algDefaults are the installed OpenSSH's default and complete lists: ours
// differ, but the arithmetic on them must not.
type algDefaults struct{ def, all map[string][]string }

func algorithmDefaults(t *testing.T) algDefaults {
	def, err := sshG(Options{Destination: "x", ConfigFile: "none"})
	if err != nil {
		t.Fatal(err)
	}
	d := algDefaults{map[string][]string{}, map[string][]string{}}
	for _, key := range []string{"ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms", "casignaturealgorithms"} {
		d.def[key] = strings.Split(def[key], ",")
		query := key
		if key == "casignaturealgorithms" {
			query = "sig"
		}
		d.all[key] = strings.Fields(run(t, "ssh", "-Q", query))
	}
	return d
}

// dumpConfig writes a configuration as ssh -G does.
func dumpConfig(c *Config, d algDefaults) map[string]string {
	flag := func(b bool) string { return map[bool]string{true: "yes", false: "no"}[b] }
	secs := func(t time.Duration) string { return strconv.Itoa(int(t / time.Second)) }
	m := map[string]string{
		"hostname": c.HostName, "port": strconv.Itoa(c.Port), "user": c.User, "addressfamily": c.AddressFamily,
		"batchmode": flag(c.BatchMode), "checkhostip": flag(c.CheckHostIP), "hashknownhosts": flag(c.HashKnownHosts),
		"identitiesonly": flag(c.IdentitiesOnly), "tcpkeepalive": flag(c.TCPKeepAlive), "stdinnull": flag(c.StdinNull),
		"passwordauthentication": flag(c.PasswordAuthentication), "kbdinteractiveauthentication": flag(c.KbdInteractive),
		"connectionattempts": strconv.Itoa(c.ConnectionAttempts), "numberofpasswordprompts": strconv.Itoa(c.NumberOfPasswordPrompts),
		"serveralivecountmax": strconv.Itoa(c.ServerAliveCountMax), "serveraliveinterval": secs(c.ServerAliveInterval),
		"loglevel": strings.Replace(c.LogLevel, "QUIET", "SILENT", 1), "requesttty": strings.NewReplacer("yes", "true", "no", "false").Replace(c.RequestTTY),
		"userknownhostsfile": orNone(c.UserKnownHostsFiles), "globalknownhostsfile": orNone(c.GlobalKnownHostsFiles),
		"fingerprinthash": strings.ToUpper(c.FingerprintHash), "hostkeyalias": c.HostKeyAlias, "bindaddress": c.BindAddress,
		"proxycommand": c.ProxyCommand, "proxyjump": strings.ReplaceAll(c.ProxyJump, "ssh://", ""), "controlpath": c.ControlPath,
		"sendenv": strings.Join(c.SendEnv, "\n"), "setenv": strings.Join(c.SetEnv, "\n"),
		"rekeylimit":            fmt.Sprintf("%d %s", c.RekeyLimit, secs(c.RekeyInterval)),
		"stricthostkeychecking": map[string]string{"yes": "true", "no": "false", "ask": "ask", "accept-new": "accept-new"}[c.StrictHostKeyChecking],
		"controlmaster":         strings.NewReplacer("yes", "true", "no", "false").Replace(c.ControlMaster),
		"updatehostkeys":        strings.NewReplacer("yes", "true", "no", "false").Replace(c.UpdateHostKeys),
		"requiredrsasize":       strconv.Itoa(c.RequiredRSASize),
		"certificatefile":       strings.Join(c.values["certificatefile"], "\n"),
		"connecttimeout":        map[bool]string{true: "none", false: secs(c.ConnectTimeout)}[c.ConnectTimeout == 0],
	}
	if !c.IdentityFilesDefault {
		m["identityfile"] = strings.Join(c.values["identityfile"], "\n")
	}
	if v := c.values["preferredauthentications"]; v != nil {
		m["preferredauthentications"] = strings.Join(c.PreferredAuthentications, ",")
	}
	add := strings.NewReplacer("yes", "true", "no", "false").Replace(c.AddKeysToAgent)
	if c.AddKeysLifetime != 0 {
		add = strings.TrimPrefix(add+" "+secs(c.AddKeysLifetime), "true ")
	}
	m["addkeystoagent"] = add
	for key, def := range d.def {
		spec := ""
		if v := c.values[key]; v != nil {
			spec = v[0]
		}
		m[key] = strings.Join(assemble(spec, def, d.all[key]), ",")
	}
	return m
}

func orNone(files []string) string {
	if len(files) == 0 {
		return "none"
	}
	return strings.Join(files, " ")
}

// generator makes configuration files.
type generator struct {
	rng  *rand.Rand
	dir  string
	text []string
}

func (g *generator) shown() string { return strings.Join(g.text, "\n--\n") }

func (g *generator) pick(from ...string) string { return from[g.rng.IntN(len(from))] }

func (g *generator) chance(n int) bool { return g.rng.IntN(n) == 0 }

func (g *generator) options(t *testing.T) Options {
	o := Options{Stderr: &bytes.Buffer{}}
	host := g.pick("web1.example.com", "web2.example.com", "db", "UPPER.Example.com", "10.0.0.1", "::1", "db.internal")
	o.Destination = host
	if g.chance(3) {
		o.Destination = g.pick("alice", "bob", "root") + "@" + host
	}
	if g.chance(6) && !strings.Contains(host, ":") {
		o.Destination = "ssh://" + o.Destination + g.pick("", ":2200")
	}
	if g.chance(5) {
		o.User = g.pick("carol", "dave")
	}
	if g.chance(5) {
		o.Port = 1 + g.rng.IntN(60000)
	}
	if g.chance(6) {
		o.Settings = append(o.Settings, g.pick("Port=77", "user = eve", "Ciphers=+3des-cbc", "BatchMode yes", `IdentityFile="/a b"`, "SendEnv=ZZ"))
	}
	o.ConfigFile = g.file(t, "config", 0)
	return o
}

func (g *generator) file(t *testing.T, name string, depth int) string {
	var b strings.Builder
	for range 2 + g.rng.IntN(14) {
		if g.chance(5) {
			b.WriteString(g.blockLine() + "\n")
		}
		if depth < 2 && g.chance(20) {
			b.WriteString("Include " + g.file(t, fmt.Sprintf("inc%d", g.rng.IntN(1000)), depth+1) + g.pick("", " /nonexistent/*") + "\n")
		}
		b.WriteString(g.layout(g.setting()) + "\n")
	}
	path := filepath.Join(g.dir, name)
	write(t, path, b.String())
	g.text = append(g.text, path+":\n"+b.String())
	return path
}

func (g *generator) blockLine() string {
	pattern := func() string {
		return g.pick("*", "web*", "web?.example.com", "*.example.com", "db", "!db", "!web1*", "10.*", "UPPER*", "upper*", "::1", "nowhere")
	}
	if g.chance(2) {
		line := "Host"
		for range 1 + g.rng.IntN(3) {
			line += g.pick(" ", "  ", "\t") + pattern()
		}
		return line
	}
	line := "Match"
	for range 1 + g.rng.IntN(3) {
		list := pattern() + g.pick("", ","+pattern())
		line += " " + g.pick("", "", "!") + g.pick(
			"host "+list, "originalhost "+list, "user "+g.pick("alice", "bob,carol", "!root,*", "*"), "localuser "+g.pick("root", "nobody", "*"),
			"exec true", "exec false", `exec "test %h = db"`, `exec "test %p -gt 1000 && test %r != bob"`, "final", "canonical", "host="+list)
	}
	if g.chance(4) {
		line = "Match " + g.pick("all", "!all", "all # comment")
	}
	if g.chance(40) {
		line = g.pick("Match", "Match host", "Match all host x", "Match frobnicate x", "Match user x all")
	}
	return line
}

// layout writes a line in one of the ways a line can be written.
func (g *generator) layout(keyword, value string) string {
	if g.chance(4) {
		keyword = strings.ToUpper(keyword)
	}
	comment := " # comment"
	if strings.EqualFold(keyword, "ProxyJump") && value == "none" {
		comment = "" // see TestProxyJumpNoneWithComment
	}
	line := g.pick("", "", "  ", "\t") + keyword + g.pick(" ", " ", "=", " = ", "\t", "  ") + value
	return line + g.pick("", "", "", " ", comment, "\f")
}

func (g *generator) setting() (string, string) {
	yn := []string{"yes", "no", "true", "FALSE", "Yes"}
	type row struct {
		keyword string
		values  []string
	}
	rows := []row{
		{"Hostname", []string{"real.example.org", "%h.internal", "10.1.2.3", "%h", "FE80::1", "Name.%h"}},
		{"Port", []string{"22", "2222", "65535"}}, {"User", []string{"alice", "frank", `"a b"`}},
		{"IdentityFile", []string{"~/.ssh/id_x", "/k/%r@%h", `"/k/with space"`, `'/k/single'`, `/k/esc\ aped`, "none", `/k/"mid"dle`}},
		{"CertificateFile", []string{"/k/c1", "~/c2"}}, {"IdentitiesOnly", yn}, {"BatchMode", yn}, {"TCPKeepAlive", yn}, {"StdinNull", yn},
		{"HashKnownHosts", yn}, {"CheckHostIP", yn}, {"PasswordAuthentication", yn}, {"KbdInteractiveAuthentication", yn}, {"ChallengeResponseAuthentication", yn},
		{"AddressFamily", []string{"inet", "inet6", "ANY"}}, {"ConnectTimeout", []string{"5", "1m", "1h30m", "none", "2w"}},
		{"ConnectionAttempts", []string{"1", "4"}}, {"ServerAliveInterval", []string{"0", "15", "1m"}}, {"ServerAliveCountMax", []string{"1", "9"}},
		{"StrictHostKeyChecking", []string{"yes", "no", "ask", "accept-new", "off"}}, {"UpdateHostKeys", []string{"yes", "no", "ask"}},
		{"UserKnownHostsFile", []string{"~/.ssh/known_hosts", "/a /b", "none", "/k/%k-%h-%n", "/%%x", "~/.ssh/kh-%p-%r-%u-%i"}},
		{"GlobalKnownHostsFile", []string{"/g", "none", "/g1 /g2"}},
		{"Ciphers", []string{"aes256-ctr", "+aes256-cbc", "-aes*", "^aes256-gcm@openssh.com", "-chacha20*,aes128-ctr", "aes128-ctr,aes256-ctr"}},
		{"MACs", []string{"hmac-sha2-256", "-*etm*", "^umac-64@openssh.com", "+hmac-sha1-96"}},
		{"KexAlgorithms", []string{"curve25519-sha256", "-sntrup*", "+diffie-hellman-group1-sha1", "^ecdh-sha2-nistp521"}},
		{"HostKeyAlgorithms", []string{"ssh-ed25519", "+ssh-rsa", "-ecdsa*", "^rsa-sha2-512", "ssh-ed25519,rsa-sha2-*"}},
		{"PubkeyAcceptedAlgorithms", []string{"+ssh-rsa", "-*cert*", "ssh-ed25519*"}}, {"PubkeyAcceptedKeyTypes", []string{"^ssh-rsa"}},
		{"CASignatureAlgorithms", []string{"-rsa*", "+ssh-rsa"}},
		{"PreferredAuthentications", []string{"publickey", "password,publickey"}}, {"NumberOfPasswordPrompts", []string{"1", "5"}},
		{"ProxyJump", []string{"j1", "u@j1:22,j2", "none", "ssh://j3:2222", "[::1]:99", "j1 # comment"}},
		{"ProxyCommand", []string{"nc %h %p", "none", `sh -c "x y" # not a comment`}},
		{"ControlPath", []string{"/c/%h-%p-%r", "~/.ssh/cm-%C", "none", "/c/${LOGGER_NOT_SET_}x", "/c/${HOME}/%L%l%d"}}, {"ControlMaster", []string{"auto", "no", "yes", "autoask"}},
		{"ControlPersist", []string{"yes", "no", "10m"}}, {"SendEnv", []string{"LANG LC_*", "-LC_*", "FOO", "A B -A"}}, {"SetEnv", []string{"A=1 B=2", `C="x y"`, "A=2"}},
		{"RequestTTY", []string{"yes", "no", "force", "auto"}}, {"LogLevel", []string{"INFO", "debug", "DEBUG2", "quiet", "VERBOSE", "error"}},
		{"RekeyLimit", []string{"1G", "default none", "500M", "16", "1024K none", "1G 1h"}}, {"AddKeysToAgent", []string{"yes", "no", "ask", "confirm", "confirm 5m", "1h"}},
		{"HostKeyAlias", []string{"Alias", "other"}}, {"BindAddress", []string{"127.0.0.1"}}, {"FingerprintHash", []string{"md5", "sha256"}}, {"RequiredRSASize", []string{"2048"}},
		{"IgnoreUnknown", []string{"Frob*", "x,Frobnicate"}}, {"LocalForward", []string{"8080 localhost:80"}}, {"ForwardX11", yn}, {"ForwardAgent", yn}, {"Compression", yn},
		{"GSSAPIAuthentication", yn}, {"EscapeChar", []string{"none", "~"}}, {"Protocol", []string{"2"}}, {"Tunnel", []string{"no", "ethernet"}}, {"VisualHostKey", yn}, {"IPQoS", []string{"af21 cs1", "lowdelay"}},
		{"CanonicalizeHostname", []string{"no"}}, {"CanonicalDomains", []string{"example.com", "none"}}, {"CanonicalizeMaxDots", []string{"0", "2"}}, {"LocalCommand", []string{"echo %h"}}, {"NoHostAuthenticationForLocalhost", yn},
	}
	if g.chance(60) {
		bad := [][2]string{
			{"Frobnicate", "1"}, {"Port", "0"}, {"Port", "x"}, {"Port", "22 23"}, {"BatchMode", "maybe"}, {"ConnectTimeout", "1y"}, {"Ciphers", "rot13"}, {"IdentityFile", `"open`},
			{"ProxyJump", "u@"}, {"RekeyLimit", "5"}, {"LogLevel", "loud"}, {"User", ""}, {"SetEnv", "A"}, {"UserKnownHostsFile", "none /x"}, {"AddressFamily", "ipx"}, {"HostKeyAlgorithms", "ssh-*x"}, {"ProxyJump", "h:99999"}, {"ControlPersist", "soon"},
		}
		b := bad[g.rng.IntN(len(bad))]
		return b[0], b[1]
	}
	r := rows[g.rng.IntN(len(rows))]
	return r.keyword, g.pick(r.values...)
}

// TestProxyJumpNoneWithComment: OpenSSH would jump through a host called none;
// nobody means that.
func TestProxyJumpNoneWithComment(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "config"), "ProxyJump none # really\n")
	_, err := Resolve(context.Background(), Options{Destination: "h", ConfigFile: path, Home: "/"})
	if err == nil || !strings.Contains(err.Error(), path+":1:11: ") {
		t.Errorf("error %v", err)
	}
}

// TestReadSSHG: what ssh -G prints for a configuration that this package
// understands reads back as what the package itself makes of it.
func TestReadSSHG(t *testing.T) {
	dir := tempDir(t)
	def := algorithmDefaults(t)
	for seed := range uint64(60) {
		g := &generator{rng: rand.New(rand.NewPCG(seed, 9)), dir: dir}
		o := g.options(t)
		out, err := exec.Command("ssh", sshArgs(o)...).Output()
		if err != nil {
			continue
		}
		u, _ := user.Current()
		o.Home = u.HomeDir
		want, err := Resolve(context.Background(), o)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		dest, _ := parseTarget(o.Destination)
		local, _ := findLocalFacts("")
		r := newResolver(local, "/etc/ssh", dest.host)
		if err := r.readSSHG(out); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, out)
		}
		got, err := r.buildConfig()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		w, gt := dumpConfig(want, def), dumpConfig(got, def)
		for _, key := range slices.Sorted(mapKeys(w)) {
			if _, isAlg := def.def[key]; !isAlg && w[key] != gt[key] {
				t.Errorf("seed %d: %s: own %q, read back %q\n%s", seed, key, w[key], gt[key], g.shown())
			}
		}
	}
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
