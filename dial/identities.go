package dial

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

// identity is one key that may be offered to the server.
type identity struct {
	pub    ssh.PublicKey // nil until its file is decrypted
	file   string        // of the private key, or ""
	name   string        // for messages
	signer ssh.Signer    // in the agent; nil when the file must be read
	named  bool          // by the user, rather than by default
}

// identities are the keys to offer, in OpenSSH's order: certificates given by
// CertificateFile, keys of the agent that the configuration names, the agent's
// others, the other files. IdentitiesOnly leaves the agent's others out.
func (a *authenticator) identities() []*identity {
	files := a.fileIdentities()
	certs := a.certificates(files)
	var preferred, others []*identity
	for _, s := range a.agentSigners() {
		i := slices.IndexFunc(files, func(f *identity) bool { return f.pub != nil && keys.SameKey(f.pub, s.PublicKey()) })
		if i >= 0 {
			files[i].signer = s
			preferred = append(preferred, files[i])
			files = slices.Delete(files, i, i+1)
		} else if !a.cfg.IdentitiesOnly {
			others = append(others, &identity{pub: s.PublicKey(), signer: s, name: "agent key"})
		}
	}
	all := slices.Concat(certs, preferred, others, files)
	for _, id := range all {
		a.findCertSigner(id, all)
	}
	return slices.DeleteFunc(all, func(id *identity) bool { return !a.mayOffer(id) })
}

// fileIdentities reads the public keys of the identity files, and beside each
// its certificate, unless CertificateFile names some.
func (a *authenticator) fileIdentities() []*identity {
	var ids []*identity
	for _, file := range a.cfg.IdentityFiles {
		if file == "none" {
			continue
		}
		id := &identity{file: file, name: file, named: !a.cfg.IdentityFilesDefault}
		pub, err := keys.LoadPublicIdentity(file)
		if errors.Is(err, fs.ErrNotExist) {
			if id.named {
				a.ui.info("no such identity: %s: %v", file, reason(err))
			}
			continue
		}
		if err != nil {
			a.ui.warn("Load key %q: %v", file, reason(err))
			continue
		}
		id.pub = pub
		ids = append(ids, id)
		if len(a.cfg.CertificateFiles) > 0 {
			continue
		}
		if cert, err := keys.LoadUserCertificate(file + "-cert"); err == nil {
			ids = append(ids, &identity{file: file, name: file + "-cert", pub: cert, named: id.named})
		}
	}
	return ids
}

// certificates reads those that CertificateFile names.
func (a *authenticator) certificates(files []*identity) []*identity {
	var ids []*identity
	for _, file := range a.cfg.CertificateFiles {
		cert, err := keys.LoadUserCertificate(file)
		if err != nil {
			a.ui.warn("Load certificate %q: %v", file, reason(err))
			continue
		}
		id := &identity{name: file, pub: cert, named: true}
		for _, f := range files {
			if f.pub != nil && keys.SameKey(f.pub, cert.Key) {
				id.file = f.file
			}
		}
		ids = append(ids, id)
	}
	return ids
}

// findCertSigner gives a certificate the signer of its key.
func (a *authenticator) findCertSigner(id *identity, all []*identity) {
	cert, ok := id.pub.(*ssh.Certificate)
	if !ok || id.signer != nil {
		return
	}
	for _, other := range all {
		if other.signer != nil && other.pub != nil && keys.SameKey(other.pub, cert.Key) {
			id.signer = other.signer
			return
		}
	}
}

// mayOffer reports whether the configuration allows the key, and there is a
// way to sign with it.
func (a *authenticator) mayOffer(id *identity) bool {
	if id.pub == nil {
		return true // known only when decrypted; checked again then
	}
	if id.signer == nil && id.file == "" {
		a.ui.verbose(1, "Skipping %s: no private key for it", id.name)
		return false
	}
	if bits := keys.RSABits(id.pub); bits != 0 && bits < a.cfg.RequiredRSASize {
		a.ui.warn("Skipping key %s: its %d bits are fewer than RequiredRSASize", id.name, bits)
		return false
	}
	if len(a.signatureAlgorithms(id.pub)) == 0 {
		a.ui.verbose(1, "Skipping %s key %s - corresponding algo not in PubkeyAcceptedAlgorithms", id.pub.Type(), id.name)
		return false
	}
	return true
}

// signatureAlgorithms are those that PubkeyAcceptedAlgorithms allows for a
// key, by the names of plain signatures.
func (a *authenticator) signatureAlgorithms(pub ssh.PublicKey) []string {
	_, isCert := pub.(*ssh.Certificate)
	isCert = isCert || isCertAlgorithm(pub.Type())
	var algs []string
	for _, alg := range a.cfg.PubkeyAcceptedAlgorithms {
		plain := plainSignature(alg)
		if isCertAlgorithm(alg) == isCert && keyType(alg) == keyType(pub.Type()) && !slices.Contains(algs, plain) {
			algs = append(algs, plain)
		}
	}
	return algs
}

// plainSignature is the signature algorithm of a certificate algorithm.
func plainSignature(alg string) string {
	if !isCertAlgorithm(alg) {
		return alg
	}
	switch alg {
	case ssh.CertAlgoRSASHA256v01:
		return ssh.KeyAlgoRSASHA256
	case ssh.CertAlgoRSASHA512v01:
		return ssh.KeyAlgoRSASHA512
	}
	return keyType(alg)
}

// offer is a signer that reads and decrypts its key only when the server has
// accepted the public half.
type offer struct {
	id   *identity
	auth *authenticator
	algs []string
}

func (o *offer) PublicKey() ssh.PublicKey { return o.id.pub }
func (o *offer) Algorithms() []string     { return o.algs }

func (o *offer) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return o.SignWithAlgorithm(rand, data, o.algs[0])
}

// SignWithAlgorithm signs, or notes why it cannot: the next key is then tried.
func (o *offer) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	defer func() {
		if err != nil && o.auth.unusable == nil {
			o.auth.unusable = fmt.Errorf("the server accepts the key %s, but it cannot be used: %w", o.id.name, err)
		}
	}()
	signer := o.id.signer
	if signer == nil {
		if signer, err = o.auth.loadSigner(o.id); err != nil {
			return nil, err
		}
	}
	as, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("it cannot sign with %s", algorithm)
	}
	if sig, err = as.SignWithAlgorithm(rand, data, algorithm); err != nil {
		o.auth.ui.warn("sign_and_send_pubkey: signing failed for %s %q: %v", keys.TypeName(o.id.pub), o.id.name, err)
	}
	return sig, err
}
