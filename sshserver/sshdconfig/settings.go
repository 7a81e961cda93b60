// Package sshdconfig reads a configuration in the syntax of sshd_config(5).
//
// Every keyword of OpenSSH 9.2 has a row in one table, which says whether it
// is honoured, refused, or without meaning for a server that offers neither
// shells nor forwarding. What is refused is an error with its file, line and
// column: a restriction is never silently left out.
package sshdconfig

import (
	"time"
)

// Settings is what a configuration says, for one connection or before any.
type Settings struct {
	Ports             []int
	ListenAddresses   []Listen
	AddressFamily     string // any, inet, inet6
	HostKeys          []string
	HostCertificates  []string
	HostKeyAlgorithms []string
	KexAlgorithms     []string
	Ciphers           []string
	MACs              []string
	PubkeyAlgorithms  []string
	CASignatures      []string

	LoginGraceTime         time.Duration // 0: none
	MaxAuthTries           int
	MaxSessions            int
	MaxStartups            Startups
	PerSourceMaxStartups   int // 0: no limit
	PerSourceBits          [2]int
	PerSourcePenalties     bool
	ClientAliveInterval    time.Duration // 0: none
	ClientAliveCountMax    int
	TCPKeepAlive           bool
	UnusedConnectionTime   time.Duration // 0: none
	VersionAddendum        string
	Banner                 string // a file, or empty
	UseDNS                 bool
	PidFile                string // empty: none
	LogLevel               string
	LogFormat              string // text, json
	MetricsSocket          string
	DrainTime              time.Duration
	RekeyLimit             uint64 // bytes; 0: the cipher's own
	RequiredRSASize        int
	PubkeyAuthentication   bool
	StrictModes            bool
	UsePAM                 bool   // asked for; see CheckPAM in sshserver
	PermitRootLogin        string // yes, no, prohibit-password, forced-commands-only
	PermitTTY              bool
	PermitUserEnvironment  []string // patterns; nil: none; "*": all
	AuthorizedKeysFiles    []string
	AuthorizedKeysCommand  []string // empty: none
	AuthorizedKeysUser     string
	PrincipalsFile         string
	PrincipalsCommand      []string
	PrincipalsUser         string
	TrustedUserCAKeys      string
	RevokedKeys            string
	AllowUsers, DenyUsers  []string
	AllowGroups, DenyGroup []string
	ForceCommand           string
	AllowAgentForwarding   bool
	DisableForwarding      bool
	AcceptEnv              []string
	SetEnv                 []string
	Subsystems             []Subsystem
	CommandMap             []Command
	HasCommandMap          bool
	TouchRequired          bool // whatever a key says
}

// Listen is one ListenAddress. Port is zero when it has none of its own.
type Listen struct {
	Host string
	Port int
}

// Startups is MaxStartups: from Start on, Rate percent of new connections are
// dropped, rising to all of them at Full.
type Startups struct{ Start, Rate, Full int }

// Subsystem is a subsystem's name and its command line.
type Subsystem struct {
	Name    string
	Command []string
}

// Command is an entry of CommandMap: the only commands that may be run.
type Command struct{ Name, Path string }

// Defaults are the settings that an empty configuration has. They are those of
// OpenSSH 9.2 but for the port, the limits of MaxStartups, and the algorithms,
// from which everything that rests on SHA-1, CBC or NIST's curves in key
// exchange is left out.
func Defaults() Settings {
	return Settings{
		AddressFamily:        "any",
		HostKeyAlgorithms:    defaultHostKeyAlgorithms(),
		KexAlgorithms:        defaultKex(),
		Ciphers:              defaultCiphers(),
		MACs:                 defaultMACs(),
		PubkeyAlgorithms:     defaultPubkeyAlgorithms(),
		CASignatures:         defaultCASignatures(),
		LoginGraceTime:       2 * time.Minute,
		MaxAuthTries:         6,
		MaxSessions:          10,
		MaxStartups:          Startups{64, 30, 256},
		PerSourceBits:        [2]int{32, 128},
		ClientAliveCountMax:  3,
		TCPKeepAlive:         true,
		LogLevel:             "INFO",
		LogFormat:            "text",
		DrainTime:            3 * time.Second,
		RequiredRSASize:      1024,
		PubkeyAuthentication: true,
		StrictModes:          true,
		PermitRootLogin:      "prohibit-password",
		PermitTTY:            true,
		AllowAgentForwarding: true,
		AuthorizedKeysFiles:  []string{".ssh/authorized_keys", ".ssh/authorized_keys2"},
	}
}

// DefaultPort is the port that nexecd has always listened on.
const DefaultPort = 57005

// Addresses are the addresses to listen on, with their ports.
func (s *Settings) Addresses() []Listen {
	ports := s.Ports
	if len(ports) == 0 {
		ports = []int{DefaultPort}
	}
	hosts := s.ListenAddresses
	if len(hosts) == 0 {
		hosts = []Listen{{Host: ""}}
	}
	var all []Listen
	for _, l := range hosts {
		if l.Port != 0 {
			all = append(all, l)
			continue
		}
		for _, p := range ports {
			all = append(all, Listen{l.Host, p})
		}
	}
	return all
}
