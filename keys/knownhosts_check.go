package keys

import (
	"golang.org/x/crypto/ssh"
)

// HostStatus is what known_hosts says about a key that a host has shown.
type HostStatus int

const (
	HostNew     HostStatus = iota // nothing is known of the host
	HostOK                        // the key, or the certificate's authority, is the one on file
	HostChanged                   // other keys are on file
	HostRevoked                   // the key or its authority is marked @revoked
)

// KnownHosts has the lines about one name, gathered from several files in
// their order.
type KnownHosts []KnownHost

// LoadKnownHosts gathers the lines about name. Files that cannot be read
// count as empty, as with OpenSSH, which fails closed: the host is then not
// known. Their errors are returned beside the result.
func LoadKnownHosts(name string, files ...string) (KnownHosts, []error) {
	var all KnownHosts
	var errs []error
	for _, file := range files {
		known, err := ReadKnownHosts(file, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, known...)
	}
	return all, errs
}

// Check says what is known of key, and the line that says so: the matching
// one, or the last that differs. A certificate is held against
// @cert-authority lines only; its validity is CheckHostCertificate's matter.
func (ks KnownHosts) Check(key ssh.PublicKey) (HostStatus, *KnownHost) {
	if ks.revoked(key) {
		return HostRevoked, nil
	}
	marker, sought := MarkerNone, key
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		marker, sought = MarkerCA, cert.SignatureKey
	}
	status, found := HostNew, (*KnownHost)(nil)
	for i := range ks {
		if ks[i].Marker != marker {
			continue
		}
		if SameKey(ks[i].Key, sought) {
			return HostOK, &ks[i]
		}
		if !isCert {
			status, found = HostChanged, &ks[i]
		}
	}
	return status, found
}

func (ks KnownHosts) revoked(key ssh.PublicKey) bool {
	plain := PlainKey(key)
	cert, isCert := key.(*ssh.Certificate)
	for i := range ks {
		if ks[i].Marker != MarkerRevoked {
			continue
		}
		if SameKey(PlainKey(ks[i].Key), plain) || (isCert && SameKey(ks[i].Key, cert.SignatureKey)) {
			return true
		}
	}
	return false
}

// HasCA reports whether a @cert-authority line is among them.
func (ks KnownHosts) HasCA() bool {
	for i := range ks {
		if ks[i].Marker == MarkerCA {
			return true
		}
	}
	return false
}

// HasType reports whether a plain key of a type, as in "ssh-ed25519", is
// among them.
func (ks KnownHosts) HasType(keyType string) bool {
	for i := range ks {
		if ks[i].Marker == MarkerNone && ks[i].Key.Type() == keyType {
			return true
		}
	}
	return false
}

// PlainKey is the key that a certificate certifies, or key itself.
func PlainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}
