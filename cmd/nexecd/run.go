package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/sys/unix"
)

func run(o *options, stdout, stderr io.Writer) error {
	// Whatever we were started with is not for the programs that we start.
	// What we were given on purpose is taken from its descriptor later.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	// A log that nobody reads any more must not end us. Ignoring the signal
	// would make the programs that we start ignore it.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	cfg, err := readConfig(o)
	if err != nil {
		return err
	}
	if o.dump {
		return dump(o, cfg, stdout)
	}
	out, err := openLog(o.logFile, stderr)
	if err != nil {
		return err
	}
	defer out.close()
	log := newLog(out, cfg)
	sc, err := serverConfig(cfg, o.check, stderr, log)
	if err != nil {
		return err
	}
	if o.check {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	d := &daemon{options: o, self: self, log: log, out: out, stderr: stderr, server: sshserver.New(sc)}
	if o.inetd {
		return d.serveStdin()
	}
	return d.serve(cfg)
}

// subsystems are the handlers that the configuration asks for: nexec, by
// nexec-server beside this program unless Subsystem names another one.
func subsystems(cfg *sshdconfig.Config) (map[string]sshserver.Handler, error) {
	argv := []string{}
	for _, sub := range cfg.Global.Subsystems {
		if sub.Name == "nexec" {
			argv = sub.Command
		}
	}
	if len(argv) == 1 {
		argv = strings.Fields(argv[0])
	}
	if len(argv) == 0 {
		path, err := findServer()
		if err != nil {
			return nil, err
		}
		argv = []string{path}
	}
	if !filepath.IsAbs(argv[0]) {
		return nil, fmt.Errorf("Subsystem nexec %s: not an absolute path", argv[0])
	}
	if info, err := os.Stat(argv[0]); err != nil {
		return nil, fmt.Errorf("Subsystem nexec: %w", err)
	} else if info.Mode()&0o111 == 0 || info.IsDir() {
		return nil, fmt.Errorf("Subsystem nexec %s: not executable", argv[0])
	}
	return map[string]sshserver.Handler{
		"nexec": &sshserver.Program{Path: argv[0], Args: argv[1:], Policy: policy, Report: logReport},
	}, nil
}

// libexec is where packages put nexec-server.
const libexec = "/usr/lib/nexec/nexec-server"

// findServer finds nexec-server beside nexecd, as built, or where `make install`
// puts it under the same prefix.
func findServer() (string, error) {
	places := []string{libexec}
	if self, err := os.Executable(); err == nil {
		dir := filepath.Dir(self)
		places = []string{filepath.Join(dir, "nexec-server"), filepath.Join(dir, "../lib/nexec/nexec-server"), libexec}
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no nexec-server at %s; name it with Subsystem nexec PATH", strings.Join(places, ", "))
}
