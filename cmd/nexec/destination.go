package main

import (
	"net"
	"net/url"
	"strconv"
	"strings"
)

// destination is where to run: [user@]host[:port] or ssh://[user@]host[:port].
type destination struct {
	text string // as typed
	user string // empty: not said
	host string // without brackets
	port int    // zero: not said
}

// parseDestination reads what the user typed. An IPv6 address with a port
// needs brackets; more than one colon without them is an address.
func parseDestination(s string) (destination, error) {
	d := destination{text: s}
	rest := s
	if after, ok := strings.CutPrefix(s, "ssh://"); ok {
		rest = strings.TrimSuffix(after, "/")
		if strings.Contains(rest, "/") {
			return d, badDestination(s, "a path has no meaning here")
		}
	}
	url := rest != s
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if d.user, rest = rest[:i], rest[i+1:]; d.user == "" {
			return d, badDestination(s, "the user's name is empty")
		}
		if url {
			var err error
			if d.user, err = unescape(d.user); err != nil {
				return d, badDestination(s, "the user's name is not escaped as in a URL")
			}
		}
	}
	port, hasPort := "", false
	switch {
	case strings.HasPrefix(rest, "["):
		host, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return d, badDestination(s, "a ] is missing")
		}
		d.host = host
		if after != "" {
			if port, hasPort = strings.CutPrefix(after, ":"); !hasPort {
				return d, badDestination(s, "only a port may follow the ]")
			}
		}
	case strings.Count(rest, ":") > 1:
		if ip, _, _ := strings.Cut(rest, "%"); net.ParseIP(ip) == nil {
			return d, badDestination(s, "an IPv6 address with a port is written [address]:port")
		}
		d.host = rest
	default:
		d.host, port, hasPort = strings.Cut(rest, ":")
	}
	switch {
	case d.host == "":
		return d, badDestination(s, "the host's name is empty")
	case strings.HasPrefix(d.host, "-") || strings.HasPrefix(d.user, "-"):
		return d, badDestination(s, "a name cannot begin with -")
	case strings.ContainsAny(d.host, " \t\n\r\x00"):
		return d, badDestination(s, "a host's name has no spaces")
	}
	if hasPort {
		n, ok := parsePort(port)
		if !ok {
			return d, badDestination(s, "the port is not a number from 1 to 65535")
		}
		d.port = n
	}
	return d, nil
}

func unescape(s string) (string, error) { return url.PathUnescape(s) }

func parsePort(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0
}
