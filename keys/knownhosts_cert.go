package keys

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// CheckHostCertificate checks a certificate that a host has shown and whose
// signing key has been found trustworthy already: that it is one for hosts, is
// valid now, names host (its principals may be patterns), has no critical
// option, and that the signature is good and by one of caAlgorithms.
func CheckHostCertificate(cert *ssh.Certificate, host string, caAlgorithms []string) error {
	return checkHostCertificate(cert, host, caAlgorithms, time.Now())
}

func checkHostCertificate(cert *ssh.Certificate, host string, caAlgorithms []string, now time.Time) error {
	if cert.CertType != ssh.HostCert {
		return errors.New("the certificate is not a host certificate")
	}
	unix := uint64(max(now.Unix(), 0))
	if unix < cert.ValidAfter {
		return errors.New("the host certificate is not yet valid")
	}
	if cert.ValidBefore != ssh.CertTimeInfinity && unix >= cert.ValidBefore {
		return errors.New("the host certificate has expired")
	}
	if len(cert.CriticalOptions) > 0 {
		return errors.New("the host certificate has an unknown critical option")
	}
	host = strings.ToLower(host)
	// OpenSSH lets a certificate without principals be for no host.
	if !slices.ContainsFunc(cert.ValidPrincipals, func(p string) bool { return MatchPattern(host, p) }) {
		return fmt.Errorf("the host certificate is for %q and not for %q", strings.Join(cert.ValidPrincipals, ","), host)
	}
	if cert.Signature == nil || !slices.Contains(caAlgorithms, cert.Signature.Format) {
		return errors.New("the host certificate is signed with an algorithm that CASignatureAlgorithms does not allow")
	}
	checker := &ssh.CertChecker{
		Clock: func() time.Time { return now },
		IsHostAuthority: func(auth ssh.PublicKey, _ string) bool {
			return bytes.Equal(auth.Marshal(), cert.SignatureKey.Marshal())
		},
	}
	// The principals are matched above; this is for the signature.
	if err := checker.CheckCert(cert.ValidPrincipals[0], cert); err != nil {
		return fmt.Errorf("the host certificate is not valid: %w", err)
	}
	return nil
}
