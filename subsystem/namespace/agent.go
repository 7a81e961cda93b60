package namespace

import (
	"path"

	"golang.org/x/sys/unix"
)

// AgentPath is where the view has the user's agent. The directory is the
// session's own, so nothing of either side is covered.
const AgentPath = "/dev/shm/nexec-agent"

// openAgent opens the agent's socket before anything can be covered. It is
// the front door's, in a place that the view may take from the client.
func (b *builder) openAgent() {
	b.agentFD = -1
	if b.agent == "" {
		return
	}
	fd, err := unix.Open(b.agent, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil && kindOf(fd) != unix.S_IFSOCK {
		unix.Close(fd)
		err = unix.ENOTSOCK
	}
	if err != nil {
		b.notes = append(b.notes, "no agent: "+b.agent+": "+err.Error())
		return
	}
	b.agentFD = fd
}

// placeAgent mounts the socket on a file of the session's /dev/shm. A session
// without it is still one.
func (b *builder) placeAgent() {
	if b.agentFD < 0 {
		return
	}
	defer unix.Close(b.agentFD)
	if err := b.bindAgent(); err != nil {
		b.notes = append(b.notes, "no agent: "+AgentPath+": "+err.Error())
	}
}

func (b *builder) bindAgent() error {
	dir, err := b.at(path.Dir(AgentPath))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	// By its path: a descriptor of O_PATH cannot be created in.
	name := fdPath(dir) + "/" + path.Base(AgentPath)
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Mount(fdPath(b.agentFD), fdPath(fd), "", unix.MS_BIND, "")
}
