package dial

import (
	"context"
	"fmt"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
	"golang.org/x/crypto/ssh"
)

// wantsIP reports whether CheckHostIP applies: not through a proxy, not to
// this machine, and not where the host was named by its address.
func (v *hostVerifier) wantsIP() bool {
	return v.cfg.CheckHostIP && v.addr != nil && !v.isLocal() && v.ipName() != v.name && keys.IPString(v.addr) != v.cfg.HostName
}

// checkIP holds the key against the lines about the host's address.
func (v *hostVerifier) checkIP(ctx context.Context, key ssh.PublicKey) error {
	if _, isCert := key.(*ssh.Certificate); isCert || !v.wantsIP() || v.noPasswords {
		return nil
	}
	ip := v.ipName()
	known, err := v.lookUp(ctx, "ADDRESS", ip, key)
	if err != nil {
		return err
	}
	status, found := known.Check(key)
	hostStatus, hostFound := v.known.Check(key)
	if status == keys.HostOK && found != nil && v.isGlobalFile(found.File) {
		v.mayUpdate = false
	}
	if status == keys.HostNew && hostStatus == keys.HostOK && len(v.cfg.UserKnownHostsFiles) > 0 {
		file := v.cfg.UserKnownHostsFiles[0]
		if err := keys.AddKnownHost(file, key, v.cfg.HashKnownHosts, ip); err != nil {
			v.ui.warn("Failed to add the %s host key for IP address '%s' to the list of known hosts (%s): %v", keys.TypeName(key), ip, file, reason(err))
		} else {
			v.ui.warn("Warning: Permanently added the %s host key for IP address '%s' to the list of known hosts.", keys.TypeName(key), ip)
		}
	}
	if status != keys.HostChanged {
		return nil
	}
	text := fmt.Sprintf("Warning: the %s host key for '%s' differs from the key for the IP address '%s'\nOffending key for IP in %s", keys.TypeName(key), v.name, ip, found.Where())
	if hostFound != nil {
		text += "\nMatching host key in " + hostFound.Where()
	}
	hint := fmt.Sprintf("if the address is right, remove its old key with: ssh-keygen -f '%s' -R '%s'", found.File, ip)
	switch v.cfg.StrictHostKeyChecking {
	case "no":
		v.ui.warn("%s", text)
		return nil
	case "ask":
		if v.cfg.BatchMode {
			break
		}
		answer, err := v.ui.ask(ctx, Question{Text: text + "\nAre you sure you want to continue connecting (yes/no)? ", Echo: true, Confirm: true})
		if err == nil && strings.EqualFold(strings.TrimSpace(answer), "yes") {
			return nil
		}
	default:
		v.ui.warn("%s", text)
	}
	return v.fail(key, found, "the key of its IP address "+ip+" differs", hint)
}

// warnSpoofing adds what the address says about a key that has changed.
func (v *hostVerifier) warnSpoofing(ctx context.Context, key ssh.PublicKey, hostFound *keys.KnownHost) {
	if !v.wantsIP() {
		return
	}
	ip := v.ipName()
	known, err := v.lookUp(ctx, "ADDRESS", ip, key)
	if err != nil {
		return // the host is refused in any case, unless nothing is to be
	}
	status, found := known.Check(key)
	if status == keys.HostChanged && keys.SameKey(found.Key, hostFound.Key) {
		return
	}
	what := map[keys.HostStatus]string{keys.HostNew: "is unknown", keys.HostOK: "is unchanged"}[status]
	if what == "" {
		what = "has a different value"
	}
	where := ""
	if found != nil {
		where = "\nOffending key for IP in " + found.Where()
	}
	v.ui.warn("%s@       WARNING: POSSIBLE DNS SPOOFING DETECTED!          @\n%sThe %s host key for %s has changed,\nand the key for the corresponding IP address %s\n%s. This could either mean that\nDNS SPOOFING is happening or the IP address for the host\nand its host key have changed at the same time.%s",
		rule, rule, keys.TypeName(key), v.name, ip, what, where)
}
