package dial

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

const (
	// commandTag begins the name of what KnownHostsCommand printed, where a
	// file's would be.
	commandTag = "KnownHostsCommand-"
	// hostCommandTime and maxHostCommand bound one run and what it prints: some
	// 3,000 keys.
	hostCommandTime = time.Minute
	maxHostCommand  = 1 << 20
)

// order asks KnownHostsCommand, before the host has shown a key, which ones
// there are.
func (v *hostVerifier) order(ctx context.Context) error {
	lines, err := v.askCommand(ctx, "ORDER", v.name, nil)
	v.known = slices.Concat(v.files, lines)
	return err
}

// askCommand runs KnownHostsCommand and returns the lines about name that it
// prints. purpose is ORDER, HOSTNAME or ADDRESS; key is nil for ORDER. When
// the command fails there must be no connection.
func (v *hostVerifier) askCommand(ctx context.Context, purpose, name string, key ssh.PublicKey) (keys.KnownHosts, error) {
	if v.cfg.KnownHostsCommand == "" {
		return nil, nil
	}
	argv, err := v.commandLine(purpose, name, key)
	if err != nil {
		return nil, fmt.Errorf("KnownHostsCommand: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, hostCommandTime)
	defer cancel()
	v.ui.verbose(1, "Executing %s%s: %q", commandTag, purpose, argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out := &keys.Output{Limit: maxHostCommand}
	cmd.Stdout, cmd.Stderr = out, v.ui.out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		switch {
		case out.Over: // it has died of that
			err = fmt.Errorf("it prints more than %d bytes", maxHostCommand)
		case ctx.Err() != nil:
			err = ctx.Err()
		}
		return nil, fmt.Errorf("KnownHostsCommand %s failed: %w", printable(argv[0]), err)
	}
	return keys.ParseKnownHosts(strings.NewReader(out.String()), commandTag+purpose, name)
}

// commandLine expands the tokens of each word by itself: no shell is asked.
func (v *hostVerifier) commandLine(purpose, name string, key ssh.PublicKey) ([]string, error) {
	text := v.cfg.KnownHostsCommand
	words, err := splitArgs(text)
	switch {
	case err != nil:
		return nil, err
	case strings.Contains(text, " #") || len(words) == 0:
		return nil, fmt.Errorf("%q: a word that begins with # needs quotes", text)
	case !filepath.IsAbs(words[0]):
		return nil, fmt.Errorf("%q is not an absolute path", words[0])
	}
	tokens := maps.Clone(v.cfg.tokens)
	tokens['H'], tokens['I'], tokens['t'], tokens['f'], tokens['K'] = name, purpose, "NONE", "NONE", "NONE"
	if key != nil {
		tokens['t'], tokens['f'] = key.Type(), v.fingerprint(key)
		tokens['K'] = base64.StdEncoding.EncodeToString(key.Marshal())
	}
	for i := range words[1:] {
		if words[i+1], err = expandPercent(words[i+1], tokens, true); err != nil {
			return nil, err
		}
	}
	return words, nil
}
