package test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ancestorDescriptors has the checks of descriptors: a descriptor of either
// machine, or none, replaced by one of either.
func ancestorDescriptors() map[string]check {
	ours := func(t *testing.T, dir string) int { return open(t, put(t, dir+"/f", "client's"), unix.O_RDWR) }
	servers := func(t *testing.T, dir string) int { return open(t, serverFile, unix.O_RDONLY) }
	// replaces checks that dup2 onto a descriptor makes it read what the other reads.
	replaces := func(from, onto func(*testing.T, string) int) check {
		return func(t *testing.T, dir string) {
			a, b := from(t, dir), onto(t, dir)
			must(t, unix.Dup3(a, b, 0))
			var sa, sb unix.Stat_t
			must(t, unix.Fstat(a, &sa))
			must(t, unix.Fstat(b, &sb))
			if sa.Ino != sb.Ino || sa.Dev != sb.Dev {
				t.Errorf("inodes %d and %d", sa.Ino, sb.Ino)
			}
			if n, err := unix.Pread(b, make([]byte, 4), 0); n != 4 || err != nil {
				t.Error(n, err)
			}
		}
	}
	const unused = 700
	closed := func(t *testing.T, dir string) int {
		t.Cleanup(func() { unix.Close(unused) })
		return unused
	}
	accmode := func(name string, flags int) check {
		return func(t *testing.T, dir string) {
			put(t, dir+"/f", "")
			got, err := unix.FcntlInt(uintptr(open(t, dir+name, flags)), unix.F_GETFL, 0)
			must(t, err)
			if got&unix.O_ACCMODE != flags&unix.O_ACCMODE {
				t.Errorf("flags %o", got)
			}
		}
	}
	closes := func(which func(*testing.T, string) int) check {
		return func(t *testing.T, dir string) {
			fd, err := unix.Dup(which(t, dir))
			must(t, err)
			must(t, unix.Close(fd))
			wants(t, unix.Close(fd), unix.EBADF)
		}
	}
	return map[string]check{
		"close":  closes(ours),
		"close2": closes(servers),
		"close3": func(t *testing.T, dir string) { wants(t, unix.Close(unused), unix.EBADF) },
		"dup": func(t *testing.T, dir string) {
			a := ours(t, dir)
			b, err := unix.Dup(a)
			must(t, err)
			defer unix.Close(b)
			_, err = unix.Seek(a, 3, unix.SEEK_SET)
			must(t, err)
			if at, err := unix.Seek(b, 0, unix.SEEK_CUR); at != 3 || err != nil {
				t.Errorf("the offset is not shared: %d, %v", at, err)
			}
		},
		"dup_2": func(t *testing.T, dir string) { _, err := unix.Dup(unused); wants(t, err, unix.EBADF) },
		"dup_and_close": func(t *testing.T, dir string) {
			fd, err := unix.Open(put(t, dir+"/f", "text"), unix.O_RDONLY, 0)
			must(t, err)
			d, err := unix.Dup(fd)
			must(t, err)
			defer unix.Close(d)
			must(t, unix.Close(fd))
			if n, err := unix.Read(d, make([]byte, 4)); n != 4 || err != nil {
				t.Error(n, err)
			}
		},
		"dup2_closed2closed": func(t *testing.T, dir string) { wants(t, unix.Dup3(unused, unused+1, 0), unix.EBADF) },
		"dup2_closed2master": func(t *testing.T, dir string) {
			wants(t, unix.Dup3(unused, servers(t, dir), 0), unix.EBADF)
		},
		"dup2_closed2slave":  func(t *testing.T, dir string) { wants(t, unix.Dup3(unused, ours(t, dir), 0), unix.EBADF) },
		"dup2_master2closed": replaces(servers, closed),
		"dup2_master2master": replaces(servers, servers),
		"dup2_master2slave":  replaces(servers, ours),
		"dup2_slave2closed":  replaces(ours, closed),
		"dup2_slave2master":  replaces(ours, servers),
		"dup2_slave2slave":   replaces(ours, ours),
		"dup2_nothing": func(t *testing.T, dir string) {
			fd := ours(t, dir)
			shell(t, dir, `exec 7<"$1/f"; exec 7<&7; cat <&7`, "client's")
			must(t, unix.Close(must1(unix.Dup(fd))))
		},
		"fcntl": func(t *testing.T, dir string) {
			fd := open(t, dir+"/f", unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND)
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			must(t, err)
			if flags&unix.O_APPEND == 0 {
				t.Errorf("flags %o", flags)
			}
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_APPEND)
			must(t, err)
		},
		"fcntl_accmode_dir":       accmode("", unix.O_RDONLY),
		"fcntl_accmode_read":      accmode("/f", unix.O_RDONLY),
		"fcntl_accmode_readwrite": accmode("/f", unix.O_RDWR),
		"fcntl_accmode_write":     accmode("/f", unix.O_WRONLY),
		"fcntl_accmode_kqueue": func(t *testing.T, dir string) {
			fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			must(t, err)
			defer unix.Close(fd)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			must(t, err)
		},
		"ioctl": func(t *testing.T, dir string) {
			fd := ours(t, dir)
			_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
			wants(t, err, unix.ENOTTY)
		},
		"pipe": func(t *testing.T, dir string) { pipes(t, 0) },
		"pipe2": func(t *testing.T, dir string) {
			r, _ := pipes(t, 0)
			if flags, err := unix.FcntlInt(uintptr(r), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
				t.Error(flags, err)
			}
		},
		"pipe2_O_CLOEXEC": func(t *testing.T, dir string) {
			r, _ := pipes(t, unix.O_CLOEXEC)
			if flags, err := unix.FcntlInt(uintptr(r), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Error(flags, err)
			}
		},
		"pipe2_O_NONBLOCK": func(t *testing.T, dir string) {
			r, _ := pipes(t, unix.O_NONBLOCK)
			_, err := unix.Read(r, make([]byte, 1))
			wants(t, err, unix.EAGAIN)
		},
	}
}

func must1(fd int, err error) int {
	if err != nil {
		return -1
	}
	return fd
}

// pipes makes a pipe and passes some bytes through it.
func pipes(t testing.TB, flags int) (r, w int) {
	t.Helper()
	var p [2]int
	must(t, unix.Pipe2(p[:], flags))
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	_, err := unix.Write(p[1], []byte("abc"))
	must(t, err)
	buf := make([]byte, 8)
	n, err := unix.Read(p[0], buf)
	must(t, err)
	if string(buf[:n]) != "abc" {
		t.Errorf("%q came through the pipe", buf[:n])
	}
	return p[0], p[1]
}

// ancestorPolling has poll and select, over files of both machines and pipes.
func ancestorPolling() map[string]check {
	const ready = unix.POLLIN | unix.POLLOUT
	poll := func(t *testing.T, timeout int, fds ...unix.PollFd) []unix.PollFd {
		t.Helper()
		_, err := unix.Poll(fds, timeout)
		for err == unix.EINTR { // never restarted: signal(7)
			_, err = unix.Poll(fds, timeout)
		}
		must(t, err)
		return fds
	}
	has := func(t *testing.T, fd unix.PollFd, want int16) {
		t.Helper()
		if fd.Revents != want {
			t.Errorf("descriptor %d: %#x, want %#x", fd.Fd, fd.Revents, want)
		}
	}
	client := func(t *testing.T, dir string, flags int) unix.PollFd {
		return unix.PollFd{Fd: int32(open(t, put(t, dir+"/f", "x"), flags)), Events: ready}
	}
	server := func(t *testing.T) unix.PollFd {
		return unix.PollFd{Fd: int32(open(t, serverFile, unix.O_RDONLY)), Events: ready}
	}
	both := func(timeout int) check {
		return func(t *testing.T, dir string) {
			r, _ := pipes(t, 0)
			fds := poll(t, timeout, server(t), client(t, dir, unix.O_RDWR), unix.PollFd{Fd: int32(r), Events: unix.POLLIN})
			has(t, fds[0], ready)
			has(t, fds[1], ready)
			has(t, fds[2], 0)
		}
	}
	ignore := func(others func(*testing.T, string) []unix.PollFd) check {
		return func(t *testing.T, dir string) {
			fds := poll(t, 0, append([]unix.PollFd{{Fd: -1, Events: ready}}, others(t, dir)...)...)
			has(t, fds[0], 0)
			for _, fd := range fds[1:] {
				has(t, fd, ready)
			}
		}
	}
	atEOF := func(flags int) check {
		return func(t *testing.T, dir string) {
			fd := client(t, dir, flags)
			_, err := unix.Seek(int(fd.Fd), 0, unix.SEEK_END)
			must(t, err)
			fd.Events = unix.POLLIN
			has(t, poll(t, 0, fd)[0], unix.POLLIN)
		}
	}
	hangup := func(events, want int16) check {
		return func(t *testing.T, dir string) {
			var p [2]int
			must(t, unix.Pipe2(p[:], 0))
			unix.Close(p[1])
			defer unix.Close(p[0])
			has(t, poll(t, -1, unix.PollFd{Fd: int32(p[0]), Events: events})[0], want)
		}
	}
	selects := func(fd func(*testing.T, string) int) check {
		return func(t *testing.T, dir string) {
			f := fd(t, dir)
			var set unix.FdSet
			set.Set(f)
			n, err := unix.Select(f+1, &set, nil, nil, &unix.Timeval{Sec: 5})
			for err == unix.EINTR {
				set.Set(f)
				n, err = unix.Select(f+1, &set, nil, nil, &unix.Timeval{Sec: 5})
			}
			must(t, err)
			if n != 1 || !set.IsSet(f) {
				t.Errorf("%d ready", n)
			}
		}
	}
	return map[string]check{
		"poll_in":                        func(t *testing.T, dir string) { has(t, poll(t, -1, client(t, dir, unix.O_RDWR))[0], ready) },
		"poll_out":                       func(t *testing.T, dir string) { has(t, poll(t, -1, client(t, dir, unix.O_WRONLY))[0], ready) },
		"poll_master":                    func(t *testing.T, dir string) { has(t, poll(t, -1, server(t))[0], ready) },
		"poll_master_slave_blocking":     both(-1),
		"poll_master_slave_blocking2":    both(5000),
		"poll_master_slave_nonblocking":  both(0),
		"poll_master_slave_nonblocking2": both(1),
		"poll_POLLIN_eof_O_RDONLY":       atEOF(unix.O_RDONLY),
		"poll_POLLIN_eof_O_RDWR":         atEOF(unix.O_RDWR),
		"poll_POLLHUP":                   hangup(unix.POLLIN, unix.POLLHUP),
		"poll_POLLHUP2":                  hangup(0, unix.POLLHUP),
		"poll_ignore_fd":                 ignore(func(t *testing.T, dir string) []unix.PollFd { return nil }),
		"poll_ignore_fd_master":          ignore(func(t *testing.T, dir string) []unix.PollFd { return []unix.PollFd{server(t)} }),
		"poll_ignore_fd_slave":           ignore(func(t *testing.T, dir string) []unix.PollFd { return []unix.PollFd{client(t, dir, unix.O_RDWR)} }),
		"poll_ignore_fd_master_slave": ignore(func(t *testing.T, dir string) []unix.PollFd {
			return []unix.PollFd{server(t), client(t, dir, unix.O_RDWR)}
		}),
		"poll_POLLOUT_POLLHUP": func(t *testing.T, dir string) {
			var p [2]int
			must(t, unix.Pipe2(p[:], 0))
			unix.Close(p[0])
			defer unix.Close(p[1])
			has(t, poll(t, -1, unix.PollFd{Fd: int32(p[1]), Events: unix.POLLOUT})[0], unix.POLLOUT|unix.POLLERR)
		},
		"poll_timeout": func(t *testing.T, dir string) {
			r, _ := pipes(t, 0)
			start := time.Now()
			has(t, poll(t, 100, unix.PollFd{Fd: int32(r), Events: unix.POLLIN})[0], 0)
			if took := time.Since(start); took < 90*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		},
		"select":        selects(func(t *testing.T, dir string) int { return int(client(t, dir, unix.O_RDWR).Fd) }),
		"select_master": selects(func(t *testing.T, dir string) int { return int(server(t).Fd) }),
		"select2": selects(func(t *testing.T, dir string) int {
			r, w := pipes(t, 0)
			_, err := unix.Write(w, []byte("x"))
			must(t, err)
			return r
		}),
	}
}

// ancestorProcesses has the checks of processes, signals and threads.
func ancestorProcesses() map[string]check {
	waits := func(script string, want func(syscall.WaitStatus) bool) check {
		return func(t *testing.T, dir string) {
			c := exec.Command("/bin/sh", "-c", script)
			c.Run()
			if w := c.ProcessState.Sys().(syscall.WaitStatus); !want(w) {
				t.Errorf("%s: wait status %#x", script, w)
			}
		}
	}
	killed := func(script string) check {
		return func(t *testing.T, dir string) {
			c := exec.Command("/bin/sh", "-c", script)
			must(t, c.Start())
			time.Sleep(50 * time.Millisecond)
			must(t, c.Process.Kill())
			c.Wait()
			if w := c.ProcessState.Sys().(syscall.WaitStatus); w.Signal() != syscall.SIGKILL {
				t.Errorf("wait status %#x", w)
			}
		}
	}
	status := func(n int) func(syscall.WaitStatus) bool {
		return func(w syscall.WaitStatus) bool { return w.Exited() && w.ExitStatus() == n }
	}
	return map[string]check{
		"SIGKILL_poll":     killed("exec sleep 60"),
		"SIGKILL_wait4":    killed("sleep 2; exit 1"),
		"execve":           waits("exec true", status(0)),
		"exit":             waits("exit 0", status(0)),
		"exit2":            waits("exit 42", status(42)),
		"wait4_status":     waits("exit 7", status(7)),
		"wait4_successful": waits("true", status(0)),
		"kill":             waits("kill -TERM $$", func(w syscall.WaitStatus) bool { return w.Signal() == syscall.SIGTERM }),
		"sigprocmask":      waits("trap '' TERM; kill -TERM $$; exit 3", status(3)),
		"fork": func(t *testing.T, dir string) {
			shell(t, dir, `(echo child >"$1/c"); wait; cat "$1/c"`, "child\n")
		},
		"getpid": func(t *testing.T, dir string) {
			link, err := os.Readlink("/proc/self")
			must(t, err)
			if link != strconv.Itoa(unix.Getpid()) {
				t.Errorf("/proc/self is %s, getpid says %d", link, unix.Getpid())
			}
		},
		"thr_new": func(t *testing.T, dir string) {
			var wg sync.WaitGroup
			for i := range 32 {
				wg.Go(func() { os.WriteFile(dir+"/"+strconv.Itoa(i), []byte("x"), 0o600) })
			}
			wg.Wait()
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 32 {
				t.Errorf("%d files", len(entries))
			}
		},
		"wait4_ECHILD": func(t *testing.T, dir string) {
			_, err := unix.Wait4(unix.Getpid(), nil, 0, nil)
			wants(t, err, unix.ECHILD)
		},
		"wait4_WNOHANG": func(t *testing.T, dir string) {
			pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "0.2"}, nil)
			must(t, err)
			if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got != 0 || err != nil {
				t.Error(got, err)
			}
			if got, err := unix.Wait4(pid, nil, 0, nil); got != pid || err != nil {
				t.Error(got, err)
			}
		},
		"wait4_multithread": func(t *testing.T, dir string) {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if err := exec.Command("/bin/true").Run(); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		},
		"wait4_rusage": func(t *testing.T, dir string) {
			c := exec.Command("/bin/true")
			must(t, c.Run())
			if u := c.ProcessState.SysUsage().(*syscall.Rusage); u.Maxrss == 0 {
				t.Errorf("%+v", u)
			}
		},
	}
}

// ancestorIdentity has the checks of identity and time.
func ancestorIdentity() map[string]check {
	// ids checks a number of /proc/self/status, where the kernel says what the
	// system calls say, against the system call.
	ids := func(line string, column int, call func() int) check {
		return func(t *testing.T, dir string) {
			text, err := os.ReadFile("/proc/thread-self/status")
			must(t, err)
			_, after, _ := strings.Cut(string(text), "\n"+line+":")
			if got := strings.Fields(after)[column]; got != strconv.Itoa(call()) {
				t.Errorf("%s column %d is %s, the call says %d", line, column, got, call())
			}
		}
	}
	uid := func(i int) func() int {
		return func() int { r, e, s := unix.Getresuid(); return []int{r, e, s}[i] }
	}
	gid := func(i int) func() int {
		return func() int { r, e, s := unix.Getresgid(); return []int{r, e, s}[i] }
	}
	now := func(t *testing.T, dir string) {
		var tv unix.Timeval
		must(t, unix.Gettimeofday(&tv))
		if time.Since(time.Unix(tv.Unix())).Abs() > time.Second || tv.Usec < 0 || tv.Usec > 999_999 {
			t.Errorf("%+v", tv)
		}
	}
	zone := func(t *testing.T, dir string) {
		python(t, dir, "import time; assert time.gmtime(0).tm_year == 1970; time.localtime()")
	}
	return map[string]check{
		"getuid":         ids("Uid", 0, unix.Getuid),
		"geteuid":        ids("Uid", 1, unix.Geteuid),
		"getgid":         ids("Gid", 0, unix.Getgid),
		"getegid":        ids("Gid", 1, unix.Getegid),
		"getresuid_ruid": ids("Uid", 0, uid(0)), "getresuid_euid": ids("Uid", 1, uid(1)), "getresuid_suid": ids("Uid", 2, uid(2)),
		"getresgid_rgid": ids("Gid", 0, gid(0)), "getresgid_egid": ids("Gid", 1, gid(1)), "getresgid_sgid": ids("Gid", 2, gid(2)),
		"issetugid": func(t *testing.T, dir string) {
			const atSecure = 23
			auxv, err := os.ReadFile("/proc/self/auxv")
			must(t, err)
			for pair := range slices.Chunk(auxv, 16) {
				if binary.NativeEndian.Uint64(pair) == atSecure && binary.NativeEndian.Uint64(pair[8:]) != 0 {
					t.Error("AT_SECURE is set")
				}
			}
		},
		"gettimeofday_sec":         now,
		"gettimeofday_usec":        now,
		"gettimeofday_dsttime":     zone,
		"gettimeofday_minuteswest": zone,
	}
}
