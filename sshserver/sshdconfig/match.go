package sshdconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
)

// Conn is what Match blocks are judged by.
type Conn struct {
	User      string
	Groups    []string // names; empty for unknown users
	Host      string   // the client's name, or its address without UseDNS
	Addr      string   // the client's numeric address
	LocalAddr string
	LocalPort int
}

// criterion is one condition of a Match line.
type criterion struct {
	kind    string // user, group, host, address, localaddress, localport, all
	pattern string
}

// parseCriteria reads the arguments of Match. An error comes with the number
// of the word it is about.
func parseCriteria(args []string) ([]criterion, int, error) {
	if len(args) == 0 {
		return nil, 0, errors.New("no criteria")
	}
	var list []criterion
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		kind := strings.ToLower(name)
		if kind == "all" {
			if len(args) > 1 {
				return nil, i + 1, errors.New("all cannot be combined with other criteria")
			}
			return []criterion{{kind: "all"}}, 0, nil
		}
		at := i + 1
		if !joined {
			if i++; i >= len(args) {
				return nil, at, fmt.Errorf("%s: missing argument", name)
			}
			value = args[i]
		}
		if err := checkCriterion(kind, value); err != nil {
			return nil, at, err
		}
		list = append(list, criterion{kind, value})
	}
	return list, 0, nil
}

func checkCriterion(kind, value string) error {
	switch kind {
	case "user", "group", "host":
		return nil
	case "address", "localaddress":
		if _, _, err := keys.MatchAddrList("0.0.0.0", value); err != nil {
			return fmt.Errorf("%s: %q is not a list of addresses", kind, value)
		}
		return nil
	case "localport":
		if n, err := strconv.ParseUint(value, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("localport: %q is not a port", value)
		}
		return nil
	case "rdomain":
		return errors.New("rdomain is not supported")
	}
	return fmt.Errorf("unknown criterion %s", kind)
}

func (c *Conn) matchesAll(list []criterion) bool {
	return !slices.ContainsFunc(list, func(k criterion) bool { return !c.matches(k) })
}

func (c *Conn) matches(k criterion) bool {
	switch k.kind {
	case "all":
		return true
	case "user":
		return keys.MatchList(c.User, k.pattern, false) > 0
	case "group":
		return MatchGroups(c.Groups, k.pattern)
	case "host":
		return c.Host != "" && keys.MatchList(strings.ToLower(c.Host), k.pattern, true) > 0
	case "address":
		return matchAddr(c.Addr, k.pattern)
	case "localaddress":
		return matchAddr(c.LocalAddr, k.pattern)
	case "localport":
		n, err := strconv.Atoi(k.pattern)
		return err == nil && n == c.LocalPort
	}
	return false
}

func matchAddr(addr, list string) bool {
	if _, err := netip.ParseAddr(addr); err != nil {
		return false
	}
	matched, _, err := keys.MatchAddrList(addr, list)
	return err == nil && matched
}

// MatchGroups reports whether one of groups matches a list of patterns, and
// none a negated one of them.
func MatchGroups(groups []string, list string) bool {
	matched := false
	for _, g := range groups {
		switch keys.MatchList(g, list, false) {
		case -1:
			return false
		case 1:
			matched = true
		}
	}
	return matched
}
