package sshdconfig

import (
	"slices"
	"strings"
	"time"
)

// keywords is the table by name in lower case. It is never changed.
var keywords = index(table())

func index(rows []keyword) map[string]*keyword {
	m := make(map[string]*keyword, len(rows))
	for i := range rows {
		m[strings.ToLower(rows[i].Name)] = &rows[i]
	}
	return m
}

func sorted(list []Keyword) []Keyword {
	slices.SortFunc(list, func(a, b Keyword) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return list
}

// row makes a row of what is honoured by a value of its own.
func row(name string, match bool, set func(*Settings, []string) (int, error), show func(*Settings) []string) keyword {
	return keyword{Name: name, Match: match, Max: 1, set: set, show: show}
}

func flagRow(name string, match bool, to func(*Settings) *bool) keyword {
	set, show := flag(to)
	return row(name, match, set, show)
}

func numberRow(name string, match bool, low, high int, to func(*Settings) *int) keyword {
	set, show := number(low, high, to)
	return row(name, match, set, show)
}

func timeRow(name string, match bool, to func(*Settings) *time.Duration) keyword {
	set, show := interval(to)
	return row(name, match, set, show)
}

func textRow(name string, match bool, to func(*Settings) *string) keyword {
	set, show := text(true, to)
	return row(name, match, set, show)
}

func choiceRow(name string, match bool, to func(*Settings) *string, values ...string) keyword {
	set, show := oneOf(to, values...)
	return row(name, match, set, show)
}

// listRow adds up all lines of a scope.
func listRow(name string, match bool, to func(*Settings) *[]string) keyword {
	set, clear, show := list(to)
	return keyword{Name: name, Match: match, Many: true, set: set, clear: clear, show: show}
}

// single allows one argument a line.
func single(k keyword) keyword {
	k.Max = 1
	return k
}

// wordsRow is a single line with several arguments; the first line counts.
func wordsRow(name string, match bool, to func(*Settings) *[]string) keyword {
	k := listRow(name, match, to)
	k.Many = false
	return k
}

func algorithmRow(name string, match bool, to func(*Settings) *[]string, defaults, known func() []string) keyword {
	set := func(s *Settings, args []string) (int, error) {
		v, _, err := algorithmList(args[0], defaults(), known())
		*to(s) = v
		return 0, err
	}
	k := row(name, match, set, func(s *Settings) []string { return []string{strings.Join(*to(s), ",")} })
	k.warn = func(args []string) string {
		_, without, err := algorithmList(args[0], defaults(), known())
		if err != nil || len(without) == 0 {
			return ""
		}
		return "nexecd goes without " + strings.Join(without, ",") + ", which it does not have"
	}
	return k
}

// without is a keyword about what nexecd never offers.
func without(match bool, why string, names ...string) []keyword {
	var rows []keyword
	for _, n := range names {
		rows = append(rows, keyword{Name: n, Use: Meaningless, Why: why, Match: match})
	}
	return rows
}

// refuse is a keyword that asks for what nexecd cannot do: only the value
// that asks for nothing loads.
func refuse(name string, match bool, why string, allowed ...string) keyword {
	return keyword{Name: name, Use: Refused, Why: why, Match: match, set: only(why, allowed...)}
}

// own marks rows that sshd_config(5) does not have.
func own(k keyword, why string) keyword {
	k.Own, k.Why = true, why
	return k
}

func table() []keyword {
	return slices.Concat(networkRows(), limitRows(), algorithmRows(), accessRows(), keyRows(), sessionRows(), ownRows(), refusedRows(), meaninglessRows())
}

func networkRows() []keyword {
	return []keyword{
		{Name: "Port", Many: true, Max: 1, set: setPort, clear: func(s *Settings) { s.Ports = nil }, show: showPorts},
		{Name: "ListenAddress", Many: true, Max: 1, set: setListen, clear: func(s *Settings) { s.ListenAddresses = nil }, show: showListen},
		choiceRow("AddressFamily", false, func(s *Settings) *string { return &s.AddressFamily }, "any", "inet", "inet6"),
		flagRow("TCPKeepAlive", false, func(s *Settings) *bool { return &s.TCPKeepAlive }),
		flagRow("UseDNS", false, func(s *Settings) *bool { return &s.UseDNS }),
		textRow("PidFile", false, func(s *Settings) *string { return &s.PidFile }),
		{Name: "VersionAddendum", raw: true, set: setAddendum, show: func(s *Settings) []string { return []string{orNone(s.VersionAddendum)} }},
		textRow("Banner", true, func(s *Settings) *string { return &s.Banner }),
		choiceRow("LogLevel", true, func(s *Settings) *string { return &s.LogLevel },
			"QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"),
		single(listRow("HostKey", false, func(s *Settings) *[]string { return &s.HostKeys })),
		single(listRow("HostCertificate", false, func(s *Settings) *[]string { return &s.HostCertificates })),
	}
}

func limitRows() []keyword {
	return []keyword{
		timeRow("LoginGraceTime", false, func(s *Settings) *time.Duration { return &s.LoginGraceTime }),
		numberRow("MaxAuthTries", true, 1, 1<<20, func(s *Settings) *int { return &s.MaxAuthTries }),
		numberRow("MaxSessions", true, 0, 1<<20, func(s *Settings) *int { return &s.MaxSessions }),
		{Name: "MaxStartups", Max: 1, set: setStartups, show: showStartups},
		{Name: "PerSourceMaxStartups", Max: 1, set: setPerSource, show: showPerSource},
		{Name: "PerSourceNetBlockSize", Max: 1, set: setNetBlock, show: showNetBlock},
		timeRow("ClientAliveInterval", true, func(s *Settings) *time.Duration { return &s.ClientAliveInterval }),
		numberRow("ClientAliveCountMax", true, 0, 1<<20, func(s *Settings) *int { return &s.ClientAliveCountMax }),
		timeRow("UnusedConnectionTimeout", true, func(s *Settings) *time.Duration { return &s.UnusedConnectionTime }),
		{Name: "RekeyLimit", Match: true, Max: 2, set: setRekey, show: showRekey},
	}
}

func algorithmRows() []keyword {
	return []keyword{
		algorithmRow("KexAlgorithms", false, func(s *Settings) *[]string { return &s.KexAlgorithms }, defaultKex, knownKex),
		algorithmRow("Ciphers", false, func(s *Settings) *[]string { return &s.Ciphers }, defaultCiphers, knownCiphers),
		algorithmRow("MACs", false, func(s *Settings) *[]string { return &s.MACs }, defaultMACs, knownMACs),
		algorithmRow("HostKeyAlgorithms", false, func(s *Settings) *[]string { return &s.HostKeyAlgorithms }, defaultHostKeyAlgorithms, defaultHostKeyAlgorithms),
		algorithmRow("PubkeyAcceptedAlgorithms", true, func(s *Settings) *[]string { return &s.PubkeyAlgorithms }, defaultPubkeyAlgorithms, defaultPubkeyAlgorithms),
		algorithmRow("PubkeyAcceptedKeyTypes", true, func(s *Settings) *[]string { return &s.PubkeyAlgorithms }, defaultPubkeyAlgorithms, defaultPubkeyAlgorithms),
		algorithmRow("CASignatureAlgorithms", true, func(s *Settings) *[]string { return &s.CASignatures }, defaultCASignatures, userAlgorithms),
		numberRow("RequiredRSASize", false, 1024, 1<<16, func(s *Settings) *int { return &s.RequiredRSASize }),
	}
}

func accessRows() []keyword {
	return []keyword{
		listRow("AllowUsers", true, func(s *Settings) *[]string { return &s.AllowUsers }),
		listRow("DenyUsers", true, func(s *Settings) *[]string { return &s.DenyUsers }),
		listRow("AllowGroups", true, func(s *Settings) *[]string { return &s.AllowGroups }),
		listRow("DenyGroups", true, func(s *Settings) *[]string { return &s.DenyGroup }),
		{Name: "PermitRootLogin", Match: true, Max: 1, set: setRootLogin, show: func(s *Settings) []string { return []string{s.PermitRootLogin} }},
		flagRow("StrictModes", false, func(s *Settings) *bool { return &s.StrictModes }),
		usePAM(),
		flagRow("PubkeyAuthentication", true, func(s *Settings) *bool { return &s.PubkeyAuthentication }),
		{Name: "PubkeyAuthOptions", Match: true, set: setAuthOptions, show: showAuthOptions,
			Why: "none and touch-required; verify-required is refused, as PINs are attested where we cannot see it"},
	}
}

func keyRows() []keyword {
	return []keyword{
		wordsRow("AuthorizedKeysFile", true, func(s *Settings) *[]string { return &s.AuthorizedKeysFiles }),
		commandRow("AuthorizedKeysCommand", func(s *Settings) *[]string { return &s.AuthorizedKeysCommand }),
		textRow("AuthorizedKeysCommandUser", true, func(s *Settings) *string { return &s.AuthorizedKeysUser }),
		textRow("AuthorizedPrincipalsFile", true, func(s *Settings) *string { return &s.PrincipalsFile }),
		commandRow("AuthorizedPrincipalsCommand", func(s *Settings) *[]string { return &s.PrincipalsCommand }),
		textRow("AuthorizedPrincipalsCommandUser", true, func(s *Settings) *string { return &s.PrincipalsUser }),
		textRow("TrustedUserCAKeys", true, func(s *Settings) *string { return &s.TrustedUserCAKeys }),
		textRow("RevokedKeys", true, func(s *Settings) *string { return &s.RevokedKeys }),
		{Name: "PermitUserEnvironment", Max: 1, set: setUserEnvironment, show: showUserEnvironment,
			Why: "for environment= in authorized_keys; ~/.ssh/environment is not read"},
	}
}

func sessionRows() []keyword {
	return []keyword{
		{Name: "ForceCommand", Match: true, raw: true, set: setForceCommand, show: func(s *Settings) []string { return []string{orNone(s.ForceCommand)} }},
		flagRow("PermitTTY", true, func(s *Settings) *bool { return &s.PermitTTY }),
		flagRow("AllowAgentForwarding", true, func(s *Settings) *bool { return &s.AllowAgentForwarding }),
		flagRow("DisableForwarding", true, func(s *Settings) *bool { return &s.DisableForwarding }),
		listRow("AcceptEnv", true, func(s *Settings) *[]string { return &s.AcceptEnv }),
		{Name: "SetEnv", Match: true, set: setEnv, clear: func(s *Settings) { s.SetEnv = nil }, show: func(s *Settings) []string { return s.SetEnv }},
		{Name: "Subsystem", Many: true, set: setSubsystem, show: showSubsystems, composed: true,
			Why: "nexec only; other subsystems are read and never offered"},
	}
}

func ownRows() []keyword {
	return []keyword{
		own(keyword{Name: "CommandMap", Match: true, Many: true, Max: 2, set: setCommandMap, clear: clearCommandMap, show: showCommandMap, composed: true},
			"NAME PATH: only commands that have such a line may be run, by name; none: any"),
		own(choiceRow("LogFormat", false, func(s *Settings) *string { return &s.LogFormat }, "text", "json"), "text or json"),
		own(textRow("MetricsSocket", false, func(s *Settings) *string { return &s.MetricsSocket }), "a unix socket with counters for Prometheus"),
		own(timeRow("DrainTime", false, func(s *Settings) *time.Duration { return &s.DrainTime }), "how long SIGTERM lets sessions go on"),
		own(flagRow("PerSourcePenalties", false, func(s *Settings) *bool { return &s.PerSourcePenalties }), "yes or no; from OpenSSH 9.8, with its default penalties"),
	}
}

func refusedRows() []keyword {
	return []keyword{
		refuse("AuthenticationMethods", true, "public keys are the only method", "any", "publickey"),
		refuse("ChrootDirectory", true, "sessions get a view of their own instead", "none"),
		refuse("HostKeyAgent", false, "host keys are read from files", "none"),
		refuse("ChannelTimeout", true, "there are no channels but sessions", "none"),
		refuse("AuthorizedKeysFile2", true, "withdrawn by OpenSSH; name both files in AuthorizedKeysFile", ""),
		refuse("RDomain", true, "routing domains are not supported", "none"),
	}
}

func meaninglessRows() []keyword {
	return slices.Concat(
		without(true, "nothing but an agent is ever forwarded by nexecd",
			"AllowStreamLocalForwarding", "AllowTcpForwarding", "GatewayPorts",
			"PermitListen", "PermitOpen", "PermitTunnel", "StreamLocalBindMask", "StreamLocalBindUnlink",
			"X11DisplayOffset", "X11Forwarding", "X11UseLocalhost", "XAuthLocation"),
		without(true, "public keys are the only method",
			"PasswordAuthentication", "KbdInteractiveAuthentication", "ChallengeResponseAuthentication", "PermitEmptyPasswords",
			"HostbasedAuthentication", "HostbasedAcceptedAlgorithms", "HostbasedAcceptedKeyTypes", "HostbasedUsesNameFromPacketOnly",
			"IgnoreRhosts", "IgnoreUserKnownHosts",
			"GSSAPIAuthentication", "GSSAPICleanupCredentials", "GSSAPIKexAlgorithms", "GSSAPIKeyExchange",
			"GSSAPIStoreCredentialsOnRekey", "GSSAPIStrictAcceptorCheck",
			"KerberosAuthentication", "KerberosGetAFSToken", "KerberosOrLocalPasswd", "KerberosTicketCleanup", "ExposeAuthInfo"),
		without(true, "no login shell is started", "PrintLastLog", "PrintMotd", "PermitUserRC"),
		without(false, "compression is never offered", "Compression"),
		without(false, "the version line names no distribution", "DebianBanner"),
		without(false, "fingerprints are always SHA256", "FingerprintHash"),
		without(true, "the kernel's default is kept", "IPQoS"),
		without(false, "no group exchange with moduli of one's own", "ModuliFile"),
		without(false, "signatures of security keys are checked without hardware", "SecurityKeyProvider"),
		without(false, "the log goes to standard error, a file or the journal", "SyslogFacility", "LogVerbose"),
		without(false, "withdrawn by OpenSSH", "UsePrivilegeSeparation", "KeyRegenerationInterval", "ServerKeyBits", "Protocol",
			"RSAAuthentication", "RhostsRSAAuthentication", "UseLogin"),
	)
}
