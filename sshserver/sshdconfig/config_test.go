package sshdconfig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return c
}

func TestParse(t *testing.T) {
	s := mustParse(t, `
# a comment
Port 22
port=2222 # another
ListenAddress 0.0.0.0
ListenAddress [::1]:77
ListenAddress ::
MaxAuthTries 3
MaxAuthTries 9
"LoginGraceTime" 1m30
AllowUsers alice bob@10.0.0.0/8
AllowUsers 'c d' "e f"
AuthorizedKeysFile .ssh/a  /etc/%u
MaxStartups 5:50:10
ForceCommand  echo "a  b" # not a comment
PermitUserEnvironment LANG,LC_*
Subsystem nexec /usr/lib/nexec/nexec-server -v
CommandMap ffmpeg /usr/bin/ffmpeg
CommandMap echo /bin/echo
Ciphers +aes256-ctr
KexAlgorithms -mlkem*
RekeyLimit 1G none
X11Forwarding yes
UsePAM no
`).Global
	for name, pair := range map[string][2]any{
		"ports":     {s.Ports, []int{22, 2222}},
		"addresses": {s.Addresses(), []Listen{{"0.0.0.0", 22}, {"0.0.0.0", 2222}, {"::1", 77}, {"::", 22}, {"::", 2222}}},
		"tries":     {s.MaxAuthTries, 3},
		"grace":     {s.LoginGraceTime, 90 * time.Second},
		"users":     {s.AllowUsers, []string{"alice", "bob@10.0.0.0/8", "c d", "e f"}},
		"files":     {s.AuthorizedKeysFiles, []string{".ssh/a", "/etc/%u"}},
		"startups":  {s.MaxStartups, Startups{5, 50, 10}},
		"force":     {s.ForceCommand, `echo "a  b" # not a comment`},
		"subsystem": {s.Subsystems, []Subsystem{{"nexec", []string{"/usr/lib/nexec/nexec-server", "-v"}}}},
		"map":       {s.CommandMap, []Command{{"ffmpeg", "/usr/bin/ffmpeg"}, {"echo", "/bin/echo"}}},
		"ciphers":   {s.Ciphers, append(defaultCiphers(), "aes256-ctr")},
		"kex":       {s.KexAlgorithms, []string{"curve25519-sha256"}},
		"rekey":     {s.RekeyLimit, uint64(1 << 30)},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %#v, want %#v", name, pair[0], pair[1])
		}
	}
	if !s.PermitsUserEnv("LC_ALL") || s.PermitsUserEnv("LD_PRELOAD") {
		t.Error("PermitUserEnvironment")
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"Nonsense yes":                   "f:1:1: unknown keyword Nonsense",
		"\n  Port":                       "f:2:3: Port: missing argument",
		"Port x":                         `f:1:6: Port: "x" is not a port`,
		"Port 65536":                     "f:1:6: Port: ",
		"Port 22 23":                     `f:1:9: Port: "23" is one argument too many`,
		"StrictModes maybe":              "f:1:13: StrictModes: ",
		"AllowUsers \"a":                 "f:1:12: a quote that is not closed",
		"PermitRootLogin\tsometimes":     "f:1:17: PermitRootLogin: ",
		"MaxStartups 10:30":              "f:1:13: MaxStartups: ",
		"MaxStartups 10:30:5":            "f:1:13: MaxStartups: ",
		"UsePAM maybe":                   "f:1:8: UsePAM: ",
		"Ciphers -*":                     "f:1:9: Ciphers: -* leaves no algorithm",
		"MACs umac-64@openssh.com,":      "f:1:6: MACs: \"\" is not",
		"AuthenticationMethods password": "f:1:23: AuthenticationMethods: ",
		"ChrootDirectory /srv":           "f:1:17: ChrootDirectory: ",
		"Ciphers 3des-cbc":               `f:1:9: Ciphers: "3des-cbc" is not`,
		"MACs hmac-sha1":                 "f:1:6: MACs: ",
		"KexAlgorithms diffie-hellman-group1-sha1": "f:1:15: KexAlgorithms: ",
		"PubkeyAuthOptions verify-required":        "f:1:19: PubkeyAuthOptions: ",
		"Match User":                               "f:1:7: Match: User: missing argument",
		"Match":                                    "f:1:1: Match: no criteria",
		"Match all user x":                         "f:1:7: Match: all cannot",
		"Match planet mars":                        "f:1:7: Match: unknown criterion planet",
		"Match address 10.0.0.1/8":                 "f:1:7: Match: address: ",
		"Match localport 0":                        "f:1:7: Match: localport: ",
		"Match rdomain x":                          "f:1:7: Match: rdomain is not supported",
		"Match all\nPort 22":                       "f:2:1: Port is not allowed in a Match block",
		"CommandMap a/b /bin/b":                    "f:1:12: CommandMap: ",
		"CommandMap a b":                           "f:1:14: CommandMap: ",
		"AuthorizedKeysCommand x":                  "f:1:23: AuthorizedKeysCommand: ",
		"SetEnv A":                                 "f:1:8: SetEnv: ",
		"SetEnv A=b C":                             "f:1:12: SetEnv: ",
		"LoginGraceTime 5y":                        "f:1:16: LoginGraceTime: ",
		"LoginGraceTime 99999999999999w":           "f:1:16: LoginGraceTime: ",
		"Port 22\x00":                              "f:1:8: a NUL byte",
		"Subsystem nexec":                          "f:1:11: Subsystem: missing command",
		"Subsystem a b\nSubsystem a c":             "f:2:11: Subsystem: subsystem a is already defined",
	} {
		_, err := Parse("f", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestWarnings has what loads and does less than it says.
func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		"Port 22\nUsePAM yes":       "f:2: UsePAM: PAM is not used",
		"UsePAM no\nUsePAM yes":     "",
		"Ciphers -aes*,umac*":       "",
		"KexAlgorithms curve25519*": "",
		"MACs hmac-sha2-256-etm*,umac-128-etm@openssh.com,hmac-sha1": "f:1: MACs: nexecd goes without umac-128-etm@openssh.com,hmac-sha1, which",
		"Match all\nPubkeyAcceptedAlgorithms +ssh-dss":               "f:2: PubkeyAcceptedAlgorithms: nexecd goes without ssh-dss, which",
	} {
		c := mustParse(t, text)
		if got := strings.Join(c.Warnings, "; "); (want == "") != (got == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	c := mustParse(t, "KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256\nCiphers ^3des-cbc,aes256-gcm*")
	if got := fmt.Sprint(c.Global.KexAlgorithms, c.Global.Ciphers); got != "[curve25519-sha256] [aes256-gcm@openssh.com aes128-gcm@openssh.com chacha20-poly1305@openssh.com]" {
		t.Error(got)
	}
}

func TestMatch(t *testing.T) {
	c := mustParse(t, `
MaxSessions 1
AllowUsers global
Match User alice,b*,!bad
	MaxSessions 2
	AllowUsers a
	AllowUsers b
Match Group staff Address 10.0.0.0/8
	MaxSessions 3
Match LocalPort 2222
	MaxSessions 4
	PermitTTY no
Match User=alice
	MaxSessions 5
	PermitRootLogin no
Match all
	ForceCommand last
`)
	for _, x := range []struct {
		conn  Conn
		max   int
		users string
		tty   bool
	}{
		{Conn{User: "carol"}, 1, "global", true},
		{Conn{User: "alice"}, 2, "a b", true},
		{Conn{User: "bob", LocalPort: 2222}, 2, "a b", false},
		{Conn{User: "bad"}, 1, "global", true},
		{Conn{User: "carol", Groups: []string{"x", "staff"}, Addr: "10.1.2.3"}, 3, "global", true},
		{Conn{User: "carol", Groups: []string{"staff"}, Addr: "11.1.2.3"}, 1, "global", true},
		{Conn{User: "carol", Groups: []string{"staff"}, Addr: "UNKNOWN"}, 1, "global", true},
	} {
		s := c.For(&x.conn)
		if s.MaxSessions != x.max || strings.Join(s.AllowUsers, " ") != x.users || s.PermitTTY != x.tty || s.ForceCommand != "last" {
			t.Errorf("%+v: %d %v %v %q", x.conn, s.MaxSessions, s.AllowUsers, s.PermitTTY, s.ForceCommand)
		}
	}
	if c.Global.ForceCommand != "" || c.Global.MaxSessions != 1 {
		t.Error("a block changes the global settings")
	}
}

func TestInclude(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("main", "Include sub/*.none b*.conf\nMaxSessions 7\nMatch User alice\nInclude in-match\nPermitTTY no\nMatch all\nBanner /b\n")
	write("b1.conf", "MaxSessions 2\nMatch User bob\nMaxSessions 3\n")
	write("b2.conf", "MaxAuthTries 4\n")
	write("in-match", "MaxSessions 5\nMatch LocalPort 9\nMaxAuthTries 1\n")
	c, err := Read(filepath.Join(dir, "main"), []string{"LogLevel=VERBOSE"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Global.MaxSessions != 2 || c.Global.MaxAuthTries != 4 || c.Global.LogLevel != "VERBOSE" {
		t.Errorf("%+v", c.Global)
	}
	for _, x := range []struct {
		conn     Conn
		max, try int
		tty      bool
	}{
		{Conn{User: "bob"}, 3, 4, true}, {Conn{User: "alice"}, 5, 4, false}, {Conn{User: "alice", LocalPort: 9}, 5, 1, false},
		{Conn{User: "carol", LocalPort: 9}, 2, 4, true},
	} {
		s := c.For(&x.conn)
		if s.MaxSessions != x.max || s.MaxAuthTries != x.try || s.PermitTTY != x.tty || s.Banner != "/b" {
			t.Errorf("%+v: %d %d %v %s", x.conn, s.MaxSessions, s.MaxAuthTries, s.PermitTTY, s.Banner)
		}
	}
	write("b2.conf", "\nMaxAuthTries none\n")
	if _, err = Read(filepath.Join(dir, "main"), nil); err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, "b2.conf")+":2:14: ") {
		t.Errorf("error in an included file: %v", err)
	}
	write("b2.conf", "Include main\n")
	if _, err = Read(filepath.Join(dir, "main"), nil); err == nil || !strings.Contains(err.Error(), "nested more than 16 deep") {
		t.Errorf("files that include each other: %v", err)
	}
}

// TestShowReadsBack holds -T to what it says.
func TestShowReadsBack(t *testing.T) {
	for _, text := range []string{
		"", "Port 22\nPort 23\nListenAddress ::1\nAllowUsers a b\nDenyGroups g\nMaxStartups 1:2:3\nPerSourceMaxStartups 4\nPermitUserEnvironment A*\nRekeyLimit 512M\n" +
			"SetEnv A=b C=d\nSubsystem nexec /x y\nCommandMap a /b\nForceCommand x y\nClientAliveInterval 30\nAuthorizedKeysCommand /x %u\nPubkeyAuthentication no\nHostKey /k\nBanner none\n",
	} {
		c := mustParse(t, text)
		var first, second bytes.Buffer
		if err := c.Global.Write(&first); err != nil {
			t.Fatal(err)
		}
		if err := mustParse(t, first.String()).Global.Write(&second); err != nil {
			t.Fatal(err)
		}
		if first.String() != second.String() {
			t.Errorf("%s\nreads back as\n%s", &first, &second)
		}
	}
}

// manKeywords are those of sshd_config(5) as Debian has it.
func manKeywords(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("zcat", "/usr/share/man/man5/sshd_config.5.gz").Output()
	if err != nil {
		t.Fatalf("sshd_config(5): %v", err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm ([A-Z]\S+)`).FindAllSubmatch(out, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

// TestEveryKeyword holds the table to the manual and doc/sshd_config.md to the table.
func TestEveryKeyword(t *testing.T) {
	table := map[string]Keyword{}
	for _, k := range Keywords() {
		if table[k.Name].Name != "" {
			t.Errorf("%s is there twice", k.Name)
		}
		table[k.Name] = k
	}
	names := manKeywords(t)
	if len(names) < 90 {
		t.Fatalf("sshd_config(5) has only %d keywords: %v", len(names), names)
	}
	for _, n := range names {
		if table[n].Name == "" {
			t.Errorf("%s is missing", n)
		}
	}
	doc, err := os.ReadFile("../../doc/sshd_config.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(string(doc), "\n")
	for _, k := range Keywords() {
		prefix := fmt.Sprintf("| %s | %s | %s |", k.Name, k.Use, map[bool]string{true: "yes", false: ""}[k.Match])
		if !slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, prefix) }) {
			t.Errorf("doc/sshd_config.md lacks: %s", prefix)
		}
	}
	count := 0
	for _, r := range rows {
		name, _, _ := strings.Cut(strings.TrimPrefix(r, "| "), " |")
		if strings.HasPrefix(r, "| ") && name != "keyword" {
			count++
			if table[name].Name == "" {
				t.Errorf("doc/sshd_config.md has the unknown %s", name)
			}
		}
	}
	if count != len(table) {
		t.Errorf("doc/sshd_config.md has %d rows, the table %d", count, len(table))
	}
}

// FuzzConfig holds that what is accepted shows as something that is accepted
// and shows the same, and that errors have a place.
func FuzzConfig(f *testing.F) {
	seeds := []string{
		"Port 22\nPermitRootLogin no\n", "Match User a,!b Address 10.0.0.0/8\n\tMaxSessions 2\nMatch all\n", "AllowUsers 'a b' \"c\\\"d\" # x\n",
		"Ciphers ^aes*\nKexAlgorithms -mlkem*\nMaxStartups 1:2:3\n", "SetEnv A=\"b c\" D=e\nForceCommand x 'y'\n", "LoginGraceTime 1w2d3h4m5\nRekeyLimit 1G none\n",
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if regexp.MustCompile(`(?i)include`).MatchString(text) {
			return // files of this machine
		}
		c, err := Parse("f", []byte(text))
		if err != nil {
			if _, ok := err.(*Error); !ok || !regexp.MustCompile(`^f:\d+:\d+: `).MatchString(err.Error()) {
				t.Errorf("error without a place: %v", err)
			}
			return
		}
		c.For(&Conn{User: "a", Addr: "10.0.0.1", LocalPort: 22})
		var first, second bytes.Buffer
		if err := c.Global.Write(&first); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("f", first.Bytes())
		if err != nil {
			t.Fatalf("%q shows as %q, which is refused: %v", text, &first, err)
		}
		if err := again.Global.Write(&second); err != nil {
			t.Fatal(err)
		}
		if first.String() != second.String() {
			t.Errorf("%q shows as %q and then as %q", text, &first, &second)
		}
	})
}
