package keys

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// ErrPattern is a list of patterns that cannot be matched against.
var ErrPattern = errors.New("invalid pattern list")

// MatchHostAndIP matches a host's name and address against a list of
// patterns and networks, as from= has it: negation anywhere refuses.
func MatchHostAndIP(host, addr, list string) (bool, error) {
	byAddr, negated, err := MatchAddrList(addr, list)
	if err != nil {
		return false, err
	}
	if negated {
		return false, ErrPattern // sshd makes no difference between the two
	}
	byName := MatchList(strings.ToLower(host), list, true)
	if byName < 0 {
		return false, ErrPattern
	}
	return byAddr || byName > 0, nil
}

// MatchAddrList matches an address against networks and patterns.
func MatchAddrList(addr, list string) (matched, negated bool, err error) {
	try, err := parseAddr(addr)
	if err != nil {
		return false, false, nil
	}
	for p := range strings.SplitSeq(list, ",") {
		p, not := strings.CutPrefix(p, "!")
		if p == "" {
			return false, false, ErrPattern
		}
		network, ok, err := parseNetwork(p)
		if err != nil {
			return false, false, err
		}
		hit := ok && network.Contains(try) || !ok && MatchPattern(addr, p)
		if hit && not {
			return false, true, nil
		}
		matched = matched || hit
	}
	return matched, false, nil
}

// parseAddr reads a numeric address. IPv4 inside of IPv6 is IPv4, and a zone
// is no part of what patterns match.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err
}

// parseNetwork reads ADDRESS or ADDRESS/BITS. It is not a network when ok is
// false; it is an error when it is one with bits set beyond its mask.
func parseNetwork(s string) (p netip.Prefix, ok bool, err error) {
	host, mask, masked := strings.Cut(s, "/")
	a, err := netip.ParseAddr(host)
	if err != nil {
		return p, false, nil
	}
	bits := a.BitLen()
	if masked {
		n, err := strconv.ParseUint(mask, 10, 32)
		if err != nil || n > 128 {
			return p, false, nil
		}
		bits = int(n)
	}
	if bits > a.BitLen() {
		return p, false, ErrPattern
	}
	p = netip.PrefixFrom(a.WithZone(""), bits)
	if p.Masked() != p {
		return p, false, ErrPattern
	}
	return p, true, nil
}

// maxCIDR is the longest text of an address and mask.
const maxCIDR = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128")

// matchCIDRList matches an address against networks only: a certificate's
// source-address. An empty addr only checks the list.
func matchCIDRList(addr, list string) (bool, error) {
	var try netip.Addr
	if addr != "" {
		a, err := parseAddr(addr)
		if err != nil {
			return false, nil
		}
		try = a
	}
	matched := false
	for p := range strings.SplitSeq(list, ",") {
		if p == "" || len(p) > maxCIDR || strings.Trim(p, "0123456789abcdefABCDEF.:/") != "" {
			return false, ErrPattern
		}
		network, ok, err := parseNetwork(p)
		if err != nil || !ok {
			return false, ErrPattern
		}
		matched = matched || addr != "" && network.Contains(try)
	}
	return matched, nil
}
