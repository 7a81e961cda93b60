// Package dial is the client's way to a host: from what the user typed to a
// byte stream to a subsystem there.
//
// It decides as OpenSSH's client does, from the same files: ssh_config(5),
// known_hosts, key files, the agent, jump hosts, proxy commands and control
// sockets. What OpenSSH would do and this package cannot do, it refuses; it
// never connects on a guess. doc/ssh_config.md has every keyword and what
// becomes of it here, doc/roundtrips.md what a connection costs.
//
//	conn, err := dial.Dial(ctx, dial.Options{Destination: "alice@build9"})
//	ch, err := conn.OpenSubsystem(ctx, "nexec")
//	... // ch is an io.ReadWriteCloser
//	conn.Close()
//
// Errors are one line each and say what to do next. Longer warnings, with
// OpenSSH's words, go to Options.Stderr before.
package dial
