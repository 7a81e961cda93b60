package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
	"golang.org/x/sys/unix"
)

func run(o *options, stdout, stderr io.Writer) error {
	// Whatever we were started with is not for the programs that we start.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	cfg, err := readConfig(o)
	if err != nil {
		return err
	}
	if o.dump {
		return dump(o, cfg, stdout)
	}
	log, closeLog, err := newLog(o, cfg, stderr)
	if err != nil {
		return err
	}
	defer closeLog()
	sc, err := serverConfig(cfg, stderr, log)
	if err != nil {
		return err
	}
	handlers, err := subsystems(cfg)
	if err != nil {
		return err
	}
	if o.check {
		return nil
	}
	d := &daemon{options: o, log: log, stderr: stderr, server: sshserver.New(sc, handlers, log)}
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
		"nexec": &sshserver.Program{Path: argv[0], Args: argv[1:], Policy: policy},
	}, nil
}

// libexec is where packages put nexec-server.
const libexec = "/usr/lib/nexec/nexec-server"

func findServer() (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), "nexec-server")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	if _, err := os.Stat(libexec); err == nil {
		return libexec, nil
	}
	return "", fmt.Errorf("nexec-server is neither beside nexecd nor at %s; name it with Subsystem nexec PATH", libexec)
}

// daemon is nexecd while it serves.
type daemon struct {
	options   *options
	log       *slog.Logger
	stderr    io.Writer
	server    *sshserver.Server
	listeners []*net.TCPListener
	serving   sync.WaitGroup
}

func (d *daemon) serve(cfg *sshdconfig.Config) error {
	if err := d.listen(cfg); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	defer signal.Stop(signals)
	for _, l := range d.listeners {
		d.serving.Go(func() {
			if err := d.server.Serve(l); !errors.Is(err, sshserver.ErrServerClosed) {
				d.log.Error("listener ended", "error", err)
			}
		})
	}
	<-signals
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Global.DrainTime)
	defer cancel()
	_ = d.server.Shutdown(ctx)
	d.serving.Wait()
	return nil
}

// listen opens every address of the configuration.
func (d *daemon) listen(cfg *sshdconfig.Config) error {
	network := map[string]string{"any": "tcp", "inet": "tcp4", "inet6": "tcp6"}[cfg.Global.AddressFamily]
	for _, a := range cfg.Global.Addresses() {
		addr := net.JoinHostPort(a.Host, strconv.Itoa(max(a.Port, 0)))
		l, err := net.Listen(network, addr)
		if err != nil {
			return fmt.Errorf("cannot listen: %w", err)
		}
		d.listeners = append(d.listeners, l.(*net.TCPListener))
		d.log.Info("Server listening", "address", l.Addr().String())
	}
	return nil
}
