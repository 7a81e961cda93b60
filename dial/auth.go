package dial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// authenticator chooses what to try next with a server, in the order of
// PreferredAuthentications. It is used by one handshake.
type authenticator struct {
	ctx   context.Context // of Dial: x/crypto's callbacks have none
	cfg   *Config
	ui    *ui
	host  *hostVerifier
	agent *keys.Agent

	prepared  bool
	ids       []*identity
	next      int // of ids
	offered   *offer
	asked     map[string]int // prompts by method
	partial   int            // methods that have succeeded as one of several
	methods   []string       // what the server takes
	tried     []string
	exhausted error // why there is nothing more to try
	unusable  error // why a key that the server accepts could not sign
}

func newAuthenticator(ctx context.Context, cfg *Config, u *ui, host *hostVerifier) *authenticator {
	return &authenticator{ctx: ctx, cfg: cfg, ui: u, host: host, asked: map[string]int{}}
}

func (a *authenticator) close() {
	if a.agent != nil {
		a.agent.Close()
	}
}

// choose is the ssh.ClientAuthCallback.
func (a *authenticator) choose(s *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	a.methods = s.AllowedMethods
	if n := len(s.PartialSuccessMethods); n > a.partial {
		a.partial, a.next = n, 0 // as OpenSSH: every key may be tried again
		a.asked = map[string]int{}
		a.ui.verbose(0, "Authenticated using %q with partial success.", s.PartialSuccessMethods[n-1])
	} else if len(a.tried) > 0 {
		a.sayDenied(s.TriedMethods)
	}
	for _, method := range a.cfg.PreferredAuthentications {
		if !slices.Contains(s.AllowedMethods, method) {
			continue
		}
		if m := a.method(method); m != nil {
			a.tried = append(a.tried, method)
			return m, nil
		}
	}
	return nil, a.denied()
}

// sayDenied tells the user that what was typed was not right.
func (a *authenticator) sayDenied(tried []string) {
	last := a.tried[len(a.tried)-1]
	if last == "password" && len(tried) > 0 && tried[len(tried)-1] == last && a.asked[last] < a.cfg.NumberOfPasswordPrompts {
		a.ui.warn("Permission denied, please try again.")
	}
}

// method gives the next attempt by a method, or nil when it has none.
func (a *authenticator) method(name string) ssh.AuthMethod {
	switch name {
	case "publickey":
		if a.cfg.PubkeyAuthentication {
			return a.publicKey()
		}
	case "keyboard-interactive":
		if a.cfg.KbdInteractive && !a.host.noPasswords && a.may(name) {
			return ssh.KeyboardInteractive(a.challenge)
		}
	case "password":
		if a.cfg.PasswordAuthentication && !a.host.noPasswords && !a.cfg.BatchMode && a.may(name) {
			return ssh.PasswordCallback(a.password)
		}
	}
	return nil
}

// may counts the prompts of a method.
func (a *authenticator) may(method string) bool {
	if a.exhausted != nil || a.asked[method] >= a.cfg.NumberOfPasswordPrompts {
		return false
	}
	a.asked[method]++
	return true
}

// publicKey offers the next key. Each takes one round trip, and the one that
// the server accepts one more for the signature.
func (a *authenticator) publicKey() ssh.AuthMethod {
	if !a.prepared {
		a.prepared = true
		a.ids = a.identities()
	}
	for a.next < len(a.ids) {
		id := a.ids[a.next]
		a.next++
		if id.pub == nil && !a.decryptFirst(id) {
			continue
		}
		a.ui.verbose(1, "Offering public key: %s %s %s", id.name, keys.TypeName(id.pub), keys.Fingerprint(id.pub, a.cfg.FingerprintHash))
		a.offered = &offer{id: id, auth: a, algs: a.signatureAlgorithms(id.pub)}
		return ssh.PublicKeys(a.offered)
	}
	return nil
}

// decryptFirst is for a key whose public half is encrypted too.
func (a *authenticator) decryptFirst(id *identity) bool {
	signer, err := a.loadSigner(id)
	if err != nil {
		return false // loadSigner has said why
	}
	id.signer, id.pub = signer, signer.PublicKey()
	return a.mayOffer(id)
}

// loadSigner reads a private key file and asks for its passphrase.
func (a *authenticator) loadSigner(id *identity) (ssh.Signer, error) {
	key, passphrase, err := a.loadKey(id)
	if err != nil {
		var open *keys.UnprotectedKeyError
		if errors.As(err, &open) {
			a.ui.warn("%sLoad key %q: bad permissions", open.Warning(), id.file)
		} else {
			a.ui.warn("Load key %q: %v", id.file, err)
		}
		return nil, err
	}
	defer clear(passphrase)
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id.file, err)
	}
	a.addToAgent(id, key)
	return signer, nil
}

func (a *authenticator) loadKey(id *identity) (key any, passphrase []byte, err error) {
	key, err = keys.LoadPrivateKey(id.file, nil)
	for i := 0; errors.Is(err, keys.ErrPassphrase) && i < a.cfg.NumberOfPasswordPrompts; i++ {
		text := fmt.Sprintf("Enter passphrase for key '%s': ", printable(id.file))
		answer, askErr := a.ui.ask(a.ctx, Question{Text: text})
		if askErr != nil {
			return nil, nil, fmt.Errorf("%w: %w: load the key into an agent with ssh-add", err, askErr)
		}
		if answer == "" {
			return nil, nil, fmt.Errorf("%w: none given", err)
		}
		passphrase = []byte(answer)
		key, err = keys.LoadPrivateKey(id.file, passphrase)
	}
	return key, passphrase, err
}

// addToAgent does what AddKeysToAgent asks for. A failure costs only the
// convenience, so it is said and no more.
func (a *authenticator) addToAgent(id *identity, key any) {
	if a.cfg.AddKeysToAgent == "no" || a.connectAgent() == nil {
		return
	}
	if a.cfg.AddKeysToAgent == "ask" {
		answer, err := a.ui.ask(a.ctx, Question{Text: fmt.Sprintf("Add key %s to agent? ", printable(id.file)), Echo: true, Confirm: true})
		if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "yes") {
			return
		}
	}
	added := agent.AddedKey{PrivateKey: key, Comment: id.file, ConfirmBeforeUse: a.cfg.AddKeysToAgent == "confirm", LifetimeSecs: uint32(a.cfg.AddKeysLifetime.Seconds())}
	if cert, ok := id.pub.(*ssh.Certificate); ok {
		added.Certificate = cert
	}
	if err := a.agent.Add(added); err != nil {
		a.ui.verbose(1, "could not add identity to authentication agent: %s: %v", id.file, err)
		return
	}
	a.ui.verbose(1, "identity added to agent: %s", id.file)
}

// connectAgent connects to the agent once; nil when there is none.
func (a *authenticator) connectAgent() *keys.Agent {
	if a.agent == nil && a.cfg.IdentityAgent != "" {
		conn, err := keys.DialAgent(a.cfg.IdentityAgent)
		if err != nil {
			a.ui.verbose(1, "%v", err)
			return nil
		}
		a.agent = conn
	}
	return a.agent
}

func (a *authenticator) agentSigners() []ssh.Signer {
	conn := a.connectAgent()
	if conn == nil {
		return nil
	}
	signers, err := conn.Signers()
	if err != nil {
		a.ui.verbose(1, "agent at %s: %v", a.cfg.IdentityAgent, err)
		return nil
	}
	return signers
}

// password asks for the user's password.
func (a *authenticator) password() (string, error) {
	text := fmt.Sprintf("%s@%s's password: ", printable(a.cfg.User), printable(a.cfg.Typed))
	answer, err := a.ui.ask(a.ctx, Question{Text: text})
	if err != nil {
		a.exhausted = err
	}
	return answer, err
}

// maxChallenge bounds the questions of one keyboard-interactive request.
const maxChallenge = 32

// challenge answers a keyboard-interactive request.
func (a *authenticator) challenge(name, instruction string, questions []string, echos []bool) ([]string, error) {
	for _, text := range []string{name, instruction} {
		if text != "" && len(questions) > 0 {
			a.ui.warn("%s", text)
		}
	}
	if len(questions) > maxChallenge {
		a.exhausted = fmt.Errorf("the server asks %d questions at once", len(questions))
		return nil, a.exhausted
	}
	answers := make([]string, len(questions))
	for i, q := range questions {
		text := fmt.Sprintf("(%s@%s) %s", printable(a.cfg.User), printable(a.cfg.Typed), printable(q))
		var err error
		if answers[i], err = a.ui.ask(a.ctx, Question{Text: text, Echo: echos[i]}); err != nil {
			a.exhausted = err
			return nil, err
		}
	}
	return answers, nil
}

// denied is the error when nothing is left to try.
func (a *authenticator) denied() error {
	e := &AuthError{User: a.cfg.User, Host: a.cfg.HostName, Methods: a.methods, Tried: slices.Compact(a.tried), Err: a.exhausted}
	takesKeys := slices.Contains(a.methods, "publickey") && a.cfg.PubkeyAuthentication && slices.Contains(a.cfg.PreferredAuthentications, "publickey")
	switch {
	case a.unusable != nil:
		e.Err = a.unusable
		e.Hint = a.unusable.Error()
	case errors.Is(a.exhausted, ErrCannotAsk):
		e.Hint = "there is no terminal to ask for a password: use a key, an agent or SSH_ASKPASS"
	case takesKeys && a.offered == nil:
		e.Hint = "no key was offered: name one with -i or IdentityFile, or load it into an agent with ssh-add"
	case takesKeys:
		e.Hint = fmt.Sprintf("the server accepts none of the %d keys offered: add the public key to its authorized_keys, or name the right key with -i", a.next)
	default:
		e.Hint = "the server takes no method that the configuration allows: see PreferredAuthentications"
	}
	return e
}
