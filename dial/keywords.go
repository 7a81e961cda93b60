package dial

// use says what becomes of a keyword here.
type use uint8

const (
	honoured use = iota // as OpenSSH does
	refused             // an error when set to what cannot be done
	idle                // read and checked, and without meaning for nexec
)

func (u use) String() string {
	return [...]string{"honoured", "refused with an error", "without meaning here"}[u]
}

// kind is how a keyword's arguments are read.
type kind uint8

const (
	kindFlag    kind = iota // yes, no
	kindChoice              // one of keyword.choices
	kindTime                // seconds, or with units, or none
	kindInt                 // a number
	kindString              // one word
	kindCommand             // the rest of the line as it is
	kindWords               // all words of the first line that sets it; "none" alone
	kindAppend              // one word, each line adds
	kindAlgs                // a list of algorithms, or a change to the default
	kindSpecial             // has a reader of its own: see special.go
)

// keyword is one row of the table of ssh_config(5)'s keywords.
type keyword struct {
	name    string // as the manual writes it
	kind    kind
	use     use
	choices []string // of kindChoice: the canonical name, or alias=canonical
	note    string   // what the manual of nexec says of it
}

var yesNoAsk = []string{"yes", "no", "ask", "true=yes", "false=no"}

// keywords lists every keyword that OpenSSH 9.2 to 10.x documents.
// doc/ssh_config.md is held to it by a test.
func keywords() []keyword {
	return append(append(keywordsHonoured(), keywordsRefused()...), keywordsIdle()...)
}

func keywordsHonoured() []keyword {
	return []keyword{
		{name: "Host", kind: kindSpecial},
		{name: "Match", kind: kindSpecial, note: "all, host, originalhost, user, localuser, exec, canonical, final; a file with other criteria is resolved by `ssh -G`"},
		{name: "Include", kind: kindSpecial},
		{name: "IgnoreUnknown", kind: kindString},
		{name: "AddKeysToAgent", kind: kindSpecial, note: "yes, no, ask, confirm and a lifetime"},
		{name: "AddressFamily", kind: kindChoice, choices: []string{"any", "inet", "inet6"}},
		{name: "BatchMode", kind: kindFlag},
		{name: "BindAddress", kind: kindString},
		{name: "BindInterface", kind: kindString},
		{name: "CanonicalDomains", kind: kindWords},
		{name: "CanonicalizeFallbackLocal", kind: kindFlag},
		{name: "CanonicalizeHostname", kind: kindChoice, choices: []string{"yes", "no", "always", "true=yes", "false=no"}},
		{name: "CanonicalizeMaxDots", kind: kindInt},
		{name: "CanonicalizePermittedCNAMEs", kind: kindSpecial},
		{name: "CASignatureAlgorithms", kind: kindAlgs},
		{name: "CertificateFile", kind: kindAppend},
		{name: "CheckHostIP", kind: kindFlag},
		{name: "Ciphers", kind: kindAlgs, note: "those that x/crypto has; without a setting AES-GCM comes first where the CPU has AES"},
		{name: "ConnectionAttempts", kind: kindInt},
		{name: "ConnectTimeout", kind: kindTime},
		{name: "ControlMaster", kind: kindChoice, choices: []string{"yes", "no", "auto", "ask", "autoask", "true=yes", "false=no"}, note: "with no, auto and autoask an existing master is used, as by ssh; nexec is never one for ssh, but see ControlPersist"},
		{name: "ControlPath", kind: kindString},
		{name: "ControlPersist", kind: kindSpecial, note: "with a ControlPath and a ControlMaster other than no, nexec's session stays for as long; also read for UpdateHostKeys"},
		{name: "FingerprintHash", kind: kindChoice, choices: []string{"sha256", "md5"}},
		{name: "ForwardAgent", kind: kindSpecial, note: "not over another ssh's control socket"},
		{name: "GlobalKnownHostsFile", kind: kindWords},
		{name: "HashKnownHosts", kind: kindFlag},
		{name: "HostKeyAlgorithms", kind: kindAlgs},
		{name: "HostKeyAlias", kind: kindString},
		{name: "Hostname", kind: kindString},
		{name: "IdentitiesOnly", kind: kindFlag},
		{name: "IdentityAgent", kind: kindSpecial},
		{name: "IdentityFile", kind: kindAppend, note: "keys on a security key only through an agent"},
		{name: "IPQoS", kind: kindSpecial, note: "the second value; without a setting the class is left to the system"},
		{name: "KbdInteractiveAuthentication", kind: kindFlag},
		{name: "KexAlgorithms", kind: kindAlgs, note: "those that x/crypto has: no sntrup761"},
		{name: "KnownHostsCommand", kind: kindCommand, note: "60 s, 1 MiB; words that begin with # need quotes"},
		{name: "LogLevel", kind: kindChoice, choices: []string{"QUIET", "SILENT=QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG=DEBUG", "DEBUG1=DEBUG", "DEBUG2", "DEBUG3"}},
		{name: "MACs", kind: kindAlgs, note: "those that x/crypto has: no umac"},
		{name: "NoHostAuthenticationForLocalhost", kind: kindFlag},
		{name: "NumberOfPasswordPrompts", kind: kindInt},
		{name: "PasswordAuthentication", kind: kindFlag},
		{name: "Port", kind: kindSpecial},
		{name: "PreferredAuthentications", kind: kindString, note: "publickey, keyboard-interactive and password; gssapi-with-mic and hostbased are passed over"},
		{name: "ProxyCommand", kind: kindCommand},
		{name: "ProxyJump", kind: kindSpecial, note: "natively, each hop by its own configuration"},
		{name: "PubkeyAcceptedAlgorithms", kind: kindAlgs},
		{name: "PubkeyAuthentication", kind: kindChoice, choices: []string{"yes", "no", "unbound", "host-bound", "true=yes", "false=no"}, note: "host-bound is refused: x/crypto has no host-bound authentication"},
		{name: "RekeyLimit", kind: kindSpecial, note: "with a time, ssh carries the session if it is installed; a time for a host of ProxyJump alone is refused"},
		{name: "RequestTTY", kind: kindChoice, choices: []string{"yes", "no", "force", "auto", "true=yes", "false=no"}},
		{name: "RequiredRSASize", kind: kindInt},
		{name: "RevokedHostKeys", kind: kindString, note: "a list of keys or a KRL; who cannot read it refuses every host; signed KRLs are refused"},
		{name: "SendEnv", kind: kindSpecial, note: "sent with the request for the subsystem; the environment of the command is nexec's own"},
		{name: "ServerAliveCountMax", kind: kindInt},
		{name: "ServerAliveInterval", kind: kindTime},
		{name: "SetEnv", kind: kindSpecial, note: "as SendEnv"},
		{name: "StdinNull", kind: kindFlag},
		{name: "StrictHostKeyChecking", kind: kindChoice, choices: []string{"yes", "no", "ask", "accept-new", "off=no", "true=yes", "false=no"}},
		{name: "TCPKeepAlive", kind: kindFlag},
		{name: "UpdateHostKeys", kind: kindChoice, choices: yesNoAsk},
		{name: "User", kind: kindString},
		{name: "UserKnownHostsFile", kind: kindWords},
		{name: "VersionAddendum", kind: kindString},
		{name: "RefuseConnection", kind: kindString},
	}
}

func keywordsRefused() []keyword {
	return []keyword{
		{name: "PKCS11Provider", kind: kindString, use: refused, note: "unless none: load the token into an agent with ssh-add -s"},
		{name: "ProxyUseFdpass", kind: kindFlag, use: refused, note: "yes with a ProxyCommand is refused: the command must carry the bytes itself"},
		{name: "VerifyHostKeyDNS", kind: kindChoice, choices: yesNoAsk, use: refused, note: "yes and ask: nothing here validates DNSSEC"},
	}
}

func keywordsIdle() []keyword {
	idleRow := func(name string, k kind, note string) keyword {
		return keyword{name: name, kind: k, use: idle, note: note}
	}
	const (
		noForward = "nexec forwards nothing, as sftp does"
		noHost    = "the method is passed over"
		noSession = "nexec has a session of its own"
	)
	return []keyword{
		idleRow("ChannelTimeout", kindSpecial, noSession),
		idleRow("ClearAllForwardings", kindFlag, noForward),
		idleRow("Compression", kindChoice, "the link compresses by itself what pays").withChoices("yes", "no"),
		idleRow("DynamicForward", kindSpecial, noForward),
		idleRow("EnableEscapeCommandline", kindFlag, noSession),
		idleRow("EnableSSHKeysign", kindFlag, noHost),
		idleRow("EscapeChar", kindSpecial, noSession),
		idleRow("ExitOnForwardFailure", kindFlag, noForward),
		idleRow("ForkAfterAuthentication", kindFlag, noSession),
		idleRow("ForwardX11", kindFlag, noForward),
		idleRow("ForwardX11Timeout", kindTime, noForward),
		idleRow("ForwardX11Trusted", kindFlag, noForward),
		idleRow("GatewayPorts", kindFlag, noForward),
		idleRow("GSSAPIAuthentication", kindFlag, noHost),
		idleRow("GSSAPIClientIdentity", kindString, noHost),
		idleRow("GSSAPIDelegateCredentials", kindFlag, noHost),
		idleRow("GSSAPIKexAlgorithms", kindString, noHost),
		idleRow("GSSAPIKeyExchange", kindFlag, noHost),
		idleRow("GSSAPIRenewalForcesRekey", kindFlag, noHost),
		idleRow("GSSAPIServerIdentity", kindString, noHost),
		idleRow("GSSAPITrustDns", kindFlag, noHost),
		idleRow("HostbasedAcceptedAlgorithms", kindAlgs, noHost),
		idleRow("HostbasedAuthentication", kindFlag, noHost),
		idleRow("KbdInteractiveDevices", kindString, "x/crypto sends no list of devices: the server chooses"),
		idleRow("LocalCommand", kindCommand, noSession),
		idleRow("LocalForward", kindSpecial, noForward),
		idleRow("LogVerbose", kindWords, "use -v"),
		idleRow("ObscureKeystrokeTiming", kindSpecial, "the link sends keystrokes among other frames"),
		idleRow("PermitLocalCommand", kindFlag, noSession),
		idleRow("PermitRemoteOpen", kindSpecial, noForward),
		idleRow("RemoteCommand", kindCommand, noSession),
		idleRow("RemoteForward", kindSpecial, noForward),
		idleRow("SecurityKeyProvider", kindString, "security keys are used through an agent"),
		idleRow("SessionType", kindChoice, noSession).withChoices("none", "subsystem", "default"),
		idleRow("StreamLocalBindMask", kindSpecial, noForward),
		idleRow("StreamLocalBindUnlink", kindFlag, noForward),
		idleRow("SyslogFacility", kindString, "nexec does not log to syslog"),
		idleRow("Tag", kindString, "only Match tagged looks at it, and that is resolved by `ssh -G`"),
		idleRow("Tunnel", kindChoice, noForward).withChoices("yes=point-to-point", "true=point-to-point", "no", "false=no", "point-to-point", "ethernet"),
		idleRow("TunnelDevice", kindString, noForward),
		idleRow("VisualHostKey", kindFlag, "no picture is drawn; the fingerprint is shown"),
		idleRow("WarnWeakCrypto", kindSpecial, "x/crypto offers no weak key exchange unless the configuration names it"),
		idleRow("XAuthLocation", kindString, noForward),
	}
}

func (k keyword) withChoices(choices ...string) keyword {
	k.choices = choices
	return k
}

// aliases are other names of keywords; a name with a dash is not read at all:
// ignored or deprecated, OpenSSH reads past it.
func aliases() map[string]string {
	return map[string]string{
		"challengeresponseauthentication": "kbdinteractiveauthentication",
		"skeyauthentication":              "kbdinteractiveauthentication",
		"tisauthentication":               "kbdinteractiveauthentication",
		"dsaauthentication":               "pubkeyauthentication",
		"identityfile2":                   "identityfile",
		"smartcarddevice":                 "pkcs11provider",
		"keepalive":                       "tcpkeepalive",
		"hostbasedkeytypes":               "hostbasedacceptedalgorithms",
		"pubkeyacceptedkeytypes":          "pubkeyacceptedalgorithms",
		"protocol":                        "-", "cipher": "-", "fallbacktorsh": "-",
		"globalknownhostsfile2": "-", "rhostsauthentication": "-",
		"userknownhostsfile2": "-", "useroaming": "-", "usersh": "-",
		"useprivilegedport": "-", "afstokenpassing": "-",
		"kerberosauthentication": "-", "kerberostgtpassing": "-",
		"rsaauthentication": "-", "rhostsrsaauthentication": "-",
		"compressionlevel": "-",
	}
}
