package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
)

// dump is -T: the settings as they are for the connection that -C describes,
// or before any.
func dump(o *options, cfg *sshdconfig.Config, w io.Writer) error {
	if o.spec == "" {
		return cfg.Global.Write(w)
	}
	conn := &sshdconfig.Conn{}
	for part := range strings.SplitSeq(o.spec, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("-C %s: not NAME=VALUE", part)
		}
		switch name {
		case "user":
			conn.User = value
		case "host":
			conn.Host = value
		case "addr":
			conn.Addr = value
		case "laddr":
			conn.LocalAddr = value
		case "lport":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return fmt.Errorf("-C lport=%s: not a port", value)
			}
			conn.LocalPort = int(port)
		default:
			return fmt.Errorf("-C %s: not one of user, host, addr, laddr, lport", name)
		}
	}
	if acct, err := (&sshserver.Accounts{}).Lookup(conn.User); err == nil {
		conn.Groups = acct.GroupNames
	}
	return cfg.For(conn).Write(w)
}
