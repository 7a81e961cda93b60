package namespace

import (
	"github.com/SumiTomohiko/nexec/fsyscall"
)

// spec is a command as the supervisor describes it to init and to the exec
// stage: the client's request after the supervisor's changes, and what the
// server adds.
type spec struct {
	exec   fsyscall.Exec
	path   string    // where programs are looked for, as $PATH
	shell  string    // run as the login shell when there is no argv
	hidden [3]string // paths below the root of FUSE for streams of kind StdioFile
	keep   bool      // keep the capabilities: root's session
}

// maxSpec bounds an encoded spec: a message and a few paths.
const maxSpec = fsyscall.MaxMessage + 64<<10

func (s *spec) encode() ([]byte, error) {
	var e encoder
	e.string(s.path)
	e.string(s.shell)
	for _, h := range s.hidden {
		e.string(h)
	}
	e.bool(s.keep)
	return fsyscall.AppendMessage(e.b, fsyscall.Header{Kind: fsyscall.KindCall, Op: fsyscall.OpExec}, &s.exec)
}

func decodeSpec(b []byte) (*spec, error) {
	d := decoder{b: b}
	s := &spec{path: d.string(), shell: d.string()}
	for i := range s.hidden {
		s.hidden[i] = d.string()
	}
	s.keep = d.bool()
	if d.err != nil {
		return nil, d.err
	}
	_, body, err := fsyscall.ParseHeader(d.b)
	if err != nil {
		return nil, err
	}
	return s, fsyscall.Decode(body, &s.exec)
}
