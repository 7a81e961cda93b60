package keys

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const sampleKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDpQNyeZHIQRN1BTVgJ6eSLvym0UBm7BmjspyGW5n929"

func TestParseOptions(t *testing.T) {
	all := func(f func(o *Options)) *Options {
		o := permissiveOptions()
		f(o)
		return o
	}
	for text, want := range map[string]*Options{
		"":                                      all(func(*Options) {}),
		"restrict":                              {Restricted: true},
		"restrict,pty":                          {Restricted: true, PTY: true},
		"pty,restrict":                          {Restricted: true},
		"no-pty":                                all(func(o *Options) { o.PTY = false }),
		"No-PTY,PTY":                            all(func(*Options) {}),
		`command="a \"b\""`:                     all(func(o *Options) { o.HasCommand, o.Command = true, `a "b"` }),
		`command="a\b"`:                         all(func(o *Options) { o.HasCommand, o.Command = true, `a\b` }),
		`command=""`:                            all(func(o *Options) { o.HasCommand = true }),
		`environment="A=b c",environment="A=d"`: all(func(o *Options) { o.Environment = []string{"A=b c"} }),
		`expiry-time="20300102Z",expiry-time="20290102030405Z"`: all(func(o *Options) { o.Expiry = time.Date(2029, 1, 2, 3, 4, 5, 0, time.UTC) }),
		`permitlisten="80",permitopen="[::1]:*"`:                all(func(o *Options) { o.PermitListen, o.PermitOpen = []string{"*:80"}, []string{"[::1]:*"} }),
		`cert-authority,principals="a,b"`:                       all(func(o *Options) { o.CertAuthority, o.HasPrincipals, o.Principals = true, true, "a,b" }),
		`tunnel="2" rest`:                                       all(func(o *Options) { o.Tunnel = "2" }),
		"no-touch-required,verify-required":                     all(func(o *Options) { o.NoTouchRequired, o.VerifyRequired = true, true }),
	} {
		got, err := ParseOptions(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"nonsense": "unknown key option", "pty,": "unexpected end-of-options", `command="a",command="b"`: `multiple "command" clauses`,
		"command=a": "missing start quote", `command="a`: "missing end quote", `environment="A-B=c"`: "invalid environment string",
		`expiry-time="tomorrow"`: "invalid expires time", `tunnel="x"`: "invalid tun device", `permitopen="a"`: "invalid permission port",
	} {
		if got, err := ParseOptions(text); err == nil || err.Error() != want {
			t.Errorf("%s: %+v %v, want %s", text, got, err, want)
		}
	}
}

func TestFindAuthorized(t *testing.T) {
	key, _, err := ParseAuthorizedLine(sampleKey + " me")
	if err != nil {
		t.Fatal(err)
	}
	file := "# first\n\nnonsense " + sampleKey + "\n" + `from="10.0.0.1" ` + sampleKey + "\nno-pty " + sampleKey + "\nrestrict " + sampleKey + "\n"
	match, refused, err := FindAuthorized(strings.NewReader(file), "f", "me", key, peerAt("192.0.2.1"))
	if err != nil || match == nil || match.Where != "f:5" || match.Options.PTY || match.Options.Restricted {
		t.Errorf("%+v %v", match, err)
	}
	if len(refused) != 2 || refused[0].Where != "f:3" || refused[1].Where != "f:4" {
		t.Errorf("refused: %v", refused)
	}
	_, _, err = FindAuthorized(strings.NewReader(strings.Repeat("#", maxAuthorizedFile+10)), "f", "me", key, peerAt("192.0.2.1"))
	if err == nil {
		t.Error("an endless file is read")
	}
}

// FuzzAuthorizedLine holds that a line that is accepted is still accepted, with
// the same meaning, when a comment follows, and that one with an unknown option
// before all others is not.
func FuzzAuthorizedLine(f *testing.F) {
	seeds := []string{
		sampleKey, "restrict,pty " + sampleKey, `command="a \"b\"",from="!10.0.0.0/8,*" ` + sampleKey, `environment="A=b",expiry-time="20400101" ` + sampleKey,
		`permitopen="[::1]:80",permitlisten="80",tunnel="any" ` + sampleKey, "cert-authority,principals=\"a\" " + sampleKey, ",,pty " + sampleKey, "no-pty\t" + sampleKey + " c",
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		key, opts, err := ParseAuthorizedLine(line)
		if err != nil {
			return
		}
		again, opts2, err := ParseAuthorizedLine(line + " comment")
		if err != nil || !SameKey(key, again) || !reflect.DeepEqual(opts, opts2) {
			t.Errorf("%q with a comment: %v", line, err)
		}
		if _, _, err := ParseAuthorizedLine("unknown," + line); err == nil {
			t.Errorf("%q with an unknown option is accepted", line)
		}
		opts.permits(peerAt("192.0.2.1"), true)
	})
}
