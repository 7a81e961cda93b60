package dial

import (
	"net"
	"strings"
	"testing"

	"github.com/SumiTomohiko/nexec/keys"
)

// TestCheckHostIP holds a host's key against the lines about its address. ssh
// does not look at addresses of the machine itself, so this is without it: the
// expectations are those of its check_host_key.
func TestCheckHostIP(t *testing.T) {
	dir := t.TempDir()
	keygen(t, dir+"/host", "-t", "ed25519")
	keygen(t, dir+"/other", "-t", "ed25519")
	host, other := keyOf(t, dir+"/host.pub"), keyOf(t, dir+"/other.pub")
	const name, addr = "build.example", "192.0.2.77"
	for _, c := range []struct {
		what    string
		lines   []string
		strict  string
		check   string
		answer  string
		in      bool
		says    string // on stderr
		learned bool   // the address is added
	}{
		{"unknown address", []string{name + " " + host}, "yes", "yes", "", true, "Permanently added the ED25519 host key for IP address '192.0.2.77'", true},
		{"known address", []string{name + " " + host, addr + " " + host}, "yes", "yes", "", true, "", false},
		{"another key", []string{name + " " + host, addr + " " + other}, "yes", "yes", "", false, "differs from the key for the IP address '192.0.2.77'", false},
		{"another key, accept-new", []string{name + " " + host, addr + " " + other}, "accept-new", "yes", "", false, "differs from the key", false},
		{"another key, no", []string{name + " " + host, addr + " " + other}, "no", "yes", "", true, "Offending key for IP in " + dir + "/known:2", false},
		{"another key, asked, yes", []string{name + " " + host, addr + " " + other}, "ask", "yes", "yes", true, "", false},
		{"another key, asked, no", []string{name + " " + host, addr + " " + other}, "ask", "yes", "no", false, "", false},
		{"another key, switched off", []string{name + " " + host, addr + " " + other}, "yes", "no", "", true, "", false},
		{"changed, and the address too", []string{name + " " + other, addr + " " + other}, "yes", "yes", "", false, "REMOTE HOST IDENTIFICATION HAS CHANGED", false},
		{"changed, the address unknown", []string{name + " " + other}, "yes", "yes", "", false, "POSSIBLE DNS SPOOFING", false},
		{"new, with its address", nil, "accept-new", "yes", "", true, "Permanently added 'build.example,192.0.2.77'", true},
		{"new, without", nil, "accept-new", "no", "", true, "Permanently added 'build.example'", false},
	} {
		write(t, dir+"/known", strings.Join(c.lines, "\n")+"\n")
		stderr := &lockedBuffer{}
		p := &answers{t: t, give: []string{c.answer}}
		o := Options{Destination: "u@" + name, ConfigFile: "none", Prompt: p, Stderr: stderr, Home: dir, Settings: []string{
			"CheckHostIP=" + c.check, "StrictHostKeyChecking=" + c.strict, "UserKnownHostsFile=" + dir + "/known", "GlobalKnownHostsFile=none",
		}}
		cfg, err := Resolve(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		v := newHostVerifier(cfg, newUI(o, cfg), true, &net.TCPAddr{IP: net.ParseIP(addr), Port: 22})
		err = v.verify(t.Context(), parseKey(t, host))
		if (err == nil) != c.in {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := stderr.String(); !strings.Contains(got, c.says) || c.says == "" && got != "" {
			t.Errorf("%s: it says %q, want %q", c.what, got, c.says)
		}
		known, _ := keys.LoadKnownHosts(addr, dir+"/known")
		if learned := known.HasType("ssh-ed25519") && !strings.Contains(strings.Join(c.lines, ""), addr); learned != c.learned {
			t.Errorf("%s: the address is learned: %v", c.what, learned)
		}
		if asked := c.strict == "ask"; asked != (len(p.got) > 0) {
			t.Errorf("%s: asked %d times", c.what, len(p.got))
		}
	}
}
