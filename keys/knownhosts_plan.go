package keys

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// UpdatePlan is what UpdateHostKeys would change in known_hosts files.
type UpdatePlan struct {
	New []ssh.PublicKey // to be proved by the server, then added
	Old []ssh.PublicKey // to be removed

	files   []string
	names   []string
	offered []ssh.PublicKey
}

// Nothing reports whether there is nothing to change.
func (p *UpdatePlan) Nothing() bool { return len(p.New) == 0 && len(p.Old) == 0 }

// PlanUpdate compares the keys that a host says it has with the user's files.
// names are the host's name and perhaps its address, as HostPort makes them.
// Like OpenSSH, it plans nothing where lines about the host have patterns,
// markers or more than two names, or where a key of the host is on file under
// other names: people wrote these.
func PlanUpdate(files, names []string, offered []ssh.PublicKey) (*UpdatePlan, error) {
	p := &UpdatePlan{files: files, names: names, offered: offered}
	var about, others KnownHosts
	for _, file := range files {
		lines, err := ReadKnownHosts(file)
		if err != nil {
			return nil, err
		}
		for _, k := range lines {
			if matchesAny(k.Hosts, names) {
				about = append(about, k)
			} else {
				others = append(others, k)
			}
		}
	}
	for _, k := range about {
		if k.Marker != MarkerNone || isComplex(k.Hosts) {
			return &UpdatePlan{}, nil
		}
		if !containsKey(offered, k.Key) && !containsKey(p.Old, k.Key) {
			p.Old = append(p.Old, k.Key)
		}
	}
	for _, k := range offered {
		if _, found := about.Check(k); found == nil || !SameKey(found.Key, k) {
			p.New = append(p.New, k)
		}
	}
	for _, k := range others {
		if containsKey(offered, k.Key) || containsKey(p.Old, k.Key) {
			return &UpdatePlan{}, nil
		}
	}
	return p, nil
}

func containsKey(list []ssh.PublicKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(list, func(k ssh.PublicKey) bool { return SameKey(k, key) })
}

// isComplex: patterns, or more names than ssh writes.
func isComplex(hosts string) bool {
	return strings.ContainsAny(hosts, "*?!") || strings.Count(hosts, ",") > 1
}

// Apply writes the change: new keys go into the first file, old ones leave all
// of them. The caller has had the new keys proved.
func (p *UpdatePlan) Apply(hash bool) error {
	var errs []error
	for i, file := range p.files {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		add := p.offered
		if i > 0 {
			add = nil
		}
		errs = append(errs, ReplaceKnownHost(file, p.names, add, hash))
	}
	return errors.Join(errs...)
}
