package keys

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Markers of known_hosts lines. See sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
const (
	MarkerNone    = ""
	MarkerCA      = "@cert-authority"
	MarkerRevoked = "@revoked"
)

// maxKnownHostsLine bounds one line: the largest RSA key that OpenSSH makes
// (16384 bits) takes 2.8 kB, a certificate a few more.
const maxKnownHostsLine = 1 << 20

// KnownHost is one line of a known_hosts file.
type KnownHost struct {
	File   string
	Line   int
	Marker string // one of the Marker constants
	Hosts  string // the patterns as written, or one hashed name
	Key    ssh.PublicKey
}

// Where names the line as file:line, the way OpenSSH does.
func (k *KnownHost) Where() string { return k.File + ":" + strconv.Itoa(k.Line) }

// Matches reports whether the line is about name, a host name, or what
// HostPort makes of one. A hashed line matches by its hash, any other by its
// comma-separated patterns, of which a negated one that matches always wins.
func (k *KnownHost) Matches(name string) bool { return hostsMatch(k.Hosts, name) }

func hostsMatch(hosts, name string) bool {
	name = strings.ToLower(name)
	if strings.HasPrefix(hosts, "|") {
		return hashMatches(hosts, name)
	}
	return MatchList(name, hosts, true) > 0
}

// HostPort is the name under which known_hosts has a host: the bare name for
// port 22 or 0, else [name]:port.
func HostPort(host string, port int) string {
	if port == 0 || port == 22 {
		return host
	}
	return "[" + host + "]:" + strconv.Itoa(port)
}

// ReadKnownHosts reads the lines of a known_hosts file that are about one of
// names; without names, all of them. Lines that do not parse are left out, as
// OpenSSH leaves them out: a key that cannot be read vouches for nobody. A
// file that does not exist has no lines and is no error.
func ReadKnownHosts(file string, names ...string) ([]KnownHost, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseKnownHosts(f, file, names...)
}

// ParseKnownHosts is ReadKnownHosts over an open file.
func ParseKnownHosts(r io.Reader, file string, names ...string) ([]KnownHost, error) {
	var known []KnownHost
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 16<<10), maxKnownHostsLine)
	for n := 1; sc.Scan(); n++ {
		marker, hosts, key, ok := splitKnownHost(sc.Text())
		if !ok || (len(names) > 0 && !matchesAny(hosts, names)) {
			continue
		}
		pub, ok := parseKeyFields(key)
		if !ok {
			continue
		}
		known = append(known, KnownHost{File: file, Line: n, Marker: marker, Hosts: hosts, Key: pub})
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w: remove the line that is longer than %d bytes", file, err, maxKnownHostsLine)
	}
	return known, nil
}

func matchesAny(hosts string, names []string) bool {
	for _, name := range names {
		if hostsMatch(hosts, name) {
			return true
		}
	}
	return false
}

// splitKnownHost splits a line into its marker, host patterns and the rest,
// which begins with the key type. Comments and damaged lines are not ok.
func splitKnownHost(line string) (marker, hosts, rest string, ok bool) {
	line = strings.TrimLeft(line, " \t")
	if line == "" || line[0] == '#' {
		return "", "", "", false
	}
	if line[0] == '@' {
		i := strings.IndexAny(line, " \t")
		if i < 0 || (line[:i] != MarkerCA && line[:i] != MarkerRevoked) {
			return "", "", "", false
		}
		marker, line = line[:i], strings.TrimLeft(line[i:], " \t")
		if strings.HasPrefix(line, "@") {
			return "", "", "", false // only one marker is allowed
		}
	}
	i := strings.IndexAny(line, " \t")
	if i <= 0 {
		return "", "", "", false
	}
	rest = strings.TrimLeft(line[i:], " \t")
	return marker, line[:i], rest, rest != "" && rest[0] != '#'
}

// parseKeyFields reads "type base64 [comment]". The type written must be the
// type of the key.
func parseKeyFields(s string) (ssh.PublicKey, bool) {
	fields := strings.Fields(s)
	if len(fields) < 2 {
		return nil, false
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, false
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != fields[0] {
		return nil, false
	}
	return key, true
}

// hashMatches reports whether a "|1|salt|hash" name is that of host.
func hashMatches(hashed, host string) bool {
	parts := strings.Split(hashed, "|")
	if len(parts) != 4 || parts[0] != "" || parts[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(salt) != sha1.Size {
		return false
	}
	sum, err := base64.StdEncoding.DecodeString(parts[3])
	return err == nil && hmac.Equal(sum, hostHash(salt, host))
}

func hostHash(salt []byte, host string) []byte {
	// SHA-1 is what the format has; it hides names, it signs nothing.
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(host))
	return mac.Sum(nil)
}

// HashHost hides a host name as HashKnownHosts asks for.
func HashHost(host string) string {
	salt := make([]byte, sha1.Size)
	rand.Read(salt) // never fails, since Go 1.24
	enc := base64.StdEncoding.EncodeToString
	return "|1|" + enc(salt) + "|" + enc(hostHash(salt, strings.ToLower(host)))
}

// KnownHostsLine formats a line for name without its newline.
func KnownHostsLine(name string, key ssh.PublicKey, hash bool) string {
	name = strings.ToLower(name)
	if hash {
		name = HashHost(name)
	}
	return name + " " + key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
}

// HostnameIsRecordable reports whether a host name may be written to
// known_hosts: one with pattern or quoting characters would say something
// else there.
func HostnameIsRecordable(name string) bool {
	return name != "" && !strings.ContainsAny(name, "@?*#[]|'\"\\ \t,!") && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// IPString is how known_hosts writes the address of addr, without its port,
// or "" when addr has none.
func IPString(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP == nil {
		return ""
	}
	s := tcp.IP.String()
	if tcp.Zone != "" {
		s += "%" + tcp.Zone
	}
	return s
}

// SameKey reports whether two public keys are the same.
func SameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
