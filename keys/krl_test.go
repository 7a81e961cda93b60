package keys

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestKRLAgreesWithSSHKeygen makes lists of all kinds and asks ssh-keygen -Q
// and us about the same keys.
func TestKRLAgreesWithSSHKeygen(t *testing.T) {
	dir := t.TempDir()
	ca, ca2 := pair(t, dir, "ca"), pair(t, dir, "ca2")
	var files []string
	for i := range 4 {
		files = append(files, pair(t, dir, fmt.Sprint("plain", i))+".pub")
	}
	for _, authority := range []string{ca, ca2} {
		for _, serial := range []int{0, 1, 2, 3, 63, 64, 65, 100, 1000, 1 << 30} {
			k := pair(t, dir, fmt.Sprint(filepath.Base(authority), "-", serial))
			sshKeygen(t, "-q", "-s", authority, "-I", fmt.Sprint("id", serial), "-n", "alice", "-z", fmt.Sprint(serial), k+".pub")
			files = append(files, k+"-cert.pub", k+".pub")
		}
	}
	public, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := ssh.FingerprintSHA256(readPublic(t, files[2]))
	for i, spec := range []string{
		"serial: 1\n", "serial: 1-3\nserial: 64\n", "serial: 1-100\n", "serial: 1\nserial: 3\nserial: 63\nserial: 65\nserial: 1000\n",
		"id: id64\nid: id100\n", "serial: 1073741824\n", "serial: 2-18446744073709551615\n",
		"key: " + string(public), "sha1: " + string(public), "sha256: " + string(public), "hash: " + fingerprint + "\n",
		"key: " + string(public) + "serial: 2\nid: id3\nhash: " + fingerprint + "\n",
	} {
		name := filepath.Join(dir, "spec")
		if err := os.WriteFile(name, []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, authority := range []string{"NONE", ca + ".pub"} { // NONE: of any authority
			krl := filepath.Join(dir, fmt.Sprint("krl", i, authority == "NONE"))
			sshKeygen(t, "-q", "-k", "-f", krl, "-s", authority, name)
			revoked, err := LoadRevoked(krl)
			if err != nil {
				t.Fatalf("%q: %v", spec, err)
			}
			hits := 0
			answers, err := exec.Command("ssh-keygen", append([]string{"-Q", "-f", krl}, files...)...).CombinedOutput()
			if lines := strings.Count(string(answers), "\n"); lines != len(files) {
				t.Fatalf("%v %d lines\n%s", err, lines, answers)
			}
			for j, answer := range strings.Split(strings.TrimSpace(string(answers)), "\n") {
				f, theirs := files[j], strings.HasSuffix(answer, "REVOKED")
				if !strings.HasPrefix(answer, f) {
					t.Fatalf("answer for %s: %s", f, answer)
				}
				ours := revoked.Contains(readPublic(t, f))
				if theirs != ours {
					t.Errorf("%q, authority %s, %s: ssh-keygen says %v, we say %v", spec, filepath.Base(authority), filepath.Base(f), theirs, ours)
				}
				if ours {
					hits++
				}
			}
			if hits == 0 || hits == len(files) {
				t.Errorf("%q revokes %d of %d: that tests little", spec, hits, len(files))
			}
		}
	}
}

func TestRevokedList(t *testing.T) {
	dir := t.TempDir()
	a, b := pair(t, dir, "a"), pair(t, dir, "b")
	cert := certify(t, a, b, "-n", "x")
	text, err := os.ReadFile(a + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRevoked(append([]byte("# comment\n\n"), text...))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Contains(readPublic(t, a+".pub")) || r.Contains(readPublic(t, b+".pub")) || !r.Contains(cert) {
		t.Error("the wrong keys are revoked")
	}
	for _, bad := range []string{"garbage", "ssh-ed25519 AAAA", "SSHKRL\n\x00", "SSHKRL\n\x00\x00\x00\x00\x02"} {
		if _, err := ParseRevoked([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if _, err := LoadRevoked(dir); err == nil {
		t.Error("a directory is accepted")
	}
	if _, err := LoadRevoked(dir + "/none"); err == nil {
		t.Error("a missing file is accepted")
	}
}

// seedKRLs are lists that ssh-keygen makes.
func seedKRLs(f *testing.F) [][]byte {
	dir := f.TempDir()
	ca, key := pair(f, dir, "ca"), pair(f, dir, "key")
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		f.Fatal(err)
	}
	var all [][]byte
	for i, spec := range []string{"serial: 1\nserial: 3-900\nid: x\n", "serial: 1\nserial: 3\nserial: 5\nserial: 8\n", "key: " + string(public), "sha1: " + string(public) + "sha256: " + string(public)} {
		name, krl := filepath.Join(dir, "spec"), filepath.Join(dir, fmt.Sprint("krl", i))
		if err := os.WriteFile(name, []byte(spec), 0o600); err != nil {
			f.Fatal(err)
		}
		sshKeygen(f, "-q", "-k", "-z", "7", "-f", krl, "-s", ca+".pub", name)
		data, err := os.ReadFile(krl)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// FuzzKRL holds that a list that was cut off or has something after it is
// never taken for a list, and that judging keys by any list ends.
func FuzzKRL(f *testing.F) {
	seeds := seedKRLs(f)
	for _, s := range seeds {
		f.Add(s)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	_, _, key, _, _, err := ssh.ParseKnownHosts([]byte("h ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDpQNyeZHIQRN1BTVgJ6eSLvym0UBm7BmjspyGW5n929"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseKRL(data)
		if err != nil {
			return
		}
		k.Contains(key)
		if _, err := ParseKRL(append(data[:len(data):len(data)], 1)); err == nil {
			t.Error("a byte after the list is not noticed")
		}
		if len(data) > 0 {
			if short, err := ParseKRL(data[:len(data)-1]); err == nil {
				t.Errorf("a list that is cut off is taken for %v", short)
			}
		}
	})
}
