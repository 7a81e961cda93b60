package sshserver

import (
	"flag"
	"math/rand/v2"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// keyLines are lines of authorized_keys in which KEY stands for the key that
// is tried and OTHER for another one.
func keyLines() []string {
	return []string{
		"KEY", " KEY", "\tKEY comment", "#KEY", "# KEY", "KEY # comment", "", "KEY\r",
		"OTHER", "OTHER\nKEY", "garbage\nKEY", "unknown-option KEY\nKEY", "\x00KEY", "KEY\x00junk",
		"restrict KEY", "RESTRICT KEY", "restrict,pty KEY", "pty,restrict KEY", "no-pty KEY", "NO-PTY KEY", "No-Pty,pty KEY",
		"no-restrict KEY", "no-cert-authority KEY", "cert-authority KEY", "ptyx KEY", "pty, KEY", ",pty KEY", "pty,,no-pty KEY",
		"pty no-pty KEY", "pty ,no-pty KEY", "pty\tKEY", "pty  KEY", "agent-forwarding,port-forwarding,X11-forwarding,user-rc KEY",
		"no-agent-forwarding,no-port-forwarding,no-x11-forwarding,no-user-rc KEY", "touch-required KEY", "no-touch-required KEY",
		"verify-required KEY", "no-verify-required KEY",
		`command="true" KEY`, `command="a \"b\" c" KEY`, `command="a\\" KEY`, `command="a\" KEY`, `command=true KEY`, `command= KEY`,
		`command="true KEY`, `command="a",command="a" KEY`, `COMMAND="true" KEY`, `command ="true" KEY`, `command="" KEY`,
		`command="a"x KEY`, `command="a" ,pty KEY`, `command="a	b" KEY`, `no-command="true" KEY`,
		`from="127.0.0.1" KEY`, `from="127.0.0.0/8" KEY`, `from="127.0.0.1/8" KEY`, `from="!127.0.0.1,*" KEY`, `from="*,!127.0.0.1" KEY`,
		`from="10.0.0.0/8" KEY`, `from="127.0.0.?" KEY`, `from="127.*" KEY`, `from="" KEY`, `from="," KEY`, `from="127.0.0.1," KEY`,
		`from="localhost" KEY`, `from="127.0.0.1/33" KEY`, `from="127.0.0.1/" KEY`, `from="127.0.0.1/x" KEY`, `from="::1" KEY`,
		`from="127.0.0.1",from="127.0.0.1" KEY`, `from="!10.0.0.0/8,127.0.0.1" KEY`, `from="!" KEY`, `from="::/0" KEY`,
		`from="::ffff:127.0.0.1" KEY`, `from="0.0.0.0/0" KEY`, `from="127.0.0.1 " KEY`, `from=" 127.0.0.1" KEY`,
		`environment="A=b" KEY`, `environment="A=b",environment="A=c" KEY`, `environment="A" KEY`, `environment="=b" KEY`,
		`environment="A B=c" KEY`, `environment="A_1=c=d" KEY`, `environment="A-B=c" KEY`, `environment="A=" KEY`,
		`expiry-time="20400101" KEY`, `expiry-time="20200101" KEY`, `expiry-time="2040010112" KEY`, `expiry-time="204001011200" KEY`,
		`expiry-time="20400101120059Z" KEY`, `expiry-time="20400101UTC" KEY`, `expiry-time="20401301" KEY`, `expiry-time="20400231" KEY`,
		`expiry-time="20400132" KEY`, `expiry-time="x0400101" KEY`, `expiry-time="" KEY`, `expiry-time="20400101",expiry-time="20200101" KEY`,
		`expiry-time="19700101Z" KEY`, `expiry-time="19690101" KEY`, `expiry-time="20400101z" KEY`, `expiry-time="20400101utc" KEY`,
		`expiry-time="204001012460" KEY`, `expiry-time="20400101235961" KEY`, `expiry-time="20400001" KEY`, `expiry-time="20400100" KEY`,
		`permitopen="a:1" KEY`, `permitopen="a:0" KEY`, `permitopen="a:*" KEY`, `permitopen="a" KEY`, `permitopen=":1" KEY`, `permitopen="[::1]:22" KEY`,
		`permitopen="[::1]" KEY`, `permitopen="[::1:22" KEY`, `permitopen="::1:22" KEY`, `permitopen="a:http" KEY`, `permitopen="a:65536" KEY`, `permitopen="a/22" KEY`,
		`permitopen="a:22x" KEY`, `permitopen="a: 22" KEY`, `permitopen="a:+22" KEY`, `permitopen="a:nosuchservice" KEY`, `permitopen="" KEY`, `permitopen="a:-1" KEY`,
		`permitlisten="8080" KEY`, `permitlisten="a:8080" KEY`, `permitlisten="x" KEY`, `permitlisten="*" KEY`, `permitlisten="" KEY`, `permitlisten="a:" KEY`,
		`tunnel="0" KEY`, `tunnel="any" KEY`, `tunnel="ANY" KEY`, `tunnel="x" KEY`, `tunnel="-1" KEY`, `tunnel="2147483646" KEY`, `tunnel="2147483645" KEY`, `tunnel="" KEY`, `tunnel=" 5" KEY`,
		`principals="x" KEY`, `principals="" KEY`, `cert-authority,principals="x" KEY`,
		`zos-key-ring-label="x" KEY`, "pty,unknown KEY", "unknown,pty KEY", "user-rc,user-rcx KEY",
		"ssh-ed25519 KEY", "ssh-rsa KEY", "KEYx", "KEY=", "pty KEY extra words", "\"pty\" KEY", "pty\" \" KEY", `pty\" KEY`, "\\pty KEY",
		"ſtrict KEY", "Kpty KEY", "ssh-ed25519\tBLOB", "ssh-ed25519  BLOB", "SSH-ED25519 BLOB", "ssh-ed25519 BLOB\tx", "ssh-ed25519,pty BLOB", "ssh-rsa BLOB", "rsa-sha2-256 BLOB",
		"ssh-ed25519 BL\vOB", "ssh-ed25519", "ssh-ed25519 ", "BLOB", "pty BLOB",
	}
}

// fill replaces the words of keyLines.
func fill(s string, key, other ssh.PublicKey) string {
	k := line(key)
	blob := strings.Fields(k)[1]
	// The key of BL\vOB is broken in its middle.
	s = strings.ReplaceAll(s, "BL\vOB", blob[:10]+"\v"+blob[10:])
	return strings.NewReplacer("KEY", k, "OTHER", line(other), "BLOB", blob).Replace(s)
}

// mutate changes a line in one place.
func mutate(r *rand.Rand, s string) string {
	parts := []string{",", " ", "\t", `"`, `\`, "=", "no-", "pty", "restrict", "x", `\"`, "!", "#", "command=", "from=", "*", "\v"}
	b := []byte(s)
	at := r.IntN(len(b) + 1)
	switch r.IntN(3) {
	case 0:
		if at < len(b) {
			return string(append(b[:at:at], b[at+1:]...))
		}
	case 1:
		return s[:at] + parts[r.IntN(len(parts))] + s[at:]
	case 2:
		if at < len(b) {
			return s[:at] + parts[r.IntN(len(parts))] + s[at+1:]
		}
	}
	return s
}

// A longer search than that of every run:
//
//	go test -run TestSameVerdictsAsSSHD ./sshserver -verdicts.seed=$RANDOM -verdicts.lines=2000
var (
	verdictsSeed  = flag.Uint64("verdicts.seed", 1, "seed of the lines of authorized_keys that sshd and we are asked about")
	verdictsLines = flag.Int("verdicts.lines", 40, "how many such lines there are beside the fixed ones")
)

// TestSameVerdictsAsSSHD gives the same lines to Debian's sshd and to us, and
// tries the same key on both.
func TestSameVerdictsAsSSHD(t *testing.T) {
	t.Parallel()
	s := start(t, "", echo(), nil)
	other := newKey(t)
	addr, sshdLog := realSSHD(t, s.dir, "StrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile "+filepath.Join(s.dir, "keys"))
	lines := keyLines()
	r := rand.New(rand.NewPCG(*verdictsSeed, 2))
	for range *verdictsLines { // of a fixed line, or of one that was made before
		lines = append(lines, mutate(r, lines[r.IntN(len(lines))]))
	}
	accepted := 0
	for _, l := range lines {
		s.authorize(fill(l, s.key.PublicKey(), other.PublicKey()))
		theirs, theirErr := dialAs(addr, me(t), s.key)
		ours, ourErr := s.dial(s.key)
		if (theirErr == nil) != (ourErr == nil) {
			tail := sshdLog()
			t.Errorf("line %q: sshd says %v, we say %v\n%s", l, theirErr, ourErr, tail[max(0, len(tail)-1500):])
		}
		if theirErr == nil {
			theirs.Close()
			accepted++
		}
		if ourErr == nil {
			ours.Close()
		}
	}
	if accepted < len(lines)/10 || accepted > len(lines)*9/10 {
		t.Errorf("sshd accepted %d of %d lines: that tests little", accepted, len(lines))
	}
}

// TestSameModesAsSSHD gives files and directories all kinds of modes.
func TestSameModesAsSSHD(t *testing.T) {
	// Not below /tmp, which everybody may write.
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp(u.HomeDir, ".nexec-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	dir := filepath.Join(home, "a")
	file := filepath.Join(dir, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := start(t, "StrictModes yes\nAuthorizedKeysFile "+file, echo(), nil)
	if !s.cfg.Global.StrictModes {
		t.Fatal("StrictModes is off")
	}
	addr, _ := realSSHD(t, s.dir, "StrictModes yes\nPermitRootLogin yes\nAuthorizedKeysFile "+file)
	real := filepath.Join(home, "real")
	write := func(path string) {
		if err := os.WriteFile(path, []byte(line(s.key.PublicKey())+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verdicts := map[bool]int{}
	check := func(what string) {
		t.Helper()
		theirs, theirErr := dialAs(addr, me(t), s.key)
		ours, ourErr := s.dial(s.key)
		if theirErr == nil {
			theirs.Close()
		}
		if ourErr == nil {
			ours.Close()
		}
		if (theirErr == nil) != (ourErr == nil) {
			t.Errorf("%s: sshd says %v, we say %v\n%s", what, theirErr, ourErr, s.log)
		}
		verdicts[ourErr == nil]++
	}
	write(file)
	for _, mode := range []os.FileMode{0o600, 0o644, 0o620, 0o660, 0o602, 0o666, 0o400, 0o777} {
		chmod(t, file, mode)
		check("file " + mode.String())
	}
	chmod(t, file, 0o600)
	for _, mode := range []os.FileMode{0o755, 0o775, 0o757, 0o777, 0o770} {
		chmod(t, dir, mode)
		check("directory " + mode.String())
		chmod(t, dir, 0o700)
		chmod(t, home, mode)
		check("upper directory " + mode.String())
		chmod(t, home, 0o700)
	}
	if os.Geteuid() == 0 {
		for _, id := range [][2]int{{12345, 0}, {0, 12345}, {0, 8}} {
			for _, mode := range []os.FileMode{0o644, 0o664} {
				if err := os.Chown(file, id[0], id[1]); err != nil {
					t.Fatal(err)
				}
				chmod(t, file, mode)
				check("another's file")
			}
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	check("no file")
	write(real)
	if err := os.Symlink(real, file); err != nil {
		t.Fatal(err)
	}
	check("symlink")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	check("directory in the file's place")
	if verdicts[true] == 0 || verdicts[false] == 0 {
		t.Errorf("verdicts %v: that tests nothing", verdicts)
	}
	if !strings.Contains(s.log.String(), "Authentication refused: bad ownership or modes for file "+file) ||
		!strings.Contains(s.log.String(), "Authentication refused: bad ownership or modes for directory "+dir) {
		t.Errorf("log lacks OpenSSH's wording:\n%s", s.log)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
