package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/SumiTomohiko/nexec/keys"
	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/crypto/ssh"
)

// defaultConfig is read when it is there and -f names no other file.
const defaultConfig = "/etc/nexec/nexecd_config"

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

// readConfig reads the configuration and the command line's overrides.
func readConfig(o *options) (*sshdconfig.Config, error) {
	path := o.config
	if path == "" {
		if _, err := os.Stat(defaultConfig); err == nil {
			path = defaultConfig
		}
	}
	if path == "none" || path == "/dev/null" {
		path = ""
	}
	return sshdconfig.Read(path, o.overrides)
}

// stateDir is where the host key is kept that is made on first start.
func stateDir() (string, error) {
	if dir := os.Getenv("STATE_DIRECTORY"); filepath.IsAbs(dir) {
		return dir, nil // systemd's StateDirectory=
	}
	if os.Geteuid() == 0 {
		return "/var/lib/nexec", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "nexec"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for a host key: %w; set XDG_STATE_HOME or HostKey", err)
	}
	return filepath.Join(home, ".local/state/nexec"), nil
}

// hostKeys loads the configured host keys, each of which must load, or the one
// in the state directory, which is made when it is not there.
func hostKeys(cfg *sshdconfig.Config, check bool, announce io.Writer, log *slog.Logger) ([]ssh.Signer, error) {
	var signers []ssh.Signer
	for _, path := range cfg.Global.HostKeys {
		k, err := keys.LoadHostKey(path)
		if err != nil {
			return nil, err
		}
		signers = append(signers, k)
	}
	if len(signers) == 0 {
		if dir, err := stateDir(); check && err == nil && !exists(filepath.Join(dir, hostKeyFile)) {
			return nil, nil // to be made when the server starts
		}
		k, err := ownHostKey(announce, log)
		if err != nil {
			return nil, err
		}
		signers = append(signers, k)
	}
	plain := signers
	for _, path := range cfg.Global.HostCertificates {
		k, err := keys.LoadHostCertificate(path, plain)
		if err != nil {
			return nil, err
		}
		signers = append([]ssh.Signer{k}, signers...)
	}
	return signers, nil
}

// hostKeyFile is the host key's name in the state directory. One key is
// enough, and of the one kind that every client of today has.
const hostKeyFile = "ssh_host_ed25519_key"

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func ownHostKey(announce io.Writer, log *slog.Logger) (ssh.Signer, error) {
	dir, err := stateDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	path := filepath.Join(dir, hostKeyFile)
	k, made, err := keys.EnsureHostKey(path)
	if err != nil {
		return nil, err
	}
	if made {
		fmt.Fprintf(announce, "nexecd: made host key %s: ED25519 %s\n", path, ssh.FingerprintSHA256(k.PublicKey()))
	}
	log.Info("Host key", "file", path, "fingerprint", ssh.FingerprintSHA256(k.PublicKey()))
	return k, nil
}

// serverConfig reads everything that connections are served by.
// With check nothing is made.
func serverConfig(cfg *sshdconfig.Config, check bool, announce io.Writer, log *slog.Logger) (*sshserver.Config, error) {
	signers, err := hostKeys(cfg, check, announce, log)
	if err != nil {
		return nil, err
	}
	accounts := &sshserver.Accounts{}
	auth := &sshserver.Authorizer{Config: cfg, Accounts: accounts, Log: log}
	if uid := os.Geteuid(); uid != 0 {
		auth.Only, err = accounts.LookupID(uid)
		if err != nil {
			return nil, fmt.Errorf("uid %d: %w", uid, err)
		}
	}
	if cfg.Global.UsePAM {
		if err := sshserver.CheckPAM("/"); err != nil {
			return nil, fmt.Errorf("UsePAM yes: %w; say UsePAM no for nexecd (-o UsePAM=no) if logins do not need that", err)
		}
	}
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}
	if err := checkKeyFiles(&cfg.Global); err != nil {
		return nil, err
	}
	handlers, err := subsystems(cfg)
	if err != nil {
		return nil, err
	}
	return &sshserver.Config{HostKeys: signers, Auth: auth, Handlers: handlers, Log: log}, nil
}

// checkKeyFiles makes files that would refuse every login known at the start.
func checkKeyFiles(s *sshdconfig.Settings) error {
	var errs []error
	if s.RevokedKeys != "" {
		_, err := keys.LoadRevoked(s.RevokedKeys)
		errs = append(errs, err)
	}
	if s.TrustedUserCAKeys != "" {
		_, err := keys.LoadKeyList(s.TrustedUserCAKeys)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
