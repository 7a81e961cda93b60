package dial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	sshconfig "github.com/kevinburke/ssh_config"
)

// resolveText resolves a destination with one configuration file.
func resolveText(t testing.TB, dest, config string, settings ...string) (*Config, error) {
	t.Helper()
	dir := tempDir(t)
	return Resolve(context.Background(), Options{Destination: dest, ConfigFile: write(t, filepath.Join(dir, "config"), config), Settings: settings, Home: dir, SystemDir: dir, Stderr: &lockedBuffer{}})
}

// TestConfigErrors: a mistake names file, line and column and what to do.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct{ text, where, want string }{
		{"Host *\n  Port 22x\n", "2:8", "bad port"},
		{"Frobnicate yes", "1", "bad configuration option"},
		{"User \"a b", "1:6", "invalid quotes"},
		{"BatchMode maybe", "1:11", "yes or no"},
		{"Port 22 23", "1:9", "extra arguments"},
		{"\n\nPort", "3", "no argument after keyword"},
		{"Port =", "1", "no argument after keyword"},
		{"ConnectTimeout 5y", "1:16", "invalid time"},
		{"Ciphers rot13", "1:9", "unknown algorithm"},
		{"IdentityFile ''", "1:14", "no argument"},
		{"UserKnownHostsFile /a none", "1:23", "must stand alone"},
		{"Match host", "1:7", "no argument"},
		{"Match", "1", "no argument"},
		{"Match tagged x", "1:7", "install it"},
		{"ProxyJump a@:22", "1:11", "invalid ProxyJump"},
		{"StrictHostKeyChecking perhaps", "1:23", "use one of"},
		{"Include ~nosuchuser/x", "1:9", "no such user"},
		{strings.Repeat("x", maxConfigLine+2), "1", "longer than"},
	} {
		_, err := resolveText(t, "h", c.text)
		if err == nil || !strings.Contains(err.Error(), "/config:"+c.where+": ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: %v", c.text, err)
		}
	}
}

// TestRefusals: what OpenSSH would do and this package cannot is not passed
// over.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		text    string
		refused bool
	}{
		{"RekeyLimit 1G 1h", false}, {"RekeyLimit 1G", false}, {"RekeyLimit default none", false},
		{"PubkeyAuthentication host-bound", true}, {"PubkeyAuthentication unbound", false},
		{"KnownHostsCommand /bin/x", false}, {"KnownHostsCommand none", false}, {"PKCS11Provider /x.so", true},
		{"VerifyHostKeyDNS yes", true}, {"VerifyHostKeyDNS no", false}, {"RevokedHostKeys /x", false},
		{"ProxyUseFdpass yes", false}, {"ProxyUseFdpass yes\nProxyCommand x", true},
		{"RefuseConnection \"not today\"", true}, {"ConnectionAttempts 0", true},
		{"Host other\nVerifyHostKeyDNS yes", false},
	} {
		_, err := resolveText(t, "h", c.text)
		if (err != nil) != c.refused || (err != nil && strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

// TestEveryKeyword holds the table to the manual of the OpenSSH installed, and
// to doc/ssh_config.md.
func TestEveryKeyword(t *testing.T) {
	have := map[string]keyword{}
	for _, kw := range keywords() {
		if _, dup := have[strings.ToLower(kw.name)]; dup {
			t.Errorf("%s stands twice in the table", kw.name)
		}
		have[strings.ToLower(kw.name)] = kw
	}
	listed, err := sshG(Options{Destination: "h", ConfigFile: "none"})
	if err != nil {
		t.Fatal(err)
	}
	// The manual has some that ssh -G does not print; not every machine has it.
	manual, _ := exec.Command("zcat", "/usr/share/man/man5/ssh_config.5.gz").Output()
	for line := range strings.Lines(string(manual)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == ".It" && f[1] == "Cm" && f[2][0] >= 'A' && f[2][0] <= 'Z' {
			listed[strings.ToLower(f[2])] = ""
		}
	}
	for key := range listed {
		if _, ok := have[key]; !ok {
			t.Errorf("%s is not in the table", key)
		}
	}
	doc := read(t, "../doc/ssh_config.md")
	if want := documentTable(); !strings.Contains(doc, want) {
		t.Errorf("doc/ssh_config.md does not have the table of keywords.go; it should have:\n%s", want)
	}
}

// documentTable writes the table of the documentation.
func documentTable() string {
	rows := keywords()
	slices.SortFunc(rows, func(a, b keyword) int { return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)) })
	var b strings.Builder
	b.WriteString("| keyword | here | remarks |\n|---|---|---|\n")
	for _, kw := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", kw.name, kw.use, kw.note)
	}
	return b.String()
}

func TestFilesAndIncludes(t *testing.T) {
	dir := tempDir(t)
	for _, sub := range []string{".ssh/conf.d", "etc/ssh_config.d"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, ".ssh/config"), "Include conf.d/*.conf ~/.ssh/extra\nPort 1\nHost web\n Include inner\nHost *\n User last\n")
	write(t, filepath.Join(dir, ".ssh/conf.d/a.conf"), "Host web\nHostname a.example\n")
	write(t, filepath.Join(dir, ".ssh/conf.d/b.conf"), "Port 2\n")
	write(t, filepath.Join(dir, ".ssh/extra"), "BatchMode yes\n")
	write(t, filepath.Join(dir, ".ssh/inner"), "User inner\nHost db\nCompression yes\n")
	write(t, filepath.Join(dir, "etc/ssh_config"), "Include ssh_config.d/*.conf\nConnectTimeout 9\nPort 3\n")
	write(t, filepath.Join(dir, "etc/ssh_config.d/x.conf"), "HashKnownHosts yes\n")
	resolve := func(host string) (*Config, error) {
		return Resolve(context.Background(), Options{Destination: host, Home: dir, SystemDir: filepath.Join(dir, "etc")})
	}
	c, err := resolve("web")
	if err != nil {
		t.Fatal(err)
	}
	if c.HostName != "a.example" || c.Port != 2 || c.User != "inner" || !c.BatchMode || !c.HashKnownHosts || c.ConnectTimeout.Seconds() != 9 {
		t.Errorf("%+v", c)
	}
	if c, err = resolve("db"); err != nil || c.HostName != "db" || c.User != "last" || c.Value("Compression") != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if got := c.UserKnownHostsFiles[0]; got != filepath.Join(dir, ".ssh/known_hosts") {
		t.Errorf("known hosts in %s", got)
	}
	// What others can write is not read.
	if err := os.Chmod(filepath.Join(dir, ".ssh/extra"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve("db"); err == nil || !strings.Contains(err.Error(), "bad owner or permissions on "+filepath.Join(dir, ".ssh/extra")) {
		t.Errorf("error %v", err)
	}
	write(t, filepath.Join(dir, "etc/ssh_config"), "Include ssh_config\n")
	os.Remove(filepath.Join(dir, ".ssh/config"))
	if _, err := resolve("db"); err == nil || !strings.Contains(err.Error(), "too many nested Include") {
		t.Errorf("a file that includes itself: %v", err)
	}
	if _, err := Resolve(context.Background(), Options{Destination: "h", ConfigFile: filepath.Join(dir, "none-there"), Home: dir}); err == nil || !strings.Contains(err.Error(), "-F") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestTokensAsSSH: ssh replaces every token in a Match exec command as this
// package does.
func TestTokensAsSSH(t *testing.T) {
	dir := tempDir(t)
	local, err := findLocalFacts("")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	text := "Host al\n Hostname %h.example\n Port 77\n User bob\n HostKeyAlias Key\nMatch exec \"echo %%,%h,%i,%k,%l,%L,%n,%p,%r,%u,%d,%C >>" + out + "\"\n"
	config := write(t, filepath.Join(dir, "config"), text)
	run(t, "ssh", "-G", "-F", config, "al")
	if _, err := Resolve(context.Background(), Options{Destination: "al", ConfigFile: config, Home: local.home}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(read(t, out)), "\n")
	if len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("ssh and this package:\n%s", strings.Join(lines, "\n"))
	}
	if _, err := resolveText(t, "h", "ControlPath /x/%q\n"); err == nil || !strings.Contains(err.Error(), "unknown token %q") {
		t.Errorf("unknown token: %v", err)
	}
	t.Setenv("DIAL_TEST_VALUE", "v")
	c, err := resolveText(t, "h", "UserKnownHostsFile ~/a-${DIAL_TEST_VALUE}\nCertificateFile ~/%n-%%\nProxyJump j\nControlPath ~/%C\n")
	if err != nil || !strings.HasSuffix(c.UserKnownHostsFiles[0], "/a-v") || !strings.HasSuffix(c.CertificateFiles[0], "/h-%") || c.ControlPath == c.oldControlPath {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := resolveText(t, "h", "UserKnownHostsFile ~/${DIAL_TEST_NO_VALUE}\n"); err == nil {
		t.Error("a variable that is not set was expanded")
	}
}

func TestCanonicalize(t *testing.T) {
	names := map[string]string{"web.example.com.": "web.example.com", "www.example.com.": "real.example.net", "db": "db.internal.net", "full.example.": "full.example"}
	for _, c := range []struct{ name, host, text, want, user string }{
		{"off", "WEB", "CanonicalDomains example.com", "web", ""},
		{"suffix", "web", "CanonicalizeHostname yes\nCanonicalDomains none.test example.com\nHost web.example.com\nUser found", "web.example.com", "found"},
		{"match canonical", "web", "CanonicalizeHostname yes\nCanonicalDomains example.com\nMatch canonical host web.*\nUser canon", "web.example.com", "canon"},
		{"dots", "a.b", "CanonicalizeHostname yes\nCanonicalDomains example.com\nCanonicalizeMaxDots 0", "a.b", ""},
		{"fallback", "nowhere", "CanonicalizeHostname yes\nCanonicalDomains example.com", "nowhere", ""},
		{"no fallback", "nowhere", "CanonicalizeHostname yes\nCanonicalDomains example.com\nCanonicalizeFallbackLocal no", "error", ""},
		{"alias not followed", "www", "CanonicalizeHostname yes\nCanonicalDomains example.com", "www.example.com", ""},
		{"alias followed", "www", "CanonicalizeHostname yes\nCanonicalDomains example.com\nCanonicalizePermittedCNAMEs *.example.com:*.example.net", "real.example.net", ""},
		{"bare alias", "db", "CanonicalizeHostname yes\nCanonicalizePermittedCNAMEs *", "db.internal.net", ""},
		{"proxied", "web", "CanonicalizeHostname yes\nCanonicalDomains example.com\nProxyJump j", "web", ""},
		{"proxied, always", "web", "CanonicalizeHostname always\nCanonicalDomains example.com\nProxyJump j", "web.example.com", ""},
		{"anchored", "full.example.", "CanonicalizeHostname yes", "full.example", ""},
		{"final", "h", "Match final\nUser fin\nMatch !final\nPort 5", "h", "fin"},
	} {
		r := newResolver(localFacts{user: "me", home: "/"}, "/nonexistent", c.host)
		r.lookup = func(_ context.Context, _, name string) (string, error) {
			if cname, ok := names[name]; ok {
				return cname, nil
			}
			return "", errors.New("no such name")
		}
		err := r.resolve(context.Background(), write(t, filepath.Join(t.TempDir(), "config"), c.text+"\n"))
		if c.want == "error" {
			if err == nil {
				t.Errorf("%s: no error", c.name)
			}
			continue
		}
		if err != nil || r.host != c.want || r.first("user") != c.user {
			t.Errorf("%s: host %q, user %q, %v", c.name, r.host, r.first("user"), err)
		}
	}
}

// TestAskSSH: a file that says what this package does not know is resolved by
// the ssh in PATH, with the same command line.
func TestAskSSH(t *testing.T) {
	dir := tempDir(t)
	config := write(t, filepath.Join(dir, "config"), "Match tagged x\n Port 1\nMatch localnetwork 10.0.0.0/8\nPort 2\n")
	script := write(t, filepath.Join(dir, "ssh"), "#!/bin/sh\necho \"$@\" >"+dir+"/args\nprintf 'host al\\nuser bob smith\\nhostname far.example\\nport 2222\\nnewkeyword x\\nsetenv A=x y\\nsetenv B=2\\nuserknownhostsfile /k/100%%\\nidentityfile ~/.ssh/id_rsa\\nidentityfile ~/.ssh/id_ed25519\\n'\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	o := Options{Destination: "u@al:99", ConfigFile: config, Settings: []string{"BatchMode=yes"}, Jump: "j", Identities: []string{"/i"}, User: "l", Stderr: &lockedBuffer{}}
	c, err := Resolve(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if c.HostName != "far.example" || c.Port != 2222 || c.User != "bob smith" || c.Typed != "al" || c.UserKnownHostsFiles[0] != "/k/100%" || !slices.Equal(c.SetEnv, []string{"A=x y", "B=2"}) || !c.IdentityFilesDefault {
		t.Errorf("%+v", c)
	}
	if got, want := strings.TrimSpace(read(t, filepath.Join(dir, "args"))), "-G -F "+config+" -l l -i /i -J j -o BatchMode=yes -p 99 -- u@al"; got != want {
		t.Errorf("ssh was called with\n%s\nwant\n%s", got, want)
	}
	write(t, script, "#!/bin/sh\necho 'config line 1: Unsupported Match attribute tagged' >&2\nexit 255\n")
	if _, err := Resolve(context.Background(), o); err == nil || !strings.Contains(err.Error(), "Unsupported Match attribute") {
		t.Errorf("error %v", err)
	}
	t.Setenv("PATH", "/nonexistent")
	if _, err := Resolve(context.Background(), o); err == nil || !strings.Contains(err.Error(), config+":1:7: ") || !strings.Contains(err.Error(), "install it") {
		t.Errorf("error %v", err)
	}
	// What is simply wrong is not asked about.
	t.Setenv("PATH", dir)
	write(t, config, "Port x\n")
	if _, err := Resolve(context.Background(), o); err == nil || !strings.Contains(err.Error(), "bad port") {
		t.Errorf("error %v", err)
	}
}

// TestThirdOpinion compares with kevinburke/ssh_config on files it reads
// rightly: Host blocks with plain values.
func TestThirdOpinion(t *testing.T) {
	text := "Port 22\nHost web* !web2\n  Port 1\n  User alice\n  IdentityFile /a\nHost *\n  User bob\n  IdentityFile /b\n  ServerAliveInterval 5\n"
	theirs, err := sshconfig.Decode(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"web1", "web2", "db"} {
		c, err := resolveText(t, host, text)
		if err != nil {
			t.Fatal(err)
		}
		user, _ := theirs.Get(host, "User")
		files, _ := theirs.GetAll(host, "IdentityFile")
		port, _ := theirs.Get(host, "Port")
		if c.User != user || !slices.Equal(c.IdentityFiles, files) || fmt.Sprint(c.Port) != port {
			t.Errorf("%s: %s %v %d, theirs %s %v %s", host, c.User, c.IdentityFiles, c.Port, user, files, port)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		text string
		want target
		bad  bool
	}{
		{"host", target{host: "host"}, false}, {"u@host", target{user: "u", host: "host"}, false}, {"u@x@host:22", target{"u@x", "host", 22}, false},
		{"[::1]:22", target{host: "::1", port: 22}, false}, {"::1", target{host: "::1"}, false}, {"u@fe80::1%eth0", target{user: "u", host: "fe80::1%eth0"}, false},
		{"ssh://u%40x@host:22/", target{"u@x", "host", 22}, false}, {"ssh://u;fingerprint=x@[::1]:2", target{"u", "::1", 2}, false},
		{"ssh://host/path", target{}, true}, {"@host", target{}, true}, {"host:", target{}, true}, {"[::1", target{}, true}, {"", target{}, true}, {"u@", target{}, true}, {"h:0", target{}, true},
	} {
		got, err := parseTarget(c.text)
		if (err != nil) != c.bad || (err == nil && got != c.want) {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
		if err == nil {
			if again, err := parseTarget(got.String()); err != nil || again != got {
				t.Errorf("%q reads back as %+v, %v", got.String(), again, err)
			}
		}
	}
	for _, bad := range []string{"a b", "h;x", "$(x)", "-x", "h\n", "u`x`@h", "u\\@h"} {
		if got, err := parseTarget(bad); err == nil && got.check() == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzConfig: a configuration that is accepted, written out again keyword by
// keyword, reads back as the same values.
func FuzzConfig(f *testing.F) {
	f.Add("Host *\n Port 22\n IdentityFile \"a b\" # c\nMatch exec \"x\" host a\nUser 'q\\'x'\n")
	f.Add("RekeyLimit 1G 1h\nAddKeysToAgent confirm 5m\nControlPersist 10m\nIPQoS af21 none\nSetEnv A=1 B='2 3'\n")
	f.Add("ProxyJump u@h:22,[::1]:2\nCiphers +aes256-cbc\nSendEnv A -B C*\nCanonicalizePermittedCNAMEs *.a:*.b\nIgnoreUnknown x*\nxyz 1\n")
	f.Add("Match host a user b\nMatch all\nMatch final !user x\nProxyCommand = nc \"%h\" %p # x\nLogLevel debug\nUser=\"x\\\"y\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "include") {
			return // other files are not the fuzzer's
		}
		read := func(text string) (*resolver, error) {
			r := newResolver(localFacts{user: "me", uid: "1", home: "/home/me", hostname: "here.example"}, "/etc/ssh", "host")
			r.execs = func(string) (int, error) { return 0, nil }
			return r, r.read(strings.NewReader(text), &block{file: "f", user: true, active: true})
		}
		r, err := read(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		if _, err := r.buildConfig(); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("error of several lines: %q", err)
		}
		again, err := read(writeOut(r))
		if err != nil {
			t.Fatalf("%q reads back with %v", writeOut(r), err)
		}
		for key, vals := range r.values {
			if !slices.Equal(vals, again.values[key]) {
				t.Errorf("%s: %q reads back as %q", key, vals, again.values[key])
			}
		}
	})
}

// writeOut writes values as configuration lines.
func writeOut(r *resolver) string {
	var b strings.Builder
	for key, vals := range r.values {
		if len(vals) == 0 {
			continue
		}
		kw := r.table[key]
		quoted := make([]string, len(vals))
		for i, v := range vals {
			quoted[i] = quoteArg(v)
		}
		switch {
		case kw.kind == kindCommand || key == "proxyjump":
			quoted = vals
		case kw.kind == kindAppend:
			for _, q := range quoted {
				b.WriteString(key + " " + q + "\n")
			}
			continue
		case (key == "addkeystoagent" || key == "controlpersist") && vals[0] == "yes" && vals[1] != "0":
			quoted = quoted[1:]
		case key == "addkeystoagent" && vals[0] != "confirm" || key == "controlpersist":
			quoted = quoted[:1]
		case key == "ipqos":
			for i := range quoted {
				quoted[i] = strings.Replace(quoted[i], `"-1"`, "none", 1)
			}
		}
		b.WriteString(key + " " + strings.Join(quoted, " ") + "\n")
	}
	return b.String()
}

// TestOpenSSHIsThere: the tests above compare with it.
func TestOpenSSHIsThere(t *testing.T) {
	for _, name := range []string{"ssh", "ssh-keygen", "ssh-agent", "ssh-add", "/usr/sbin/sshd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Errorf("%v: install openssh-client and openssh-server", err)
		}
	}
}

// ssh takes a directory among included files for an empty file.
func TestIncludeDirectory(t *testing.T) {
	home := t.TempDir()
	conf := filepath.Join(home, "conf")
	if err := os.MkdirAll(filepath.Join(conf, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(conf, "e"), "Port 4242\n")
	write(t, filepath.Join(home, "config"), "Include "+conf+"/*\n")
	c, err := Resolve(t.Context(), Options{Destination: "host", ConfigFile: filepath.Join(home, "config"), Home: home, SystemDir: home})
	if err != nil || c.Port != 4242 {
		t.Errorf("%+v, %v", c, err)
	}
}
