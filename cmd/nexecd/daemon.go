package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/SumiTomohiko/nexec/sshserver"
	"github.com/SumiTomohiko/nexec/sshserver/sshdconfig"
)

// daemon is nexecd while it serves.
type daemon struct {
	options *options
	self    string // the program, as it was named at the start
	out     *logOutput
	stderr  io.Writer
	server  *sshserver.Server
	serving sync.WaitGroup

	// Only the goroutine of serve uses the rest.
	log *slog.Logger
	places
	listeners map[string]net.Listener // by what they were asked for as
	drainTime time.Duration
}

// serve is the daemon's life. Signals move it on:
//
//	           HUP: configuration and host keys are read again
//	            ┌──┐
//	start ──► serving ──TERM, INT──► draining ──2nd TERM, or DrainTime──► end
//	            │                       ▲  └──last session gone───────────►┘
//	            └──USR2: the program is started anew, with the listeners,
//	                 and serves; then ──► retired ──last connection gone──► end
//	                                        └──TERM──► draining
func (d *daemon) serve(cfg *sshdconfig.Config) error {
	d.drainTime, d.pidFile = cfg.Global.DrainTime, cfg.Global.PidFile
	// First of all: whoever sees us listening may send them.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if err := d.listen(cfg); err != nil {
		return err
	}
	var err error
	if d.metrics, err = serveMetrics(cfg.Global.MetricsSocket, d.server.Metrics()); err != nil {
		d.server.Close()
		d.serving.Wait()
		return err
	}
	defer func() { d.metrics.close() }()
	if err := writePID(d.pidFile); err != nil {
		d.server.Close()
		d.serving.Wait()
		return err
	}
	d.ready()
	for {
		switch <-signals {
		case syscall.SIGHUP:
			d.reload()
		case syscall.SIGUSR2:
			if pid, err := d.upgrade(); err != nil {
				d.log.Error("upgrade failed; going on as before", "error", err)
			} else {
				d.metrics.close()
				d.retire(pid, signals)
				return nil
			}
		default:
			d.shutdown(signals)
			removePID(d.pidFile)
			d.metrics.remove()
			return nil
		}
	}
}

// shutdown lets sessions go on for a while. A second signal ends that.
func (d *daemon) shutdown(signals <-chan os.Signal) {
	d.log.Info("Received SIGTERM; draining", "seconds", d.drainTime.Seconds())
	notify("STOPPING=1")
	ctx, cancel := context.WithTimeout(context.Background(), d.drainTime)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if d.server.Shutdown(ctx) != nil {
			d.log.Info("sessions were ended")
		}
	}()
	select {
	case <-done:
	case <-signals:
		cancel()
		<-done
	}
	d.serving.Wait()
}

// retire serves what is left after another process has taken over.
func (d *daemon) retire(pid int, signals <-chan os.Signal) {
	notify(fmt.Sprintf("MAINPID=%d\nREADY=1", pid))
	d.server.StopListening()
	d.serving.Wait()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		d.server.Wait()
	}()
	for {
		select {
		case <-gone:
			d.server.Close()
			return
		case sig := <-signals:
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				d.shutdown(signals)
				<-gone
				return
			}
		}
	}
}

// reload reads configuration and host keys again and opens the log file anew.
// Should anything be wrong, everything stays as it was. Connections that there
// are keep what they began with.
func (d *daemon) reload() {
	notify(reloading())
	defer notify("READY=1")
	if err := d.reread(); err != nil {
		d.log.Error("Received SIGHUP; the configuration is wrong and the old one stays", "error", err)
		return
	}
	d.log.Info("Received SIGHUP; configuration and host keys were read")
}

func (d *daemon) reread() error {
	cfg, err := readConfig(d.options)
	if err != nil {
		return err
	}
	if err := d.out.reopen(); err != nil {
		return err
	}
	log := newLog(d.out, cfg)
	sc, err := serverConfig(cfg, false, d.stderr, log)
	if err != nil {
		return err
	}
	old := d.places
	if err = d.move(cfg); err == nil {
		err = d.listen(cfg)
	}
	if err != nil {
		d.places.leave(old)
		d.places = old
		return err
	}
	old.leave(d.places)
	d.log, d.drainTime = log, cfg.Global.DrainTime
	d.server.Reload(sc)
	return nil
}

// move takes another MetricsSocket and PidFile, if they are other ones. It
// leaves the old ones where they are.
func (d *daemon) move(cfg *sshdconfig.Config) error {
	if cfg.Global.MetricsSocket != d.metrics.path {
		fresh, err := serveMetrics(cfg.Global.MetricsSocket, d.server.Metrics())
		if err != nil {
			return err
		}
		d.metrics = fresh
	}
	if cfg.Global.PidFile != d.pidFile {
		if err := writePID(cfg.Global.PidFile); err != nil {
			return err
		}
		d.pidFile = cfg.Global.PidFile
	}
	return nil
}

// places are where others find the daemon.
type places struct {
	metrics *metrics
	pidFile string
}

// leave gives up what is not also to be kept.
func (p places) leave(keep places) {
	if p.metrics != keep.metrics {
		p.metrics.close()
		p.metrics.remove()
	}
	if p.pidFile != keep.pidFile {
		removePID(p.pidFile)
	}
}

// listen makes the listeners those of the configuration: what is new is
// opened, what is gone is closed. Sockets that we were given at the start stay.
func (d *daemon) listen(cfg *sshdconfig.Config) error {
	wanted := wantedAddresses(cfg)
	if d.listeners == nil {
		d.listeners = map[string]net.Listener{}
		if err := d.takeListeners(wanted); err != nil {
			return err
		}
	}
	if d.listeners[activated] != nil {
		return nil
	}
	opened := map[string]net.Listener{}
	for key, open := range wanted {
		if d.listeners[key] != nil {
			continue
		}
		l, err := open()
		if err != nil {
			for _, l := range opened {
				l.Close()
			}
			return fmt.Errorf("cannot listen: %w", err)
		}
		opened[key] = l
	}
	for key, l := range d.listeners {
		if wanted[key] == nil {
			d.log.Info("Server stops listening", "address", l.Addr().String())
			l.Close()
			delete(d.listeners, key)
		}
	}
	for key, l := range opened {
		d.add(key, l)
	}
	return nil
}

func (d *daemon) add(key string, l net.Listener) {
	d.listeners[key] = l
	log := d.log
	log.Info("Server listening", "address", l.Addr().String())
	d.serving.Go(func() {
		if err := d.server.Serve(l); !errors.Is(err, sshserver.ErrServerClosed) {
			log.Error("listener ended", "error", err)
		}
	})
}

// wantedAddresses are the configuration's listeners, not opened yet.
func wantedAddresses(cfg *sshdconfig.Config) map[string]func() (net.Listener, error) {
	network := map[string]string{"any": "tcp", "inet": "tcp4", "inet6": "tcp6"}[cfg.Global.AddressFamily]
	wanted := map[string]func() (net.Listener, error){}
	for _, a := range cfg.Global.Addresses() {
		addr := net.JoinHostPort(a.Host, strconv.Itoa(max(a.Port, 0)))
		wanted[network+" "+addr] = func() (net.Listener, error) { return net.Listen(network, addr) }
	}
	return wanted
}

func writePID(path string) error {
	if path == "" {
		return nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return fmt.Errorf("PidFile: %w", err)
	}
	return nil
}

// removePID removes the file if it is still about us.
func removePID(path string) {
	if path == "" {
		return
	}
	if text, err := os.ReadFile(path); err == nil && string(text) == strconv.Itoa(os.Getpid())+"\n" {
		_ = os.Remove(path)
	}
}
