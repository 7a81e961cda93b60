package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
)

// resolve reads the files, follows CanonicalizeHostname, and reads them again
// where that, or Match final, asks for it. Afterwards r.host is the host to
// connect to.
func (r *resolver) resolve(ctx context.Context, configFile string) error {
	if err := r.readFiles(configFile); err != nil {
		return err
	}
	host := r.host
	if name := r.first("hostname"); name != "" {
		var err error
		if host, err = expandPercent(name, map[byte]string{'h': r.host}, false); err != nil {
			return fmt.Errorf("keyword Hostname: %w", err)
		}
		r.values["hostname"] = []string{host}
	}
	host, err := r.canonicalize(ctx, host)
	if err != nil {
		return err
	}
	r.host = host
	if c := r.first("canonicalizehostname"); !r.again && (c == "" || c == "no") {
		return nil
	}
	r.final = true
	r.values["hostname"] = []string{host}
	return r.readFiles(configFile)
}

// canonicalize gives the name or address that host stands for. See
// ssh_config(5), CanonicalizeHostname.
func (r *resolver) canonicalize(ctx context.Context, host string) (string, error) {
	if addr, ok := parseAddress(host); ok {
		return addr, nil
	}
	if strings.ContainsAny(host, "%:") || strings.Trim(host, "0123456789.") == "" {
		return host, nil // not a name, and as an address not understood
	}
	host = strings.ToLower(host)
	mode := r.first("canonicalizehostname")
	direct := r.direct()
	if mode == "" || mode == "no" || (!direct && mode != "always") {
		return host, nil
	}
	g := getter{values: r.values}
	found, ok := r.trySuffixes(ctx, &g, host)
	if ok {
		return found, nil
	}
	if !g.flag("canonicalizefallbacklocal", true) && r.mayCanonicalize(&g, host) {
		return "", fmt.Errorf("could not resolve host %q in any of CanonicalDomains: check the name, or set CanonicalizeFallbackLocal yes", host)
	}
	if r.hasCNAMERules() {
		names, err := r.lookup(ctx, ipNetwork(r.first("addressfamily")), host)
		if err != nil {
			if direct {
				return "", fmt.Errorf("could not resolve hostname %s: %w", printable(host), lookupReason(err))
			}
			return host, nil
		}
		return r.followCNAME(host, names), nil
	}
	return host, nil
}

// direct reports whether the host is reached without a proxy.
func (r *resolver) direct() bool {
	none := func(key string) bool { v := r.first(key); return v == "" || strings.EqualFold(v, "none") }
	return none("proxycommand") && none("proxyjump")
}

// parseAddress reads an address in any form and gives its usual one.
func parseAddress(host string) (string, bool) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "", false
	}
	if usual := addr.String(); !strings.EqualFold(usual, host) {
		return usual, true
	}
	return host, true
}

func (r *resolver) mayCanonicalize(g *getter, host string) bool {
	return strings.HasSuffix(host, ".") || strings.Count(host, ".") <= g.num("canonicalizemaxdots", 1)
}

func (r *resolver) trySuffixes(ctx context.Context, g *getter, host string) (string, bool) {
	if !r.mayCanonicalize(g, host) {
		return "", false
	}
	candidates := []string{host}
	if !strings.HasSuffix(host, ".") {
		candidates = nil
		for _, domain := range g.words("canonicaldomains") {
			candidates = append(candidates, host+"."+domain+".")
		}
	}
	for _, full := range candidates {
		if cname, err := r.lookup(ctx, ipNetwork(r.first("addressfamily")), full); err == nil {
			return r.followCNAME(strings.TrimSuffix(full, "."), cname), true
		}
	}
	return "", false
}

// lookupDNS resolves a name and gives its canonical one.
func lookupDNS(ctx context.Context, network, name string) (cname string, err error) {
	if _, err := net.DefaultResolver.LookupIP(ctx, network, name); err != nil {
		return "", err
	}
	if cname, err = net.DefaultResolver.LookupCNAME(ctx, name); err != nil {
		return "", nil // it has addresses, and that is enough
	}
	return strings.TrimSuffix(cname, "."), nil
}

func ipNetwork(family string) string {
	switch family {
	case "inet":
		return "ip4"
	case "inet6":
		return "ip6"
	}
	return "ip"
}

func (r *resolver) hasCNAMERules() bool {
	v := r.values["canonicalizepermittedcnames"]
	return len(v) > 0 && v[0] != "none"
}

// followCNAME replaces a name by the one it is an alias of, where a rule
// permits it.
func (r *resolver) followCNAME(name, cname string) string {
	if cname == "" || cname == name || !validDomain(cname) || !r.hasCNAMERules() {
		return name
	}
	for _, rule := range r.values["canonicalizepermittedcnames"] {
		from, to := "*", "*"
		if rule != "*" {
			from, to, _ = strings.Cut(rule, ":")
		}
		if keys.MatchList(strings.ToLower(name), from, true) > 0 && keys.MatchList(strings.ToLower(cname), to, true) > 0 {
			return cname
		}
	}
	return name
}

func joinHostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
