// Package namespace gives a session its own processes and its own file tree.
// Every privileged system call of the server's side is in here.
//
// # Processes
//
// [Start] re-executes the running program as init, pid 1 of new mount and pid
// namespaces; an ordinary user's session gets a user namespace too, which maps
// the user's own uid and gid to themselves and nothing else. The program must
// therefore call [Main] before anything else. init mounts FUSE inside, hands
// the descriptor to the supervisor, and builds the view around it:
//
//	supervisor                    init
//	Start ── clone, exec ───────► mount FUSE
//	Space ◄── /dev/fuse ───────── mount the server's trees, /proc, …; pivot
//	Ready ◄── ready ─────────────
//	Run ───── run ──────────────► fork, exec stage, CMD
//	Events ◄─ started, stopped, ended
//	Close ─── close ────────────► hang up, wait, exit; the kernel kills the rest
//
// The two talk over a SOCK_SEQPACKET pair (packet.go). init dies when the
// supervisor does: by PR_SET_PDEATHSIG, and by the end of file on that socket.
// With it the kernel kills every process of the pid namespace, and the mounts
// go with the last of them.
//
// # Commands
//
// A command is started through the exec stage: the same program once more,
// which sets limits, umask, working directory and signals, gives up what
// privilege there is, and executes. It reports where it failed on a pipe that
// a successful execution closes.
//
// A command gets a process group of its own in init's session, so that it can
// be stopped as in a shell (a process group whose parent is in another session
// ignores SIGTSTP). init's session has one controlling terminal at most: a
// command that starts while another one runs, and either has a terminal, gets
// a session of its own instead.
//
// # Privilege
//
// A user's commands run with no_new_privs and without any capability, the
// bounding set included. Where the session is root's, commands keep root's
// capabilities, as they do over ssh.
package namespace
