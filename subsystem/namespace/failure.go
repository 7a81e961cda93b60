package namespace

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Failure says why a session's namespaces or view could not be made.
type Failure struct {
	Code  fsyscall.FatalCode
	Step  string // what was tried: "mount the server's tree"
	Path  string // of the view or of the server; may be empty
	Errno syscall.Errno
	Note  string // what to do about it; may be empty
}

func (f *Failure) Error() string {
	s := f.Step
	if f.Path != "" {
		s += " " + f.Path
	}
	if f.Errno != 0 {
		s += ": " + f.Errno.Error()
	}
	if f.Note != "" {
		s += " (" + f.Note + ")"
	}
	return s
}

func (f *Failure) Unwrap() error { return f.Errno }

// Fatal returns the message for the client.
func (f *Failure) Fatal() *fsyscall.Fatal {
	m := &fsyscall.Fatal{Code: f.Code, Errno: fsyscall.Errno(f.Errno)}
	switch f.Code {
	case fsyscall.FatalView:
		m.Detail = f.Path
		if f.Path == "" {
			m.Detail = f.Step
		}
	default:
		m.Detail = f.Step
		if f.Path != "" {
			m.Detail += " " + f.Path
		}
		if f.Note != "" {
			m.Detail += " (" + f.Note + ")"
		}
	}
	if len(m.Detail) > maxDetail {
		m.Detail = m.Detail[:maxDetail]
	}
	return m
}

// maxDetail keeps a Fatal within what its encoding allows.
const maxDetail = 4000

// failure makes a Failure from an error that has a system error number in it.
func failure(code fsyscall.FatalCode, step, path string, err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	f = &Failure{Code: code, Step: step, Path: path}
	if !errors.As(err, &f.Errno) && err != nil {
		f.Step = fmt.Sprintf("%s: %v", step, err)
	}
	return f
}

func (f *Failure) encode(e *encoder) {
	e.u32(uint32(f.Code))
	e.string(f.Step)
	e.string(f.Path)
	e.u32(uint32(f.Errno))
	e.string(f.Note)
}

func decodeFailure(d *decoder) *Failure {
	return &Failure{
		Code:  fsyscall.FatalCode(d.u32()),
		Step:  d.string(),
		Path:  d.string(),
		Errno: syscall.Errno(d.u32()),
		Note:  d.string(),
	}
}
