package main

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/SumiTomohiko/nexec/keys"
	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"github.com/SumiTomohiko/nexec/subsystem"
)

// TestPolicy holds our documents to what nexec-server reads.
func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		options, config string
		want            *subsystem.Policy // nil: no document
	}{
		{"", "", nil},
		{"no-port-forwarding", "", nil},
		{`command="run it"`, "", &subsystem.Policy{ForcedCommand: "run it"}},
		{`command=""`, "", &subsystem.Policy{ForcedCommand: ":"}}, // never a free exec
		{`command="key's"`, "ForceCommand the config", &subsystem.Policy{ForcedCommand: "the config"}},
		{"restrict", "", &subsystem.Policy{NoPTY: true}},
		{"restrict,pty", "", nil},
		{"", "PermitTTY no", &subsystem.Policy{NoPTY: true}},
		{"", "CommandMap echo /bin/echo\nCommandMap echo /bin/other\nCommandMap id /usr/bin/id", &subsystem.Policy{Allowed: map[string]string{"echo": "/bin/echo", "id": "/usr/bin/id"}}},
		{`environment="A=key",environment="B=key"`, "PermitUserEnvironment A,C\nSetEnv C=config", &subsystem.Policy{Environment: map[string]string{"A": "key", "C": "config"}}},
		{`environment="A=key"`, "", nil},
	} {
		opts, err := keys.ParseOptions(c.options)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := sshdconfig.Parse("f", []byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := policy(&sshserver.Session{Grant: &sshserver.Grant{Options: opts, Settings: &cfg.Global}})
		if err != nil {
			t.Fatal(err)
		}
		if c.want == nil || doc == nil {
			if (c.want == nil) != (doc == nil) {
				t.Errorf("%q, %q: %s", c.options, c.config, doc)
			}
			continue
		}
		got, err := subsystem.ReadPolicy(bytes.NewReader(doc))
		if err != nil {
			t.Errorf("%q, %q: %v", c.options, c.config, err)
			continue
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q, %q: %+v, want %+v", c.options, c.config, got, c.want)
		}
	}
}
