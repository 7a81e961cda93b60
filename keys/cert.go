package keys

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ifHonoured refuses a key whose options we have no means to enforce. What a
// security key attests (a touch, a PIN) is inside of a signature that the ssh
// library checks and does not show; it waives the touch for certificates that
// say so, whether or not the line that trusts them agrees.
func ifHonoured(o *Options, key ssh.PublicKey) (*Options, string) {
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		key = cert.Key
	}
	if !strings.HasPrefix(key.Type(), "sk-") {
		return o, ""
	}
	if o.VerifyRequired {
		return nil, "verify-required cannot be honoured for security keys"
	}
	if isCert && !o.NoTouchRequired && WaivesTouch(cert) {
		return nil, "certificate waives the touch that is required here"
	}
	return o, ""
}

// WaivesTouch reports whether key is a certificate that wants no touch.
func WaivesTouch(key ssh.PublicKey) bool {
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return false
	}
	_, waives := cert.Extensions["no-touch-required"]
	return waives
}

// checkAuthority judges a certificate whose authority is in authorized_keys.
func checkAuthority(cert *ssh.Certificate, user string, opts *Options, peer Peer) (*Options, string) {
	own, reason := certOptions(cert)
	if reason == "" {
		reason = own.permits(peer, false)
	}
	if reason != "" {
		return nil, reason
	}
	merged, reason := mergeOptions(opts, own)
	if reason != "" {
		return nil, reason
	}
	principals := []string{user}
	if opts.HasPrincipals {
		principals = strings.Split(opts.Principals, ",")
		if !anyOf(cert.ValidPrincipals, principals) {
			return nil, "Certificate does not contain an authorized principal"
		}
	}
	if reason := CheckCertificate(cert, ssh.UserCert, principals, peer.Now); reason != "" {
		return nil, reason
	}
	merged.CertAuthority = false
	return ifHonoured(merged, cert)
}

func anyOf(have, want []string) bool {
	return slices.ContainsFunc(have, func(s string) bool { return slices.Contains(want, s) })
}

// CheckCertificate judges type, validity, principals and signature of a
// certificate. Its authority must have been found trusted before. A
// certificate without principals is good for nobody: sshd before 10.3 let it
// pass below cert-authority in authorized_keys. It returns the reason for a refusal.
func CheckCertificate(cert *ssh.Certificate, kind uint32, principals []string, now time.Time) string {
	switch unix := uint64(now.Unix()); {
	case cert.CertType != kind && kind == ssh.UserCert:
		return "Certificate invalid: not a user certificate"
	case cert.CertType != kind:
		return "Certificate invalid: not a host certificate"
	case now.Unix() < 0 || unix < cert.ValidAfter:
		return "Certificate invalid: not yet valid"
	case unix >= cert.ValidBefore:
		return "Certificate invalid: expired"
	case len(cert.ValidPrincipals) == 0:
		return "Certificate lacks principal list"
	case !anyOf(cert.ValidPrincipals, principals):
		return "Certificate invalid: name is not a listed principal"
	}
	if cert.SignatureKey.Type() == ssh.KeyAlgoRSA && cert.Signature.Format == ssh.KeyAlgoRSA {
		return "Certificate signed with SHA-1"
	}
	if err := verifyCertificate(cert); err != nil {
		return "Certificate signature invalid"
	}
	return ""
}

// verifyCertificate checks the authority's signature, which covers all of the
// certificate before it.
func verifyCertificate(cert *ssh.Certificate) error {
	c := *cert
	c.Signature = nil
	data := c.Marshal()
	return cert.SignatureKey.Verify(data[:len(data)-4], cert.Signature)
}

// certOptions are the options that a certificate carries. See OpenSSH's
// PROTOCOL.certkeys: unknown critical options refuse it, unknown extensions
// do not matter, and what is not granted is not permitted.
func certOptions(cert *ssh.Certificate) (*Options, string) {
	if cert.CertType != ssh.UserCert {
		return nil, "Invalid certificate options: not a user certificate"
	}
	o := &Options{}
	for name, value := range cert.CriticalOptions {
		switch name {
		case "force-command":
			o.HasCommand, o.Command = true, value
		case "source-address":
			if _, err := matchCIDRList("", value); err != nil {
				return nil, "Certificate source-address invalid"
			}
			o.SourceAddress = value
		case "verify-required":
			o.VerifyRequired = true
		default:
			return nil, fmt.Sprintf("Certificate critical option %q is not supported", name)
		}
	}
	for name, to := range map[string]*bool{
		"permit-X11-forwarding": &o.X11Forwarding, "permit-agent-forwarding": &o.AgentForwarding,
		"permit-port-forwarding": &o.PortForwarding, "permit-pty": &o.PTY,
		"permit-user-rc": &o.UserRC, "no-touch-required": &o.NoTouchRequired,
	} {
		_, *to = cert.Extensions[name]
	}
	return o, ""
}

// mergeOptions joins what a line grants with what a certificate grants: both
// must permit, either may restrict. See OpenSSH's sshauthopt_merge.
func mergeOptions(line, cert *Options) (*Options, string) {
	m := *line
	m.PTY = line.PTY && cert.PTY
	m.PortForwarding = line.PortForwarding && cert.PortForwarding
	m.AgentForwarding = line.AgentForwarding && cert.AgentForwarding
	m.X11Forwarding = line.X11Forwarding && cert.X11Forwarding
	m.UserRC = line.UserRC && cert.UserRC
	m.NoTouchRequired = line.NoTouchRequired && cert.NoTouchRequired
	m.VerifyRequired = line.VerifyRequired || cert.VerifyRequired
	m.SourceAddress = cert.SourceAddress
	switch {
	case line.HasCommand && cert.HasCommand && line.Command != cert.Command:
		return nil, "forced command options do not match"
	case cert.HasCommand:
		m.HasCommand, m.Command = true, cert.Command
	}
	return &m, ""
}

// TrustedCertificate judges a certificate whose authority is in
// TrustedUserCAKeys. lists are the contents of AuthorizedPrincipalsFile and
// AuthorizedPrincipalsCommand by name, tried in order; when there are any, one
// must name a principal of the certificate, and otherwise user must be one.
func TrustedCertificate(cert *ssh.Certificate, user string, lists []PrincipalsList, peer Peer) (*Options, string) {
	own, reason := certOptions(cert)
	if reason != "" {
		return nil, reason
	}
	principals := []string{user}
	granted := own
	if len(lists) > 0 {
		found, refused := findPrincipal(cert, lists)
		if found == nil {
			return nil, refused
		}
		if reason := found.permits(peer, false); reason != "" {
			return nil, reason
		}
		if granted, reason = mergeOptions(found, own); reason != "" {
			return nil, reason
		}
		principals = cert.ValidPrincipals
	}
	if reason := CheckCertificate(cert, ssh.UserCert, principals, peer.Now); reason != "" {
		return nil, reason
	}
	if reason := own.permits(peer, false); reason != "" {
		return nil, reason
	}
	return ifHonoured(granted, cert)
}

// PrincipalsList is the content of a principals file or of a command's output.
type PrincipalsList struct {
	Name string
	Data io.Reader
}

// findPrincipal returns the options of the first line that names a principal
// of cert, or nil and why there is none.
func findPrincipal(cert *ssh.Certificate, lists []PrincipalsList) (*Options, string) {
	reason := "Certificate does not contain an authorized principal"
	for _, list := range lists {
		var found *Options
		err := eachLine(list.Data, func(n int, line string) bool {
			name, opts, err := parsePrincipal(line)
			if err != nil {
				reason = fmt.Sprintf("%s:%d: bad principals options: %v", list.Name, n, err)
			} else if name != "" && slices.Contains(cert.ValidPrincipals, name) {
				found = opts
			}
			return found == nil
		})
		if err != nil {
			return nil, fmt.Sprintf("%s: %v", list.Name, err)
		}
		if found != nil {
			return found, ""
		}
	}
	return nil, reason
}

// parsePrincipal reads "options name # comment".
func parsePrincipal(line string) (string, *Options, error) {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimRight(line, " \t\r\n")
	if line == "" {
		return "", nil, nil
	}
	at := strings.LastIndexByte(line, ' ')
	if at < 0 {
		at = strings.LastIndexByte(line, '\t')
	}
	if at < 0 {
		return line, permissiveOptions(), nil
	}
	opts, err := ParseOptions(line)
	return strings.TrimLeft(line[at:], " \t"), opts, err
}
