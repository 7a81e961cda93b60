package main

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/SumiTomohiko/nexec/sshserver"
)

// policyDocument is what nexec-server reads: see subsystem.Policy.
type policyDocument struct {
	ForcedCommand *string           `json:"forced_command,omitempty"`
	Allowed       map[string]string `json:"allowed,omitempty"`
	Environment   map[string]string `json:"environment,omitempty"`
	NoPTY         bool              `json:"no_pty,omitempty"`
}

// policy makes the document for a session, nil when nothing is restricted.
func policy(s *sshserver.Session) ([]byte, error) {
	g := s.Grant
	doc := policyDocument{NoPTY: !g.PTY()}
	if command, forced := g.ForcedCommand(); forced {
		doc.ForcedCommand = &command
	}
	if g.Settings.HasCommandMap {
		doc.Allowed = map[string]string{}
		for _, c := range g.Settings.CommandMap {
			if _, ok := doc.Allowed[c.Name]; !ok {
				doc.Allowed[c.Name] = c.Path
			}
		}
	}
	env := map[string]string{}
	for _, list := range [][]string{s.Env, g.Environment()} {
		for _, e := range list {
			name, value, _ := strings.Cut(e, "=")
			env[name] = value
		}
	}
	if len(env) > 0 {
		doc.Environment = maps.Clone(env)
	}
	if doc.ForcedCommand == nil && doc.Allowed == nil && doc.Environment == nil && !doc.NoPTY {
		return nil, nil
	}
	return json.Marshal(doc)
}
