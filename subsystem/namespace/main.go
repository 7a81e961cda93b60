package namespace

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// argv[0] of the two roles that the program takes when it is re-executed.
const (
	initName  = "nexec: session"
	stageName = "nexec: start"
)

// Descriptors that init starts with, after the standard three.
const (
	initSocket = 3
	initConfig = 4
)

// Main turns a process that [Start] or init has started into init or into the
// exec stage; it does not return then. In every other process it does nothing.
// Call it before anything else, in TestMain too.
func Main() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case initName:
		os.Exit(initMain())
	case stageName:
		stageMain()
	}
}

// setup is what init is told at its start.
type setup struct {
	identity Identity
	plan     *Plan
	userns   bool
	agent    string // socket on the server, or empty
}

func (s *setup) encode() []byte {
	var e encoder
	s.identity.encode(&e)
	e.bool(s.userns)
	s.plan.encode(&e)
	e.string(s.agent)
	return e.b
}

// maxSetup bounds the encoded setup: 1,024 rules of 4 KiB and change.
const maxSetup = 8 << 20

func readSetup(fd int) (*setup, error) {
	b, err := readMemoryFile(fd, maxSetup)
	if err != nil {
		return nil, err
	}
	d := decoder{b: b}
	s := &setup{identity: decodeIdentity(&d), userns: d.bool(), plan: decodePlan(&d), agent: d.string()}
	if d.err == nil && len(d.b) != 0 {
		d.err = errShort
	}
	return s, d.err
}

// initMain is init's whole life. Its value is the exit status, which only
// matters to who looks at it: the supervisor learns all by packets.
func initMain() int {
	closeOnExec()
	s, err := readSetup(initConfig)
	unix.Close(initConfig)
	if err != nil {
		return 2
	}
	takeSignals()
	in := &initProcess{socket: initSocket, commands: make(map[int]*command), byID: make(map[uint32]*command)}
	if err := in.prepare(s); err != nil {
		e := encoder{b: []byte{pktFailed}}
		err.encode(&e)
		in.send(e.b)
		return 1
	}
	go in.reap()
	in.orders()
	return 0
}

// closeOnExec keeps every descriptor from the commands: init's own, and those
// that whoever started the supervisor left open.
func closeOnExec() {
	if unix.CloseRange(initSocket, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd") // a kernel before 5.11
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= initSocket {
			unix.CloseOnExec(fd)
		}
	}
}
