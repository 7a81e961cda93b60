package sshserver

import (
	"net"
	"strconv"

	"github.com/SumiTomohiko/nexec/keys"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/crypto/ssh"
)

// Grant is what a login may do. It is made when a key has proved itself, from
// that key alone, and not changed afterwards.
type Grant struct {
	Account *Account
	// Key is the key that signed, a certificate perhaps.
	Key ssh.PublicKey
	// Where is the entry that let the key in: file:line, or the authority.
	Where string
	// Options are the key's.
	Options *keys.Options
	// Settings are the configuration's for this login.
	Settings *sshdconfig.Settings
}

// ForcedCommand returns the only command that the login may run, if there is
// one. The configuration's wins over the key's, as in sshd.
func (g *Grant) ForcedCommand() (string, bool) {
	if g.Settings.ForceCommand != "" {
		return g.Settings.ForceCommand, true
	}
	return g.Options.Command, g.Options.HasCommand
}

// PTY reports whether the login may have a terminal.
func (g *Grant) PTY() bool { return g.Options.PTY && g.Settings.PermitTTY }

// Agent reports whether the login may have its client's agent.
func (g *Grant) Agent() bool {
	return g.Options.AgentForwarding && g.Settings.AllowAgentForwarding && !g.Settings.DisableForwarding
}

// Environment returns what key and configuration set, NAME=VALUE; later ones win.
func (g *Grant) Environment() []string {
	var env []string
	for _, e := range g.Options.Environment {
		if g.Settings.PermitsUserEnv(nameOf(e)) {
			env = append(env, e)
		}
	}
	return append(env, g.Settings.SetEnv...)
}

func nameOf(env string) string {
	for i := range len(env) {
		if env[i] == '=' {
			return env[:i]
		}
	}
	return env
}

// Endpoint is where a connection comes from and where it came in.
type Endpoint struct {
	Addr      string // numeric; UNKNOWN when it is not a network connection
	Port      int
	LocalAddr string
	LocalPort int
}

func endpointOf(c net.Conn) Endpoint {
	e := Endpoint{}
	e.Addr, e.Port = splitAddr(c.RemoteAddr())
	e.LocalAddr, e.LocalPort = splitAddr(c.LocalAddr())
	return e
}

func splitAddr(a net.Addr) (string, int) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return "UNKNOWN", 65535 // as sshd has it for pipes
	}
	ip, _ := netipOf(tcp)
	return ip, tcp.Port
}

func netipOf(a *net.TCPAddr) (string, bool) {
	p := a.AddrPort().Addr().Unmap()
	return p.String(), p.IsValid()
}

// connectionVariable is the value of SSH_CONNECTION.
func (e Endpoint) connectionVariable() string {
	return e.Addr + " " + strconv.Itoa(e.Port) + " " + e.LocalAddr + " " + strconv.Itoa(e.LocalPort)
}
