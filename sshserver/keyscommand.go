package sshserver

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/SumiTomohiko/nexec/keys"
)

const (
	// maxKeysOutput bounds what a keys command may answer.
	maxKeysOutput = 16 << 20
	// keysCommandTime bounds how long it may take: it holds a login up.
	keysCommandTime = 30 * time.Second
)

func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeysOutput+1))
	if err == nil && len(data) > maxKeysOutput {
		err = fmt.Errorf("longer than %d bytes", maxKeysOutput)
	}
	return data, err
}

// runKeysCommand runs AuthorizedKeysCommand or AuthorizedPrincipalsCommand and
// returns what it printed. As in sshd the program must be root's and writable
// by nobody else, with all directories above it, and runs as another user.
func (l *login) runKeysCommand(command []string, userName string, cert *ssh.Certificate) (string, error) {
	if userName == "" {
		return "", errors.New("needs its ...User setting")
	}
	runAs, err := l.Accounts.Lookup(strings.ReplaceAll(userName, "%u", l.account.Name))
	if err != nil {
		return "", fmt.Errorf("user %s: %w", printable(userName), err)
	}
	if err := l.checkProgram(command[0]); err != nil {
		return "", err
	}
	argv, err := l.keysArguments(command, cert)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(l.ctx, keysCommandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], argv...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + defaultPath, "USER=" + runAs.Name, "LOGNAME=" + runAs.Name, "HOME=" + runAs.Home, "LANG=C"}
	out := &keys.Output{Limit: maxKeysOutput}
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential(runAs)}
	// Who keeps the output open is killed with its group, not waited for.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if out.Over { // it has died of that
			err = fmt.Errorf("output longer than %d bytes", maxKeysOutput)
		}
		return "", fmt.Errorf("%s: %w", command[0], err)
	}
	return out.String(), nil
}

// checkProgram is sshd's rule for programs that decide about logins.
func (l *login) checkProgram(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	owner := &Account{UID: 0}
	if os.Geteuid() != 0 {
		owner.UID = uint32(os.Geteuid())
	}
	if err := l.Accounts.checkModes(f, path, owner); err != nil {
		return fmt.Errorf("unsafe program: %w", err)
	}
	return nil
}

// keysArguments expands the tokens of the command's arguments. Without any,
// AuthorizedKeysCommand gets the name of the user.
func (l *login) keysArguments(command []string, cert *ssh.Certificate) ([]string, error) {
	if len(command) == 1 && cert == nil {
		return []string{l.account.Name}, nil
	}
	tokens := map[byte]string{
		'h': l.account.Home, 'u': l.account.Name, 'U': strconv.Itoa(int(l.account.UID)),
		'C': l.end.connectionVariable(), 'D': "",
		't': l.key.Type(), 'f': ssh.FingerprintSHA256(plainKey(l.key)), 'k': base64.StdEncoding.EncodeToString(l.key.Marshal()),
	}
	if cert != nil {
		tokens['T'], tokens['F'] = cert.SignatureKey.Type(), ssh.FingerprintSHA256(cert.SignatureKey)
		tokens['K'] = base64.StdEncoding.EncodeToString(cert.SignatureKey.Marshal())
		tokens['i'], tokens['s'] = cert.KeyId, strconv.FormatUint(cert.Serial, 10)
	}
	var argv []string
	for _, a := range command[1:] {
		v, err := expandTokens(a, tokens)
		if err != nil {
			return nil, err
		}
		argv = append(argv, v)
	}
	return argv, nil
}

// defaultPath is what sshd gives on Debian.
const defaultPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"

// rootPath is the same for root.
const rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// credential is what a process becomes; nil when it stays what we are.
func credential(a *Account) *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
}
