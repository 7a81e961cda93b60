package fmaster

import "github.com/SumiTomohiko/nexec/fsyscall"

// overflowID is what the kernel shows for an owner that the mount's user
// namespace does not know.
const overflowID = 65534

// idMap translates owners. The client's user appears as the session's user.
// Where every number is valid in the mount's user namespace the others appear
// as they are. Where only the session's own is (an ordinary user's session),
// any other owner has to appear as nobody, and the kernel then refuses every
// write to the file whatever its mode; so what the client's user may write
// appears as the session's user's, and only the rest as nobody's.
type idMap struct {
	clientUID, clientGID uint32
	uid, gid             uint32
	all                  bool
}

func newIDMap(cfg *Config) idMap {
	return idMap{
		clientUID: cfg.Hello.UID, clientGID: cfg.Hello.GID,
		uid: cfg.UID, gid: cfg.GID, all: cfg.MappedIDs,
	}
}

// out returns the owner that the kernel is told.
func (m idMap) out(a *fsyscall.Attr) (uid, gid uint32) {
	writable := a.Access&accessW != 0 && a.Flags&fsyscall.AttrReadOnly == 0
	return m.one(a.UID, m.clientUID, m.uid, writable), m.one(a.GID, m.clientGID, m.gid, writable || a.UID == m.clientUID)
}

func (m idMap) one(id, client, session uint32, writable bool) uint32 {
	switch {
	case id == client:
		return session
	case m.all:
		return id
	case writable:
		return session
	}
	return overflowID
}

// inUID and inGID return the client's number for an owner that a program gave.
func (m idMap) inUID(id uint32) uint32 {
	if id == m.uid {
		return m.clientUID
	}
	return id
}

func (m idMap) inGID(id uint32) uint32 {
	if id == m.gid {
		return m.clientGID
	}
	return id
}
