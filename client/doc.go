// Package client is the nexec session on the user's machine: it starts the
// file service, opens the link, sends a command off with everything it needs
// in one flight, carries its streams, terminal and signals, and learns how it
// ended.
//
// # What runs
//
//	Run ─ loop            signals, replies, notices; the only one that decides
//	 ├─ pumps             one per standard stream: endpoint ↔ relay.Stream
//	 ├─ guard             a process that gives the terminal back if this one dies
//	 ├─ Session.receive   reads StreamControl
//	 ├─ Session.send      writes StreamControl, so that a dead link blocks nobody
//	 └─ fileService       fslave's process, its standard error, and
//	                      relay.Splice between it and the link
//
// # Sessions that stay
//
//	nexec ── socket ── master ── link ── nexec-server
//	  │                  └─ fslave
//	  └─ terminal, streams, signals
//
// A session may belong to a master (RunMaster), a process in the background.
// To the nexec of a command the master is its server: the same loop and pumps
// run there over a link on a Unix socket, and only the file service, the hello
// and the way to the host are somewhere else. The master renumbers commands,
// copies streams and hands files on to fslave; shared.go has what is said on
// the socket.
//
// # Teardown
//
// finish in run.go is the one place, and goes in this order: the terminal is
// given back; the waker ends pumps that wait for this side; the link is
// closed, which ends pumps and sender that wait for the other; fslave gets end
// of file, and a KILL if that is not enough; then every goroutine is joined.
package client
