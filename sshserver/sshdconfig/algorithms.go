package sshdconfig

import (
	"fmt"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

// The defaults are what ssh-audit has nothing to say against. AES-GCM comes
// first because it is by far the fastest where the processor has AES.
func defaultKex() []string {
	return []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519}
}

func defaultCiphers() []string {
	return []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}
}

// defaultMACs are for ciphers that an administrator adds: none of the default
// ones has a MAC of its own.
func defaultMACs() []string { return []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM} }

func defaultHostKeyAlgorithms() []string {
	return []string{
		ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
}

// userAlgorithms are all kinds of user keys that we can check, and with -cert-
// names their certificates.
func userAlgorithms() []string {
	return []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
}

func defaultPubkeyAlgorithms() []string {
	return append([]string{
		ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoSKED25519v01, ssh.CertAlgoSKECDSA256v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
	}, userAlgorithms()...)
}

func defaultCASignatures() []string { return userAlgorithms() }

// algorithmList resolves a list with +, - or ^ against the defaults. Names
// that OpenSSH has and we do not are left out and returned as without: a list
// permits, and what is not there is not permitted. When nothing else is in the
// list, and for names that nobody has, there is an error, as from sshd.
func algorithmList(arg string, defaults, known []string) (list, without []string, err error) {
	op := byte(0)
	if arg != "" && strings.IndexByte("+-^", arg[0]) >= 0 {
		op, arg = arg[0], arg[1:]
	}
	if op == '-' {
		list = slices.DeleteFunc(slices.Clone(defaults), func(s string) bool {
			return keys.MatchList(s, arg, false) > 0
		})
		if len(list) == 0 { // which the library would take for its own defaults
			return nil, nil, fmt.Errorf("-%s leaves no algorithm", arg)
		}
		return list, nil, nil
	}
	for name := range strings.SplitSeq(arg, ",") {
		before := len(list)
		for _, k := range known {
			if keys.MatchPattern(k, name) && !slices.Contains(list, k) {
				list = append(list, k)
			}
		}
		switch {
		case len(list) > before || slices.Contains(list, name):
		case slices.ContainsFunc(opensshOnly(), func(o string) bool { return keys.MatchPattern(o, name) }):
			without = append(without, name)
		default:
			return nil, nil, fmt.Errorf("%q is not an algorithm that nexecd has", name)
		}
	}
	if len(list) == 0 && op == 0 {
		return nil, nil, fmt.Errorf("%q is not an algorithm that nexecd has, nor is anything else in the list", without[0])
	}
	rest := slices.DeleteFunc(slices.Clone(defaults), func(s string) bool { return slices.Contains(list, s) })
	switch op {
	case '+':
		return append(rest, list...), without, nil
	case '^':
		return append(list, rest...), without, nil
	}
	return list, without, nil
}

// opensshOnly are algorithms of OpenSSH, now or once, that the library lacks
// or that we do not offer.
func opensshOnly() []string {
	return strings.Fields(`
		sntrup761x25519-sha512 sntrup761x25519-sha512@openssh.com sntrup4591761x25519-sha512@tinyssh.org
		diffie-hellman-group1-sha1 diffie-hellman-group14-sha1 diffie-hellman-group14-sha256 diffie-hellman-group16-sha512
		diffie-hellman-group18-sha512 diffie-hellman-group-exchange-sha1 diffie-hellman-group-exchange-sha256
		3des-cbc aes128-cbc aes192-cbc aes256-cbc rijndael-cbc@lysator.liu.se
		umac-64@openssh.com umac-128@openssh.com umac-64-etm@openssh.com umac-128-etm@openssh.com
		hmac-md5 hmac-md5-96 hmac-md5-etm@openssh.com hmac-md5-96-etm@openssh.com
		hmac-sha1 hmac-sha1-96 hmac-sha1-etm@openssh.com hmac-sha1-96-etm@openssh.com hmac-sha2-512 hmac-sha2-256
		ssh-rsa ssh-dss ssh-rsa-cert-v01@openssh.com ssh-dss-cert-v01@openssh.com
		webauthn-sk-ecdsa-sha2-nistp256@openssh.com webauthn-sk-ecdsa-sha2-nistp256-cert-v01@openssh.com
		sk-ssh-ed25519@openssh.com sk-ssh-ed25519-cert-v01@openssh.com
		sk-ecdsa-sha2-nistp256@openssh.com sk-ecdsa-sha2-nistp256-cert-v01@openssh.com`)
}

// knownKex and the like are what an administrator may ask for: everything the
// library has that does not rest on SHA-1, CBC or RC4.
func knownKex() []string     { return ssh.SupportedAlgorithms().KeyExchanges }
func knownCiphers() []string { return ssh.SupportedAlgorithms().Ciphers }
func knownMACs() []string {
	return slices.DeleteFunc(ssh.SupportedAlgorithms().MACs, func(s string) bool { return s == ssh.HMACSHA1 })
}
