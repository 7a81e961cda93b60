package dial

import (
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// Names that OpenSSH accepts in lists of algorithms. What x/crypto does not
// have is dropped when the list is offered; a name in neither is an error, as
// it is with OpenSSH.
func opensshCiphers() []string {
	return []string{
		"3des-cbc", "aes128-cbc", "aes192-cbc", "aes256-cbc", "aes128-ctr", "aes192-ctr", "aes256-ctr",
		"aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
	}
}

func opensshMACs() []string {
	macs := []string{"hmac-sha1", "hmac-sha1-96", "hmac-sha2-256", "hmac-sha2-512", "hmac-md5", "hmac-md5-96"}
	for _, m := range slices.Clone(macs) {
		macs = append(macs, m+"-etm@openssh.com")
	}
	return append(macs, "umac-64@openssh.com", "umac-128@openssh.com", "umac-64-etm@openssh.com", "umac-128-etm@openssh.com")
}

func opensshKexes() []string {
	return []string{
		"diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group14-sha256",
		"diffie-hellman-group16-sha512", "diffie-hellman-group18-sha512",
		"diffie-hellman-group-exchange-sha1", "diffie-hellman-group-exchange-sha256",
		"ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
		"curve25519-sha256", "curve25519-sha256@libssh.org", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com",
		"mlkem768x25519-sha256", "mlkem768nistp256-sha256", "mlkem1024nistp384-sha384",
	}
}

func opensshKeyAlgorithms() []string {
	plain := []string{
		"ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
		"sk-ecdsa-sha2-nistp256@openssh.com", "webauthn-sk-ecdsa-sha2-nistp256@openssh.com",
		"ssh-dss", "ssh-rsa", "rsa-sha2-256", "rsa-sha2-512",
	}
	algs := slices.Clone(plain)
	for _, p := range plain {
		algs = append(algs, strings.TrimSuffix(p, "@openssh.com")+"-cert-v01@openssh.com")
	}
	return algs
}

func knownAlgorithms(key string) []string {
	switch key {
	case "ciphers":
		return opensshCiphers()
	case "macs":
		return opensshMACs()
	case "kexalgorithms":
		return opensshKexes()
	}
	return opensshKeyAlgorithms()
}

// unknownAlgorithm returns the first name of a list that nobody knows, or "".
// What is taken away may be patterns and anything. Lists of key algorithms may
// hold patterns, which must match something.
func unknownAlgorithm(key, spec string) string {
	if strings.HasPrefix(spec, "-") {
		return ""
	}
	known := knownAlgorithms(key)
	patterns := key != "ciphers" && key != "macs" && key != "kexalgorithms"
	for _, name := range strings.Split(strings.TrimLeft(spec, "+^"), ",") {
		if slices.Contains(known, name) {
			continue
		}
		if !patterns || !slices.ContainsFunc(known, func(k string) bool { return keys.MatchPattern(k, name) }) {
			return name
		}
	}
	return ""
}

// assemble makes the list that a setting stands for: the setting itself, or a
// change to the default: + appends, - takes away, ^ puts first. Patterns stand
// for what they match of all. See OpenSSH's kex_assemble_names.
func assemble(spec string, defaults, all []string) []string {
	if spec == "" {
		return defaults
	}
	switch spec[0] {
	case '+':
		return expandNames(append(slices.Clone(defaults), strings.Split(spec[1:], ",")...), all)
	case '^':
		return expandNames(append(strings.Split(spec[1:], ","), defaults...), all)
	case '-':
		return slices.DeleteFunc(slices.Clone(defaults), func(name string) bool { return keys.MatchList(name, spec[1:], false) > 0 })
	}
	return expandNames(strings.Split(spec, ","), all)
}

// expandNames replaces patterns by the names they match, each name once.
func expandNames(names, all []string) []string {
	var out []string
	add := func(name string) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, name := range names {
		if !strings.ContainsAny(name, "*?!") {
			add(name)
			continue
		}
		for _, a := range all {
			if keys.MatchList(a, name, false) > 0 {
				add(a)
			}
		}
	}
	return out
}

func defaultCiphers() []string { return cipherOrder(hasAES()) }

// cipherOrder puts AES-GCM first where the CPU has AES instructions, and
// ChaCha20 where it has not.
func cipherOrder(aes bool) []string {
	gcm := []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}
	ctr := []string{ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR}
	if aes {
		return slices.Concat(gcm, []string{ssh.CipherChaCha20Poly1305}, ctr)
	}
	return slices.Concat([]string{ssh.CipherChaCha20Poly1305}, gcm, ctr)
}

func hasAES() bool {
	return (cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ) || (cpu.ARM64.HasAES && cpu.ARM64.HasPMULL)
}

func defaultKexes() []string {
	return []string{
		ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, "curve25519-sha256@libssh.org",
		ssh.KeyExchangeECDHP256, ssh.KeyExchangeECDHP384, ssh.KeyExchangeECDHP521,
		ssh.KeyExchangeDHGEXSHA256, ssh.KeyExchangeDH16SHA512, ssh.KeyExchangeDH14SHA256,
	}
}

func defaultMACs() []string {
	return []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512, ssh.HMACSHA1}
}

// defaultKeyAlgorithms are OpenSSH's for host and user keys, in its order.
func defaultKeyAlgorithms() []string {
	return []string{
		ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoSKED25519v01, ssh.CertAlgoSKECDSA256v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
}

func defaultCASignatures() []string {
	return []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
}

// supported keeps the names that x/crypto has, the weak ones included: whoever
// names one in the configuration gets it, as with OpenSSH.
func supported(names []string, pick func(ssh.Algorithms) []string) []string {
	have := append(pick(ssh.SupportedAlgorithms()), pick(ssh.InsecureAlgorithms())...)
	have = append(have, "curve25519-sha256@libssh.org")
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(have, n) })
}

// keyType is the type of the plain key behind a signature algorithm or a
// certificate's: rsa-sha2-512 and ssh-rsa-cert-v01@openssh.com are ssh-rsa.
func keyType(alg string) string {
	plain := strings.Replace(alg, "-cert-v01@openssh.com", "", 1)
	switch {
	case plain == ssh.KeyAlgoRSASHA256 || plain == ssh.KeyAlgoRSASHA512:
		return ssh.KeyAlgoRSA
	case plain != alg && strings.HasPrefix(plain, "sk-"):
		return plain + "@openssh.com"
	}
	return plain
}

func isCertAlgorithm(alg string) bool { return strings.HasSuffix(alg, "-cert-v01@openssh.com") }
