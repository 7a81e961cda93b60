package sshserver

import (
	"crypto/rand"

	"golang.org/x/crypto/ssh"
)

// serveRequests answers the connection's global requests.
func (c *conn) serveRequests(requests <-chan *ssh.Request) {
	for req := range requests {
		switch req.Type {
		case "hostkeys-prove-00@openssh.com":
			proof, ok := c.proveHostKeys(req.Payload)
			_ = req.Reply(ok, proof)
		default: // keepalive@openssh.com needs an answer, not success
			if req.WantReply {
				_ = req.Reply(false, nil)
			}
		}
	}
}

// announceHostKeys tells the client all our host keys, for its known_hosts.
// See OpenSSH's PROTOCOL, section 2.5.
func (c *conn) announceHostKeys() {
	var payload []byte
	for _, k := range c.config.HostKeys {
		if _, isCert := k.PublicKey().(*ssh.Certificate); !isCert {
			payload = append(payload, ssh.Marshal(struct{ Key []byte }{k.PublicKey().Marshal()})...)
		}
	}
	_, _, _ = c.ssh.SendRequest("hostkeys-00@openssh.com", false, payload)
}

// proveHostKeys signs for each key that the client asks about.
func (c *conn) proveHostKeys(payload []byte) ([]byte, bool) {
	var proof []byte
	for len(payload) > 0 {
		var m struct {
			Key  []byte
			Rest []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(payload, &m) != nil {
			return nil, false
		}
		payload = m.Rest
		signer := c.hostKey(m.Key)
		if signer == nil || len(proof) > maxProof {
			return nil, false
		}
		data := ssh.Marshal(struct {
			Name         string
			Session, Key []byte
		}{"hostkeys-prove-00@openssh.com", c.ssh.SessionID(), m.Key})
		sig, err := c.signProof(signer, data)
		if err != nil {
			return nil, false
		}
		proof = append(proof, ssh.Marshal(struct{ Sig []byte }{ssh.Marshal(sig)})...)
	}
	return proof, len(proof) > 0
}

// signProof signs with the algorithm that the client expects: for an RSA key
// that of the key exchange if it was one of RSA's, and never with SHA-1.
func (c *conn) signProof(signer ssh.Signer, data []byte) (*ssh.Signature, error) {
	as, ok := signer.(ssh.AlgorithmSigner)
	if !ok || signer.PublicKey().Type() != ssh.KeyAlgoRSA {
		return signer.Sign(rand.Reader, data)
	}
	algorithm := ssh.KeyAlgoRSASHA512
	if m, ok := c.ssh.Conn.(ssh.AlgorithmsConnMetadata); ok && m.Algorithms().HostKey == ssh.KeyAlgoRSASHA256 {
		algorithm = ssh.KeyAlgoRSASHA256
	}
	return as.SignWithAlgorithm(rand.Reader, data, algorithm)
}

// maxProof bounds how much is signed on one request: more than any number of
// host keys that a server has.
const maxProof = 16 << 10

func (c *conn) hostKey(blob []byte) ssh.Signer {
	for _, k := range c.config.HostKeys {
		if string(k.PublicKey().Marshal()) == string(blob) {
			return k
		}
	}
	return nil
}
