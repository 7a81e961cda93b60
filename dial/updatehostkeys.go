package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

// maxHostKeys bounds the keys that a server may announce.
const maxHostKeys = 64

// updateHostKeys learns further keys of a host whose key is trusted, and
// forgets those it has no more. It runs once the server has announced its keys
// and never holds up the session. See OpenSSH's PROTOCOL, section 2.5, and
// ssh_config(5), UpdateHostKeys.
func (c *Conn) updateHostKeys(host *hostVerifier, announced <-chan []byte) {
	payload, ok := <-announced
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.work.Go(func() { // ends a question when the connection ends
		select {
		case <-c.ended:
		case <-c.quit:
		case <-ctx.Done():
		}
		cancel()
	})
	if err := c.learnKeys(ctx, host, payload); err != nil {
		c.ui.verbose(1, "UpdateHostKeys: %v", err)
	}
}

// learnKeys compares what the server has announced with known_hosts, has it
// prove the keys that are new, and writes.
func (c *Conn) learnKeys(ctx context.Context, host *hostVerifier, payload []byte) error {
	offered, err := parseHostKeys(payload, c.cfg.HostKeyAlgorithms)
	if err != nil {
		return err
	}
	names := []string{host.name}
	if host.wantsIP() {
		names = append(names, host.ipName())
	}
	plan, err := keys.PlanUpdate(c.cfg.UserKnownHostsFiles, names, offered)
	if err != nil || plan.Nothing() {
		return err
	}
	if len(plan.New) > 0 {
		if err := c.proveKeys(plan.New); err != nil {
			return err
		}
	}
	for _, k := range plan.New {
		c.ui.verbose(0, "Learned new hostkey: %s %s", keys.TypeName(k), host.fingerprint(k))
	}
	for _, k := range plan.Old {
		c.ui.verbose(0, "Deprecating obsolete hostkey: %s %s", keys.TypeName(k), host.fingerprint(k))
	}
	if c.cfg.UpdateHostKeys == "ask" && !c.confirmUpdate(ctx, host, plan) {
		return nil
	}
	return plan.Apply(c.cfg.HashKnownHosts)
}

func (c *Conn) confirmUpdate(ctx context.Context, host *hostVerifier, plan *keys.UpdatePlan) bool {
	text := "The server has updated its host keys.\nThese changes were verified by the server's existing trusted key.\n"
	for _, k := range plan.New {
		text += "Learned new hostkey: " + keys.TypeName(k) + " " + host.fingerprint(k) + "\n"
	}
	for _, k := range plan.Old {
		text += "Deprecating obsolete hostkey: " + keys.TypeName(k) + " " + host.fingerprint(k) + "\n"
	}
	text += "Accept updated hostkeys? (yes/no): "
	for range 3 {
		answer, err := c.ui.ask(ctx, Question{Text: text, Echo: true, Confirm: true})
		switch {
		case err != nil || strings.EqualFold(answer, "no"):
			return false
		case strings.EqualFold(answer, "yes"):
			return true
		}
		text = "Please enter \"yes\" or \"no\": "
	}
	return false
}

// parseHostKeys reads the announced keys that HostKeyAlgorithms allows. Keys
// of kinds not known here are passed over.
func parseHostKeys(payload []byte, allowed []string) ([]ssh.PublicKey, error) {
	var offered []ssh.PublicKey
	for len(payload) > 0 {
		blob, rest, ok := cutString(payload)
		if !ok {
			return nil, errors.New("the server's list of host keys is damaged")
		}
		payload = rest
		key, err := ssh.ParsePublicKey(blob)
		if err != nil || !slices.ContainsFunc(allowed, func(alg string) bool { return !isCertAlgorithm(alg) && keyType(alg) == key.Type() }) {
			continue
		}
		if slices.ContainsFunc(offered, func(k ssh.PublicKey) bool { return keys.SameKey(k, key) }) {
			return nil, errors.New("the server announced a host key twice")
		}
		if offered = append(offered, key); len(offered) > maxHostKeys {
			return nil, errors.New("the server announced too many host keys")
		}
	}
	if len(offered) == 0 {
		return nil, errors.New("the server announced no host key that HostKeyAlgorithms allows")
	}
	return offered, nil
}

func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// proveKeys has the server sign with the private halves of keys.
func (c *Conn) proveKeys(claimed []ssh.PublicKey) error {
	var ask []byte
	for _, k := range claimed {
		ask = appendString(ask, k.Marshal())
	}
	ok, answer, err := c.client.SendRequest("hostkeys-prove-00@openssh.com", true, ask)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("server failed to confirm ownership of private host keys")
	}
	for _, k := range claimed {
		blob, rest, ok := cutString(answer)
		var sig ssh.Signature
		if !ok || ssh.Unmarshal(blob, &sig) != nil {
			return errors.New("server gave an unintelligible signature for " + keys.TypeName(k) + " key")
		}
		answer = rest
		if k.Type() == ssh.KeyAlgoRSA && sig.Format == ssh.KeyAlgoRSA {
			return errors.New("server signed with SHA-1 for its RSA key")
		}
		signed := appendString(nil, []byte("hostkeys-prove-00@openssh.com"))
		signed = appendString(signed, c.client.SessionID())
		signed = appendString(signed, k.Marshal())
		if err := k.Verify(signed, &sig); err != nil {
			return errors.New("server gave bad signature for " + keys.TypeName(k) + " key")
		}
	}
	return nil
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
