package sshdconfig

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/SumiTomohiko/nexec/keys"
)

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func setPort(s *Settings, args []string) (int, error) {
	// 0 lets the kernel choose: for tests and for demonstrations.
	n, err := strconv.ParseUint(args[0], 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port", args[0])
	}
	port := int(n)
	if n == 0 {
		port = AnyPort
	}
	s.Ports = append(s.Ports[:len(s.Ports):len(s.Ports)], port)
	return 0, nil
}

// AnyPort stands for port 0, of the kernel's choice.
const AnyPort = -1

func showPorts(s *Settings) []string {
	if len(s.Ports) == 0 {
		return []string{strconv.Itoa(DefaultPort)}
	}
	var out []string
	for _, p := range s.Ports {
		out = append(out, strconv.Itoa(max(p, 0)))
	}
	return out
}

// setListen reads HOST, HOST:PORT, IPv6 or [IPv6]:PORT.
func setListen(s *Settings, args []string) (int, error) {
	a := args[0]
	l := Listen{Host: a}
	switch {
	case a == "":
		return 0, errors.New("empty address")
	case strings.HasPrefix(a, "[") && strings.HasSuffix(a, "]"):
		l.Host = a[1 : len(a)-1]
	case strings.HasPrefix(a, "[") || strings.Count(a, ":") == 1:
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return 0, fmt.Errorf("%q is not an address", a)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is not a port", port)
		}
		l = Listen{Host: host, Port: int(n)}
		if n == 0 {
			l.Port = AnyPort
		}
	}
	if l.Host == "*" {
		l.Host = ""
	}
	s.ListenAddresses = append(s.ListenAddresses[:len(s.ListenAddresses):len(s.ListenAddresses)], l)
	return 0, nil
}

func showListen(s *Settings) []string {
	var out []string
	for _, l := range s.Addresses() {
		out = append(out, net.JoinHostPort(l.Host, strconv.Itoa(max(l.Port, 0))))
	}
	return out
}

func setAddendum(s *Settings, args []string) (int, error) {
	v := strings.Join(args, " ")
	if strings.EqualFold(v, "none") {
		v = ""
	}
	if strings.Trim(v, asciiPrintable) != "" {
		return 0, errors.New("has characters that a version line may not have")
	}
	s.VersionAddendum = v
	return 0, nil
}

const asciiPrintable = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"

// setStartups reads FULL or START:RATE:FULL.
func setStartups(s *Settings, args []string) (int, error) {
	bad := fmt.Errorf("%q is not FULL or START:RATE:FULL", args[0])
	var n [3]int
	parts := strings.Split(args[0], ":")
	if len(parts) != 1 && len(parts) != 3 {
		return 0, bad
	}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 31)
		if err != nil || v == 0 {
			return 0, bad
		}
		n[i] = int(v)
	}
	if len(parts) == 1 {
		n = [3]int{n[0], 100, n[0]}
	}
	if n[0] > n[2] || n[1] > 100 {
		return 0, bad
	}
	s.MaxStartups = Startups{n[0], n[1], n[2]}
	return 0, nil
}

func showStartups(s *Settings) []string {
	return []string{fmt.Sprintf("%d:%d:%d", s.MaxStartups.Start, s.MaxStartups.Rate, s.MaxStartups.Full)}
}

func setPerSource(s *Settings, args []string) (int, error) {
	if strings.EqualFold(args[0], "none") {
		s.PerSourceMaxStartups = 0
		return 0, nil
	}
	n, err := strconv.ParseUint(args[0], 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is neither none nor a number above 0", args[0])
	}
	s.PerSourceMaxStartups = int(n)
	return 0, nil
}

func showPerSource(s *Settings) []string {
	if s.PerSourceMaxStartups == 0 {
		return []string{"none"}
	}
	return []string{strconv.Itoa(s.PerSourceMaxStartups)}
}

func setNetBlock(s *Settings, args []string) (int, error) {
	v4, v6, both := strings.Cut(args[0], ":")
	bits := s.PerSourceBits
	n, err := strconv.ParseUint(v4, 10, 8)
	if err != nil || n > 32 {
		return 0, fmt.Errorf("%q is not BITS or BITS:BITS", args[0])
	}
	bits[0] = int(n)
	if both {
		n, err := strconv.ParseUint(v6, 10, 8)
		if err != nil || n > 128 {
			return 0, fmt.Errorf("%q is not BITS or BITS:BITS", args[0])
		}
		bits[1] = int(n)
	}
	s.PerSourceBits = bits
	return 0, nil
}

func showNetBlock(s *Settings) []string {
	return []string{fmt.Sprintf("%d:%d", s.PerSourceBits[0], s.PerSourceBits[1])}
}

// setRekey reads BYTES [TIME]. A time is refused: the library rekeys by bytes.
func setRekey(s *Settings, args []string) (int, error) {
	if len(args) == 2 && !strings.EqualFold(args[1], "none") {
		return 1, errors.New("rekeying by time is not supported (only none)")
	}
	if strings.EqualFold(args[0], "default") {
		s.RekeyLimit = 0
		return 0, nil
	}
	digits := strings.TrimRight(args[0], "kKmMgG")
	unit := uint64(1)
	switch strings.ToUpper(args[0][len(digits):]) {
	case "":
	case "K":
		unit = 1 << 10
	case "M":
		unit = 1 << 20
	case "G":
		unit = 1 << 30
	default:
		unit = 0
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || unit == 0 || n*unit < 16 {
		return 0, fmt.Errorf("%q is not a number of bytes such as 512M, at least 16", args[0])
	}
	s.RekeyLimit = n * unit
	return 0, nil
}

func showRekey(s *Settings) []string {
	if s.RekeyLimit == 0 {
		return []string{"default", "none"}
	}
	return []string{strconv.FormatUint(s.RekeyLimit, 10), "none"}
}

func setRootLogin(s *Settings, args []string) (int, error) {
	switch v := strings.ToLower(args[0]); v {
	case "yes", "no", "prohibit-password", "forced-commands-only":
		s.PermitRootLogin = v
	case "without-password":
		s.PermitRootLogin = "prohibit-password"
	default:
		return 0, fmt.Errorf("%q is not one of yes, no, prohibit-password, forced-commands-only", args[0])
	}
	return 0, nil
}

// usePAM is yes on most distributions. Whether that can be passed over depends
// on what PAM is set up to do, which the configuration does not know: whoever
// serves asks sshserver.CheckPAM.
func usePAM() keyword {
	k := flagRow("UsePAM", false, func(s *Settings) *bool { return &s.UsePAM })
	k.Why = "PAM is not used"
	k.warn = func(args []string) string {
		if yes, _ := yesNo(args[0]); yes {
			return "PAM is not used: logging in is by key, and nexecd checks the account's expiry, its password's age, its shell and /etc/nologin by itself"
		}
		return ""
	}
	return k
}

// setAuthOptions is about security keys. Without touch-required a key's own
// no-touch-required counts.
func setAuthOptions(s *Settings, args []string) (int, error) {
	s.TouchRequired = false
	for i, a := range args {
		switch strings.ToLower(a) {
		case "none":
			if len(args) > 1 {
				return i, errors.New("none stands alone")
			}
		case "touch-required":
			s.TouchRequired = true
		default:
			return i, fmt.Errorf("%q cannot be honoured", a)
		}
	}
	return 0, nil
}

func showAuthOptions(s *Settings) []string {
	if s.TouchRequired {
		return []string{"touch-required"}
	}
	return []string{"none"}
}

// commandRow is a program that names keys or principals. It must be absolute:
// it is run before anybody has logged in.
func commandRow(name string, to func(*Settings) *[]string) keyword {
	set := func(s *Settings, args []string) (int, error) {
		if strings.EqualFold(args[0], "none") && len(args) == 1 {
			*to(s) = nil
			return 0, nil
		}
		if !filepath.IsAbs(args[0]) {
			return 0, fmt.Errorf("%q is not an absolute path", args[0])
		}
		*to(s) = args
		return 0, nil
	}
	show := func(s *Settings) []string {
		if len(*to(s)) == 0 {
			return []string{"none"}
		}
		return *to(s)
	}
	return keyword{Name: name, Match: true, set: set, show: show}
}

func setUserEnvironment(s *Settings, args []string) (int, error) {
	switch v := strings.ToLower(args[0]); v {
	case "yes":
		s.PermitUserEnvironment = []string{"*"}
	case "no":
		s.PermitUserEnvironment = nil
	default:
		s.PermitUserEnvironment = []string{args[0]}
	}
	return 0, nil
}

func showUserEnvironment(s *Settings) []string {
	switch {
	case s.PermitUserEnvironment == nil:
		return []string{"no"}
	case s.PermitUserEnvironment[0] == "*":
		return []string{"yes"}
	}
	return s.PermitUserEnvironment
}

func setForceCommand(s *Settings, args []string) (int, error) {
	s.ForceCommand = strings.Join(args, " ")
	if strings.EqualFold(s.ForceCommand, "none") {
		s.ForceCommand = ""
	}
	return 0, nil
}

func setEnv(s *Settings, args []string) (int, error) {
	for i, a := range args {
		if name, _, ok := strings.Cut(a, "="); !ok || name == "" {
			return i, fmt.Errorf("%q is not NAME=VALUE", a)
		}
	}
	s.SetEnv = args
	return 0, nil
}

func setSubsystem(s *Settings, args []string) (int, error) {
	if len(args) < 2 {
		return 0, errors.New("missing command")
	}
	for _, have := range s.Subsystems {
		if have.Name == args[0] {
			return 0, fmt.Errorf("subsystem %s is already defined", args[0])
		}
	}
	s.Subsystems = append(s.Subsystems[:len(s.Subsystems):len(s.Subsystems)], Subsystem{args[0], args[1:]})
	return 0, nil
}

func showSubsystems(s *Settings) []string {
	var out []string
	for _, sub := range s.Subsystems {
		words := []string{quoteWord(sub.Name)}
		for _, w := range sub.Command {
			words = append(words, quoteWord(w))
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

func setCommandMap(s *Settings, args []string) (int, error) {
	if len(args) == 1 && strings.EqualFold(args[0], "none") {
		clearCommandMap(s)
		return 0, nil
	}
	if len(args) != 2 || args[0] == "" || strings.Contains(args[0], "/") {
		return 0, errors.New("needs a name without / and a path")
	}
	if !filepath.IsAbs(args[1]) {
		return 1, fmt.Errorf("%q is not an absolute path", args[1])
	}
	s.CommandMap = append(s.CommandMap[:len(s.CommandMap):len(s.CommandMap)], Command{args[0], args[1]})
	s.HasCommandMap = true
	return 0, nil
}

func clearCommandMap(s *Settings) { s.CommandMap, s.HasCommandMap = nil, false }

func showCommandMap(s *Settings) []string {
	var out []string
	for _, c := range s.CommandMap {
		out = append(out, quoteWord(c.Name)+" "+quoteWord(c.Path))
	}
	return out
}

// AcceptsEnv reports whether a client may set the variable name.
func (s *Settings) AcceptsEnv(name string) bool { return matchesOne(s.AcceptEnv, name) }

// PermitsUserEnv reports whether environment= may set the variable name.
func (s *Settings) PermitsUserEnv(name string) bool {
	for _, p := range s.PermitUserEnvironment {
		if keys.MatchList(name, p, false) > 0 {
			return true
		}
	}
	return false
}

func matchesOne(patterns []string, s string) bool {
	for _, p := range patterns {
		if keys.MatchPattern(s, p) {
			return true
		}
	}
	return false
}
