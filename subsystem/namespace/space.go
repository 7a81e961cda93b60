package namespace

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// Config describes the namespaces of a session.
type Config struct {
	Identity Identity
	Plan     *Plan
	// Agent is the socket of the user's agent on the server, which the view
	// gets at AgentPath; empty for none.
	Agent string
}

// Space is the supervisor's handle on a session's init. Its methods may be
// called concurrently.
//
// One goroutine runs init and waits for its end, one reads its packets; Close
// joins both.
type Space struct {
	socket *net.UnixConn
	userns bool
	stderr tail

	device chan *os.File
	ready  chan struct{}
	events chan Event
	gone   chan struct{} // closed when init is reaped and all packets are read

	// Written before ready or gone is closed, read after.
	failure *Failure
	notes   []string

	closing sync.Once
}

// EventKind says what an Event tells.
type EventKind uint8

const (
	Started EventKind = 1 // Cmd, Stage, Errno, PID, Master
	Stopped EventKind = 2 // Cmd, Signal
	Ended   EventKind = 3 // Cmd, Signal, Core, Code, Off
)

// Event is news of a command. Started comes first; if its Stage is not
// ExecStarted it is the only one. Ended comes last.
type Event struct {
	Kind   EventKind
	Cmd    uint32
	Stage  fsyscall.ExecStage
	Errno  fsyscall.Errno
	PID    uint32
	Master *os.File // the command's terminal; the receiver closes it
	Signal uint8
	Core   bool
	Code   uint8
	Off    [3]uint64 // final offsets of streams of kind StdioFile
}

// maxEvents bounds the events waiting to be received; init waits when there
// are more.
const maxEvents = 64

// Start starts init. The caller then serves [Space.Device], waits for
// [Space.Ready], and in the end calls [Space.Close]. Errors, here and there, are
// of type *Failure.
func Start(cfg Config) (*Space, error) {
	s := &Space{
		userns: !realRoot(),
		device: make(chan *os.File, 1),
		ready:  make(chan struct{}),
		events: make(chan Event, maxEvents),
		gone:   make(chan struct{}),
	}
	socket, theirs, err := socketPair()
	if err != nil {
		return nil, failure(fsyscall.FatalInternal, "make a socket pair", "", err)
	}
	defer theirs.Close()
	set := setup{identity: cfg.Identity, plan: cfg.Plan, userns: s.userns, agent: cfg.Agent}
	conf, err := memoryFile("setup", set.encode())
	if err != nil {
		socket.Close()
		return nil, failure(fsyscall.FatalInternal, "write the setup", "", err)
	}
	defer conf.Close()
	s.socket = socket
	if err := s.launch(theirs, conf); err != nil {
		socket.Close()
		return nil, err
	}
	return s, nil
}

// realRoot tells whether this process may mount in the namespaces it is in.
func realRoot() bool {
	if os.Geteuid() != 0 {
		return false
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// prompt lets a program built with the race detector exit at once; others do
// not look at it.
const prompt = "GORACE=atexit_sleep_ms=0"

// command returns init's process, ready to be started.
func (s *Space) command(socket, conf *os.File) *exec.Cmd {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	if s.userns {
		uid, gid := os.Geteuid(), os.Getegid()
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		// To mount, and to give up the bounding set for good.
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
	}
	return &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{initName},
		Env:         []string{"GOTRACEBACK=single", prompt},
		Dir:         "/",
		Stderr:      &s.stderr,
		ExtraFiles:  []*os.File{socket, conf},
		SysProcAttr: attr,
	}
}

// launch starts init and the goroutines that belong to it.
func (s *Space) launch(socket, conf *os.File) error {
	cmd := s.command(socket, conf)
	started := make(chan error)
	reaped := make(chan struct{})
	go func() {
		// The kernel sends init its death signal when this thread ends, so
		// the thread lives as long as init and is not given back.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // how it ended is told by packets, or by their absence
		}
		close(reaped)
	}()
	if err := <-started; err != nil {
		return launchFailure(err)
	}
	go func() {
		s.receive()
		cmd.Process.Kill() // without packets there is nothing left to do for init
		<-reaped
		close(s.events)
		close(s.gone)
	}()
	return nil
}

// launchFailure tells a refusal of the namespaces from other errors.
func launchFailure(err error) *Failure {
	var p *fs.PathError
	if !errors.As(err, &p) || p.Op != "fork/exec" {
		return failure(fsyscall.FatalInternal, "start the session's first process", "", err)
	}
	f := failure(fsyscall.FatalNamespaces, "make the session's namespaces", "", err)
	f.Note = namespaceAdvice()
	return f
}
