package main

import (
	"encoding/json"
	"strings"

	"github.com/SumiTomohiko/nexec/sshserver"
)

// policyDocument is what nexec-server reads: see subsystem.Policy. It is
// written down again so that a server before authentication does not carry the
// whole of that package; a test holds the two together.
type policyDocument struct {
	ForcedCommand string            `json:"forced_command,omitempty"`
	Allowed       map[string]string `json:"allowed,omitempty"`
	Environment   map[string]string `json:"environment,omitempty"`
	NoPTY         bool              `json:"no_pty,omitempty"`
}

// emptyCommand does what command="" asks for. In the document the empty
// command stands for none being forced.
const emptyCommand = ":"

// policy makes the document for a session, nil when nothing is restricted.
func policy(s *sshserver.Session) ([]byte, error) {
	g := s.Grant
	doc := policyDocument{NoPTY: !g.PTY()}
	if command, forced := g.ForcedCommand(); forced {
		doc.ForcedCommand = command
		if strings.TrimSpace(command) == "" {
			doc.ForcedCommand = emptyCommand
		}
	}
	if g.Settings.HasCommandMap { // then there is at least one
		doc.Allowed = map[string]string{}
		for _, c := range g.Settings.CommandMap {
			if _, ok := doc.Allowed[c.Name]; !ok {
				doc.Allowed[c.Name] = c.Path
			}
		}
	}
	for _, e := range g.Environment() {
		name, value, _ := strings.Cut(e, "=")
		if doc.Environment == nil {
			doc.Environment = map[string]string{}
		}
		doc.Environment[name] = value
	}
	if doc.ForcedCommand == "" && doc.Allowed == nil && doc.Environment == nil && !doc.NoPTY {
		return nil, nil
	}
	return json.Marshal(doc)
}
