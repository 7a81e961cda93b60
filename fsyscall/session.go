package fsyscall

// Streams of the relay link. Each end knows them by number; none is opened.
const (
	// StreamControl carries hello, exec, signals, exit.
	StreamControl uint32 = 0
	// StreamCalls carries calls that need not wait for earlier changes, with
	// small replies and revocations the other way.
	StreamCalls uint32 = 1
	// StreamOrdered carries, to the client, changes and all calls that must
	// see them, in order.
	StreamOrdered uint32 = 2
	// StreamBulk carries large replies to the server.
	StreamBulk uint32 = 3

	streamsFirstCommand uint32 = 16
	streamsPerCommand   uint32 = 4
)

// MaxCommand bounds the numbers of commands within a session.
const MaxCommand = 1 << 20

// StdioStream returns the number of the byte stream for standard stream slot
// (0, 1, 2) of command cmd; slot 3 is its terminal, which carries both ways.
func StdioStream(cmd uint32, slot int) uint32 {
	return streamsFirstCommand + streamsPerCommand*cmd + uint32(slot)
}

// TerminalSlot is the slot of a command's terminal stream.
const TerminalSlot = 3

// ViewRule says which side a tree of the view comes from. The longest path
// that is the path asked for, or above it, decides.
type ViewRule struct {
	Path   string // absolute, clean
	Remote bool   // from the server rather than from the client
}

// Hello opens a session. It is the client's first message, on StreamControl.
type Hello struct {
	Version uint16
	// Secret proves, in a later connection, that it belongs to this session.
	Secret [32]byte
	// The identity that the client's file service acts with.
	UID, GID uint32
	Groups   []uint32
	User     string
	Home     string
	Hostname string
	// Now is the client's clock when it sent this.
	Now Time
	// View has every rule, the defaults included, the root first.
	View []ViewRule
	// Prefetched are the paths that the client has asked its file service for in
	// the server's stead (see Prefetch), at most MaxPrefetch.
	Prefetched []string
	// StdioAsked is the set of the standard streams of command 0, bit 0 for the
	// standard input, of which it has asked too.
	StdioAsked uint8
	// Machine is a secret by which the client's files are known in caches that
	// outlive the session. Zero: no content may be kept for later sessions.
	Machine [32]byte
	// Sync: each change is on the client before its system call returns.
	Sync bool
	// NoCache: nothing is kept on the server between calls.
	NoCache bool
	// Trace asks for statistics in Exit.
	Trace bool
}

const (
	maxGroups = 1 << 16 // NGROUPS_MAX
	maxRules  = 1024
	maxString = 4096
)

func (m *Hello) fields(c *coder) {
	c.u16(&m.Version)
	if c.err == nil && m.Version != Version {
		// What follows may have any shape: the receiver answers with a Fatal.
		c.buf = c.buf[len(c.buf)*btoi(c.reading):]
		return
	}
	for i := range m.Secret {
		c.u8(&m.Secret[i])
	}
	c.u32(&m.UID)
	c.u32(&m.GID)
	slice(c, &m.Groups, maxGroups, c.u32)
	c.string(&m.User, maxString)
	c.string(&m.Home, maxString)
	c.string(&m.Hostname, maxString)
	c.time(&m.Now)
	slice(c, &m.View, maxRules, func(r *ViewRule) {
		c.string(&r.Path, MaxTarget)
		c.bool(&r.Remote)
	})
	slice(c, &m.Prefetched, MaxPrefetch, func(p *string) { c.string(p, MaxTarget) })
	c.u8(&m.StdioAsked)
	for i := range m.Machine {
		c.u8(&m.Machine[i])
	}
	c.bool(&m.Sync)
	c.bool(&m.NoCache)
	c.bool(&m.Trace)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Welcome answers Hello. Nothing waits for it: the client has sent its first
// Exec with the Hello.
type Welcome struct {
	Version  uint16
	UID, GID uint32 // the session's identity on the server
	User     string // the login's name on the server
	Hostname string
	PID      uint32 // of nexec-server
}

func (m *Welcome) fields(c *coder) {
	c.u16(&m.Version)
	c.u32(&m.UID)
	c.u32(&m.GID)
	c.string(&m.User, maxString)
	c.string(&m.Hostname, maxString)
	c.u32(&m.PID)
}

// StdioKind is what one of the client's standard streams is.
type StdioKind uint8

const (
	StdioClosed   StdioKind = 0 // not open: the command has none either
	StdioNull     StdioKind = 1 // /dev/null
	StdioStreamed StdioKind = 2 // a pipe, socket or device: bytes on a stream
	StdioTerminal StdioKind = 3 // the session's terminal
	StdioFile     StdioKind = 4 // a regular file or directory: see StdioNode
)

// Stdio describes one standard stream.
type Stdio struct {
	Kind StdioKind
	// DupOf is the lower stream that this one is a duplicate of, or -1.
	DupOf int32
	// Access mode and O_APPEND of a file, and its offset.
	Flags  OpenFlags
	Append bool
	Off    uint64
}

func (c *coder) stdio(s *Stdio) {
	c.u8((*uint8)(&s.Kind))
	c.i32(&s.DupOf)
	c.openFlags(&s.Flags)
	c.bool(&s.Append)
	c.u64(&s.Off)
	if c.err == nil && (s.Kind > StdioFile || s.DupOf < -1 || s.DupOf > 1 || s.Off > 1<<63-1) {
		c.fail("standard stream of kind %d, duplicate of %d", s.Kind, s.DupOf)
	}
}

// Termios is struct termios of Linux, with the speeds in bits per second.
type Termios struct {
	Iflag, Oflag, Cflag, Lflag uint32
	Cc                         [19]uint8
	Ispeed, Ospeed             uint32
}

// Size is a terminal's size.
type Size struct{ Rows, Cols, XPixel, YPixel uint16 }

func (c *coder) size(s *Size) {
	c.u16(&s.Rows)
	c.u16(&s.Cols)
	c.u16(&s.XPixel)
	c.u16(&s.YPixel)
}

// Terminal describes the terminal that a command gets.
type Terminal struct {
	Termios Termios
	Size    Size
}

// Rlimit is a resource limit with Linux's number; 1<<64-1 is no limit.
type Rlimit struct {
	Resource uint8
	Cur, Max uint64
}

// Exec asks for a command. Numbers of commands rise from zero.
type Exec struct {
	Cmd  uint32
	Argv []string // argv as given; empty: the login shell
	Env  []string // NAME=VALUE, already filtered by the client
	Cwd  string   // absolute, in the view
	// Umask and Limits are the client's.
	Umask  uint32
	Limits []Rlimit
	// Ignored is the set of signals that the client ignores, bit N-1 for
	// signal N: the command is started with them ignored.
	Ignored uint64
	Stdio   [3]Stdio
	// HasTerminal: Terminal counts and the command gets a controlling
	// terminal, whether or not one of its standard streams is it.
	HasTerminal bool
	Terminal    Terminal
	// Expected is what the command used when it ran last, and will want again.
	Expected []Use
}

const (
	maxArgs   = 1 << 17
	maxLimits = 32
)

func (m *Exec) fields(c *coder) {
	c.u32(&m.Cmd)
	slice(c, &m.Argv, maxArgs, func(s *string) { c.string(s, MaxExec) })
	slice(c, &m.Env, maxArgs, func(s *string) { c.string(s, MaxExec) })
	c.string(&m.Cwd, MaxTarget)
	c.u32(&m.Umask)
	slice(c, &m.Limits, maxLimits, func(l *Rlimit) {
		c.u8(&l.Resource)
		c.u64(&l.Cur)
		c.u64(&l.Max)
	})
	c.u64(&m.Ignored)
	for i := range m.Stdio {
		c.stdio(&m.Stdio[i])
	}
	c.bool(&m.HasTerminal)
	t := &m.Terminal.Termios
	for _, p := range []*uint32{&t.Iflag, &t.Oflag, &t.Cflag, &t.Lflag, &t.Ispeed, &t.Ospeed} {
		c.u32(p)
	}
	for i := range t.Cc {
		c.u8(&t.Cc[i])
	}
	c.size(&m.Terminal.Size)
	c.uses(&m.Expected)
	if c.err == nil && (m.Cmd >= MaxCommand || m.Umask > 0o777) {
		c.fail("command %d, umask %#o", m.Cmd, m.Umask)
	}
}

// ExecStage is where starting a command failed.
type ExecStage uint8

const (
	ExecStarted ExecStage = 0
	ExecCwd     ExecStage = 1 // the working directory
	ExecProgram ExecStage = 2 // finding or executing the program
	ExecStdio   ExecStage = 3 // a standard stream
	ExecLimits  ExecStage = 4 // a resource limit
	ExecFork    ExecStage = 5 // making the process
	ExecDenied  ExecStage = 6 // the server's administrator does not allow it
)

// ExecReply says whether the command runs.
type ExecReply struct {
	Stage ExecStage
	Errno Errno
	PID   uint32 // in the session's own numbers
}

func (m *ExecReply) fields(c *coder) {
	c.u8((*uint8)(&m.Stage))
	c.u16((*uint16)(&m.Errno))
	c.u32(&m.PID)
	if c.err == nil && (m.Stage > ExecDenied || (m.Stage == ExecStarted) != (m.Errno == 0)) {
		c.fail("exec stage %d, error %d", m.Stage, m.Errno)
	}
}

// Signal sends a signal to the foreground process group of a command.
type Signal struct {
	Cmd uint32
	Sig uint8
}

func (m *Signal) fields(c *coder) {
	c.u32(&m.Cmd)
	c.u8(&m.Sig)
	if c.err == nil && (m.Sig == 0 || m.Sig > 64) {
		c.fail("signal %d", m.Sig)
	}
}

// Winsize says that the client's terminal has a new size.
type Winsize struct {
	Cmd  uint32
	Size Size
}

func (m *Winsize) fields(c *coder) {
	c.u32(&m.Cmd)
	c.size(&m.Size)
}

// Stopped says that the command was stopped by a signal; a Signal of SIGCONT
// makes it go on.
type Stopped struct {
	Cmd uint32
	Sig uint8
}

func (m *Stopped) fields(c *coder) {
	c.u32(&m.Cmd)
	c.u8(&m.Sig)
}

// LostWrite is a change that could not be applied on the client and that the
// command was not told of.
type LostWrite struct {
	Path  string
	Errno Errno
}

// Exit says how a command ended. It comes after the last byte of the
// command's streams and after every change it made was answered.
type Exit struct {
	Cmd uint32
	// Signal is zero when the command exited, with status Code.
	Signal uint8
	Core   bool
	Code   uint8
	// Off has the final offsets of standard streams of kind StdioFile.
	Off [3]uint64
	// After, if not zero, is the tag of a call of the server, a barrier behind the
	// command's last change. Unless Sure, an Exit holds once that was answered
	// and if no change before it was refused; another one, which is sure, follows.
	After uint32
	Sure  bool
	// Lost has at most MaxLost of the LostCount changes lost.
	Lost      []LostWrite
	LostCount uint32
	// Stats is text for --stats, empty unless Hello.Trace asked for it.
	Stats []byte
	// Used is what the first command of a session used of the client's files,
	// parents before children. It may be incomplete.
	Used []Use
}

// MaxLost bounds the paths named in an Exit.
const MaxLost = 64

func (m *Exit) fields(c *coder) {
	c.u32(&m.Cmd)
	c.u8(&m.Signal)
	c.bool(&m.Core)
	c.u8(&m.Code)
	for i := range m.Off {
		c.u64(&m.Off[i])
	}
	c.u32(&m.After)
	c.bool(&m.Sure)
	slice(c, &m.Lost, MaxLost, func(l *LostWrite) {
		c.string(&l.Path, MaxTarget)
		c.u16((*uint16)(&l.Errno))
	})
	c.u32(&m.LostCount)
	c.bytes(&m.Stats, MaxXattr)
	c.uses(&m.Used)
}

// FatalCode is a reason why a session cannot go on.
type FatalCode uint16

const (
	FatalVersion    FatalCode = 1 // the other protocol version; Detail has ours
	FatalProtocol   FatalCode = 2 // a message that breaks the protocol
	FatalFUSE       FatalCode = 3 // no /dev/fuse, or it cannot be mounted
	FatalNamespaces FatalCode = 4 // user namespaces are forbidden here
	FatalView       FatalCode = 5 // a tree of the view cannot be mounted; Detail is its path
	FatalInternal   FatalCode = 6
	FatalDenied     FatalCode = 7 // the administrator does not allow it
	FatalInit       FatalCode = 8 // the session's first process was killed
	FatalFiles      FatalCode = 9 // the client's file service ended
)

// Fatal ends the session. Detail is data, never shown without being made
// printable first.
type Fatal struct {
	Code   FatalCode
	Errno  Errno
	Detail string
}

func (m *Fatal) fields(c *coder) {
	c.u16((*uint16)(&m.Code))
	c.u16((*uint16)(&m.Errno))
	c.string(&m.Detail, maxString)
}
