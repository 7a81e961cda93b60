package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

// hostVerifier decides about the key that a host shows, as OpenSSH's
// verify_host_key does. It is used by one handshake; what the handshake may
// still do afterwards stands in its fields.
type hostVerifier struct {
	cfg    *Config
	ui     *ui
	direct bool         // reached by TCP, not through a proxy
	addr   *net.TCPAddr // where, when direct

	name  string          // the host's name in known_hosts
	files keys.KnownHosts // the lines about it in files
	known keys.KnownHosts // these and the command's
	key   ssh.PublicKey   // what the host showed, accepted

	noPasswords bool  // the key is not the one known: nothing that can be replayed
	mayUpdate   bool  // UpdateHostKeys may go on
	failure     error // why verify refused
}

func newHostVerifier(cfg *Config, u *ui, direct bool, remote net.Addr) *hostVerifier {
	v := &hostVerifier{cfg: cfg, ui: u, direct: direct}
	if direct {
		v.addr, _ = remote.(*net.TCPAddr)
	}
	if v.name = keys.HostPort(cfg.HostName, cfg.Port); cfg.HostKeyAlias != "" {
		v.name = cfg.HostKeyAlias
	}
	v.files = v.load(v.name)
	v.known = v.files
	return v
}

func (v *hostVerifier) load(name string) keys.KnownHosts {
	known, errs := keys.LoadKnownHosts(name, slices.Concat(v.cfg.UserKnownHostsFiles, v.cfg.GlobalKnownHostsFiles)...)
	for _, err := range errs {
		v.ui.verbose(1, "known hosts: %v", err)
	}
	return known
}

// lookUp asks the files and the command about a name.
func (v *hostVerifier) lookUp(ctx context.Context, purpose, name string, key ssh.PublicKey) (keys.KnownHosts, error) {
	lines, err := v.askCommand(ctx, purpose, name, key)
	if err != nil {
		return nil, v.fail(key, nil, err.Error(), "mend KnownHostsCommand, or set it to none")
	}
	return append(v.load(name), lines...), nil
}

// algorithms are the host key algorithms to offer. Unless the configuration
// orders them, those that can show a key on file come first, so that a server
// with several keys shows one that can be checked.
func (v *hostVerifier) algorithms() []string {
	algs := supported(v.cfg.HostKeyAlgorithms, func(a ssh.Algorithms) []string { return a.HostKeys })
	if !v.cfg.HostKeyAlgorithmsDefault || len(algs) == 0 || v.known.HasType(keyType(algs[0])) {
		return algs
	}
	var first, last []string
	for _, alg := range algs {
		if (isCertAlgorithm(alg) && v.known.HasCA()) || v.known.HasType(keyType(alg)) {
			first = append(first, alg)
		} else {
			last = append(last, alg)
		}
	}
	return append(first, last...)
}

// verify is the ssh.HostKeyCallback. x/crypto calls it once for each key
// exchange; a key accepted before is accepted again.
func (v *hostVerifier) verify(ctx context.Context, key ssh.PublicKey) error {
	if v.key != nil {
		if keys.SameKey(v.key, key) {
			return nil
		}
		return v.fail(key, nil, "the host showed another key in the middle of the connection", "connect again and compare the key with the administrator's")
	}
	if bits := keys.RSABits(key); bits != 0 && bits < v.cfg.RequiredRSASize {
		return v.fail(key, nil, fmt.Sprintf("its RSA key has %d bits and RequiredRSASize is %d", bits, v.cfg.RequiredRSASize), "have the host make a larger key, or lower RequiredRSASize")
	}
	v.ui.verbose(1, "Server host key: %s %s", key.Type(), v.fingerprint(key))
	if err := v.checkRevoked(key); err != nil {
		return err
	}
	lines, err := v.askCommand(ctx, "HOSTNAME", v.name, key)
	if err != nil {
		return v.fail(key, nil, err.Error(), "mend KnownHostsCommand, or set it to none")
	}
	v.known = slices.Concat(v.files, lines)
	if v.cfg.NoHostAuthLocalhost && v.isLocal() && v.cfg.HostKeyAlias == "" {
		v.key = key
		return nil
	}
	err = v.decide(ctx, key)
	if err == nil {
		err = v.checkIP(ctx, key)
	}
	if err == nil {
		v.key = key
	}
	v.failure = err
	return err
}

// checkRevoked is RevokedHostKeys, which counts whatever known_hosts and
// StrictHostKeyChecking say.
func (v *hostVerifier) checkRevoked(key ssh.PublicKey) error {
	file := v.cfg.RevokedHostKeys
	if file == "" {
		return nil
	}
	revoked, err := keys.LoadRevoked(file)
	if err != nil {
		return v.fail(key, nil, "RevokedHostKeys cannot be read: "+err.Error(), "mend or remove the file, or the keyword")
	}
	if revoked.Contains(key) {
		return v.fail(key, nil, "the key is revoked by "+file, "ask the host's administrator for its new key")
	}
	return nil
}

// decide holds a key against known_hosts; a certificate that no authority on
// file vouches for counts as its plain key.
func (v *hostVerifier) decide(ctx context.Context, key ssh.PublicKey) error {
	status, found := v.known.Check(key)
	if cert, ok := key.(*ssh.Certificate); ok {
		switch status {
		case keys.HostOK:
			err := v.checkCertificate(cert, found)
			if err == nil {
				return nil
			}
			v.ui.warn("%v (CA key in %s)", err, found.Where())
		case keys.HostRevoked:
			return v.revoked(key)
		default:
			if v.knownWithoutPort(key) {
				return nil
			}
		}
		v.ui.verbose(1, "No matching CA found. Retry with plain key")
		return v.decide(ctx, cert.Key)
	}
	switch status {
	case keys.HostOK:
		v.ui.verbose(1, "Host '%s' is known and matches the %s host key.\nFound key in %s", v.name, keys.TypeName(key), found.Where())
		v.mayUpdate = slices.Contains(v.cfg.UserKnownHostsFiles, found.File)
		return nil
	case keys.HostRevoked:
		return v.revoked(key)
	case keys.HostChanged:
		return v.changed(ctx, key, found)
	}
	if v.knownWithoutPort(key) {
		return nil
	}
	return v.unknown(ctx, key)
}

// knownWithoutPort: a host on another port is accepted by a line without the
// port, if that line has this very key or its authority.
func (v *hostVerifier) knownWithoutPort(key ssh.PublicKey) bool {
	if v.cfg.HostKeyAlias != "" || v.cfg.Port == 22 {
		return false
	}
	known := v.load(v.cfg.HostName) // as ssh, which does not ask the command here
	status, found := known.Check(key)
	if status != keys.HostOK {
		return false
	}
	if cert, ok := key.(*ssh.Certificate); ok && v.checkCertificate(cert, found) != nil {
		return false
	}
	v.ui.verbose(1, "found matching key w/out port in %s", found.Where())
	return true
}

// checkCertificate checks a host certificate whose authority is on file: its
// kind, names, times, options and signature.
func (v *hostVerifier) checkCertificate(cert *ssh.Certificate, found *keys.KnownHost) error {
	host := v.cfg.HostName
	if v.cfg.HostKeyAlias != "" {
		host = v.cfg.HostKeyAlias
	}
	if err := keys.CheckHostCertificate(cert, host, v.cfg.CASignatureAlgorithms); err != nil {
		return err
	}
	v.ui.verbose(1, "Host '%s' is known and matches the %s host certificate.\nFound CA key in %s", v.name, keys.TypeName(cert), found.Where())
	return nil
}

func (v *hostVerifier) revoked(key ssh.PublicKey) error {
	v.ui.warn("%s@       WARNING: REVOKED HOST KEY DETECTED!               @\n%sThe %s host key for %s is marked as revoked.\nThis could mean that a stolen key is being used to\nimpersonate this host.", rule, rule, keys.TypeName(key), v.name)
	if v.cfg.StrictHostKeyChecking == "no" {
		v.distrust()
		return nil
	}
	return v.fail(key, nil, "the key is marked @revoked", "ask the host's administrator for its new key, and put that into known_hosts")
}

const rule = "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\n"

// changed warns as OpenSSH does and refuses, unless StrictHostKeyChecking is
// no: then only what cannot be replayed elsewhere may authenticate.
func (v *hostVerifier) changed(ctx context.Context, key ssh.PublicKey, found *keys.KnownHost) error {
	if v.cfg.CheckHostIP {
		v.warnSpoofing(ctx, key, found)
	}
	file := slices.Concat(v.cfg.UserKnownHostsFiles, v.cfg.GlobalKnownHostsFiles)[0]
	v.ui.warn("%s@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n%sIT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\n"+
		"Someone could be eavesdropping on you right now (man-in-the-middle attack)!\n"+
		"It is also possible that a host key has just been changed.\n"+
		"The fingerprint for the %s key sent by the remote host is\n%s.\nPlease contact your system administrator.\n"+
		"Add correct host key in %s to get rid of this message.\nOffending %s key in %s%s",
		rule, rule, keys.TypeName(key), v.fingerprint(key), file, keys.TypeName(found.Key), found.Where(), v.howToRemove(found, "\n  remove with:\n  "))
	if v.cfg.StrictHostKeyChecking == "no" {
		v.distrust()
		return nil
	}
	return v.fail(key, found, "the host key has changed", "if the administrator confirms the new key, remove the old one"+v.howToRemove(found, " with: "))
}

// howToRemove is the command that removes a line about the host, unless it
// stands in no file.
func (v *hostVerifier) howToRemove(found *keys.KnownHost, before string) string {
	if strings.HasPrefix(found.File, commandTag) {
		return ""
	}
	return fmt.Sprintf("%sssh-keygen -f '%s' -R '%s'", before, found.File, v.name)
}

// distrust goes on with a host that is not who it was.
func (v *hostVerifier) distrust() {
	v.noPasswords, v.mayUpdate = true, false
	if v.cfg.PasswordAuthentication {
		v.ui.warn("Password authentication is disabled to avoid man-in-the-middle attacks.")
	}
	if v.cfg.KbdInteractive {
		v.ui.warn("Keyboard-interactive authentication is disabled to avoid man-in-the-middle attacks.")
	}
}

// unknown is for a host of which nothing is on file.
func (v *hostVerifier) unknown(ctx context.Context, key ssh.PublicKey) error {
	switch v.cfg.StrictHostKeyChecking {
	case "yes":
		return v.fail(key, nil, fmt.Sprintf("no %s host key is known for %s and you have requested strict checking", keys.TypeName(key), v.name),
			"get the key from the host's administrator and add it to "+v.userFile())
	case "ask":
		if err := v.askUnknown(ctx, key); err != nil {
			return err
		}
		v.mayUpdate = true
	}
	v.record(key)
	return nil
}

func (v *hostVerifier) userFile() string {
	if len(v.cfg.UserKnownHostsFiles) == 0 {
		return "a UserKnownHostsFile"
	}
	return v.cfg.UserKnownHostsFiles[0]
}

func (v *hostVerifier) askUnknown(ctx context.Context, key ssh.PublicKey) error {
	hint := "connect from a terminal to accept it, or add the key to " + v.userFile()
	if v.cfg.BatchMode {
		return v.fail(key, nil, "the host is not known and BatchMode forbids to ask", hint)
	}
	fp := v.fingerprint(key)
	ip := "<no hostip for proxy command>"
	if s := v.ipName(); s != "" {
		ip = s
	}
	text := fmt.Sprintf("The authenticity of host '%s (%s)' can't be established.\n%s key fingerprint is %s.\n%s"+
		"Are you sure you want to continue connecting (yes/no/[fingerprint])? ", printable(v.name), ip, keys.TypeName(key), fp, v.otherNames(key))
	for {
		answer, err := v.ui.ask(ctx, Question{Text: text, Echo: true, Confirm: true})
		if errors.Is(err, ErrCannotAsk) {
			return v.fail(key, nil, "the host is not known and there is nobody to ask", hint)
		}
		if err != nil {
			return v.fail(key, nil, err.Error(), hint)
		}
		first, _, _ := strings.Cut(strings.TrimLeft(answer, " \t"), " ")
		switch {
		case strings.EqualFold(first, "yes") || first == fp:
			return nil
		case first == "" || strings.EqualFold(first, "no"):
			return v.fail(key, nil, "you did not accept it", "compare the fingerprint with the administrator's and connect again")
		}
		text = "Please type 'yes', 'no' or the fingerprint: "
	}
}

// maxOtherNames bounds the names shown, as OpenSSH's MAX_OTHER_NAMES.
const maxOtherNames = 8

// otherNames says under which other names the same key is on file.
func (v *hostVerifier) otherNames(key ssh.PublicKey) string {
	var lines []string
	for _, file := range slices.Concat(v.cfg.UserKnownHostsFiles, v.cfg.GlobalKnownHostsFiles) {
		known, err := keys.ReadKnownHosts(file)
		if err != nil {
			continue // load has said so
		}
		for _, k := range known {
			if k.Marker == keys.MarkerNone && keys.SameKey(k.Key, key) {
				hosts := k.Hosts
				if strings.HasPrefix(hosts, "|") {
					hosts = "[hashed name]"
				}
				lines = append(lines, fmt.Sprintf("    %s: %s\n", k.Where(), printable(hosts)))
			}
		}
	}
	if len(lines) == 0 {
		return "This key is not known by any other names.\n"
	}
	more := ""
	if n := len(lines) - maxOtherNames; n > 0 {
		lines, more = lines[:maxOtherNames], fmt.Sprintf("    (%d additional names omitted)\n", n)
	}
	return "This host key is known by the following other names/addresses:\n" + strings.Join(lines, "") + more
}

// record adds a new host to the user's first file.
func (v *hostVerifier) record(key ssh.PublicKey) {
	if len(v.cfg.UserKnownHostsFiles) == 0 || !keys.HostnameIsRecordable(v.cfg.HostName) {
		return
	}
	names := []string{v.name}
	if ip := v.ipName(); v.cfg.CheckHostIP && ip != "" && ip != v.name {
		if v.cfg.HashKnownHosts {
			names = append(names, ip)
		} else {
			names[0] += "," + ip
		}
	}
	file := v.cfg.UserKnownHostsFiles[0]
	if err := keys.AddKnownHost(file, key, v.cfg.HashKnownHosts, names...); err != nil {
		v.ui.warn("Failed to add the host to the list of known hosts (%s): %v", file, reason(err))
		return
	}
	v.ui.warn("Warning: Permanently added '%s' (%s) to the list of known hosts.", strings.Join(names, ","), keys.TypeName(key))
}

func (v *hostVerifier) fingerprint(key ssh.PublicKey) string {
	return keys.Fingerprint(key, v.cfg.FingerprintHash)
}

func (v *hostVerifier) fail(key ssh.PublicKey, found *keys.KnownHost, why, hint string) error {
	e := &HostKeyError{Host: v.name, KeyType: keys.TypeName(key), Fingerprint: v.fingerprint(key), Why: why, Hint: hint}
	if found != nil {
		e.Where = found.Where()
	}
	v.failure = e
	return e
}

// isLocal: the host is this machine.
func (v *hostVerifier) isLocal() bool { return v.addr != nil && v.addr.IP.IsLoopback() }

// ipName is the address as known_hosts has it, or "" through a proxy.
func (v *hostVerifier) ipName() string {
	if v.addr == nil {
		return ""
	}
	return keys.HostPort(keys.IPString(v.addr), v.cfg.Port)
}

// isGlobalFile reports whether a line stands in a GlobalKnownHostsFile.
func (v *hostVerifier) isGlobalFile(file string) bool {
	return slices.ContainsFunc(v.cfg.GlobalKnownHostsFiles, func(g string) bool { return filepath.Clean(g) == filepath.Clean(file) })
}
