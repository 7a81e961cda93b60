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
// that we do not have are an error, as they are for sshd, except in a list
// with -, which may name patterns.
func algorithmList(arg string, defaults, known []string) ([]string, error) {
	op := byte(0)
	if arg != "" && strings.IndexByte("+-^", arg[0]) >= 0 {
		op, arg = arg[0], arg[1:]
	}
	if op == '-' {
		return slices.DeleteFunc(slices.Clone(defaults), func(s string) bool {
			return keys.MatchList(s, arg, false) > 0
		}), nil
	}
	var list []string
	for name := range strings.SplitSeq(arg, ",") {
		before := len(list)
		for _, k := range known {
			if keys.MatchPattern(k, name) && !slices.Contains(list, k) {
				list = append(list, k)
			}
		}
		if len(list) == before && !slices.Contains(list, name) {
			return nil, fmt.Errorf("%q is not an algorithm that nexecd has", name)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(defaults), func(s string) bool { return slices.Contains(list, s) })
	switch op {
	case '+':
		return append(rest, list...), nil
	case '^':
		return append(list, rest...), nil
	}
	return list, nil
}

// knownKex and the like are what an administrator may ask for: everything the
// library has that does not rest on SHA-1, CBC or RC4.
func knownKex() []string     { return ssh.SupportedAlgorithms().KeyExchanges }
func knownCiphers() []string { return ssh.SupportedAlgorithms().Ciphers }
func knownMACs() []string {
	return slices.DeleteFunc(ssh.SupportedAlgorithms().MACs, func(s string) bool { return s == ssh.HMACSHA1 })
}
