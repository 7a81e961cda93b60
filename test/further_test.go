package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/SumiTomohiko/nexec/relay"
	"github.com/SumiTomohiko/nexec/test/harness"
)

// distant is a site whose servers are 20 ms away: "far" is nexecd, "farssh"
// OpenSSH's sshd, "one" an nexecd that allows one session a connection.
type distant struct {
	*site
	runtime string // the server's runtime directory of the user
}

func newDistant(t *testing.T) *distant {
	t.Helper()
	s := newSite(t)
	d := &distant{s, filepath.Join(s.Server, "run")}
	if err := os.Mkdir(d.runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	set := "SetEnv " + harness.NoProfile + " XDG_RUNTIME_DIR=" + d.runtime
	for alias, start := range map[string]func() (*harness.Process, error){
		"far": func() (*harness.Process, error) {
			return s.StartNexecd(harness.ServerOptions{Alias: "near", Config: []string{set}})
		},
		"farssh": func() (*harness.Process, error) {
			return s.StartSSHD(harness.ServerOptions{Alias: "nearssh", Config: []string{set}})
		},
		"one": func() (*harness.Process, error) {
			return s.StartNexecd(harness.ServerOptions{Alias: "nearone", Config: []string{set, "MaxSessions 1"}})
		},
	} {
		p, err := start()
		if err != nil {
			t.Fatal(err)
		}
		link, err := harness.NewLink(harness.Shape{Delay: 10 * time.Millisecond}, fmt.Sprintf("127.0.0.1:%d", p.Port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { link.Close() })
		if err := s.AddHost(alias, link.Port()); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// random makes a file of the client and returns its hash.
func (d *distant) random(t *testing.T, name string, size int) string {
	t.Helper()
	b := make([]byte, size)
	rand.Read(b)
	d.write(t, name, string(b))
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

var furtherLine = regexp.MustCompile(`further byte streams: (\d+), with (\d+) bytes`)

// further returns what --stats said of further byte streams.
func further(t *testing.T, stats string) (streams, bytes int) {
	t.Helper()
	m := furtherLine.FindStringSubmatch(stats)
	if m == nil {
		return 0, 0
	}
	streams, _ = strconv.Atoi(m[1])
	bytes, _ = strconv.Atoi(m[2])
	return streams, bytes
}

// TestFurtherChannels: over a long line, much data goes over several channels
// of the one connection, arrives as it was, and nothing of them is left.
func TestFurtherChannels(t *testing.T) {
	const size = 24 << 20
	d := newDistant(t)
	want := d.random(t, "in", size)
	for _, c := range []struct {
		host, ssh string
		streams   int
	}{
		{"far", "", 4}, {"farssh", "", 4}, {"one", "", 0},
		{"farssh", "ssh -F " + d.Config, 0}, // a program whose one channel is all there is
	} {
		var args []string
		if c.ssh != "" {
			args = []string{"--ssh", c.ssh}
		}
		r := d.run(t, "", append(args, "--stats", c.host, "sh", "-ec", "sha256sum <in; cp in out; sha256sum <out")...)
		if r.code != 0 || r.out != want+"  -\n"+want+"  -\n" {
			t.Fatalf("%s %s: %s", c.host, c.ssh, r)
		}
		streams, moved := further(t, r.err)
		// On a busy machine some of them come when most has been sent already.
		if (streams > 0) != (c.streams > 0) || streams > c.streams || c.streams > 0 && moved < size/4 {
			t.Errorf("%s %s: %d further byte streams carried %d bytes", c.host, c.ssh, streams, moved)
		}
		for line := range strings.Lines(r.err) {
			if !strings.Contains(line, "nexec: server: ") && !strings.Contains(line, "nexec: client: ") {
				t.Errorf("%s %s: %q", c.host, c.ssh, line)
			}
		}
		if got := fmt.Sprintf("%x", sha256.Sum256([]byte(d.read(t, "out")))); got != want {
			t.Errorf("%s %s: the client has another file", c.host, c.ssh)
		}
	}
	d.noSockets(t)
}

// joiners are the processes that wait for a session to be done with the
// connection that they handed over: they have no child, as a session has.
func joiners() []harness.Proc {
	all := harness.Named("nexec-server")
	var found []harness.Proc
	for _, p := range all {
		session := slices.ContainsFunc(harness.Descendants(p.PID), func(harness.Proc) bool { return true })
		within := slices.ContainsFunc(all, func(q harness.Proc) bool { return q.PID == p.Parent })
		if !session && !within {
			found = append(found, p)
		}
	}
	return found
}

// TestFurtherKilled: the processes of further channels can be killed while
// these carry data, and no byte is lost.
func TestFurtherKilled(t *testing.T) {
	d := newDistant(t)
	want := d.random(t, "in", 96<<20)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	killed := make(chan int, 1)
	go func() {
		n := 0
		for n == 0 && ctx.Err() == nil {
			if all := joiners(); len(all) >= 3 { // one may be about to become the session
				for _, p := range all {
					if syscall.Kill(p.PID, syscall.SIGKILL) == nil {
						n++
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
		killed <- n
	}()
	r := collect(t, ctx, d.Nexec(ctx, "far", "sha256sum", "in"))
	if r.code != 0 || r.out != want+"  in\n" || r.err != "" {
		t.Error(r)
	}
	cancel()
	if n := <-killed; n < 3 {
		t.Errorf("%d processes killed", n)
	}
	d.noSockets(t)
}

// noSockets fails the test if a socket of a session is left after some time.
func (d *distant) noSockets(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left, err := os.ReadDir(d.runtime)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in the server's runtime directory: %v", left)
		}
	}
}

// TestNearAndSmall: what is near, and what moves little, has one channel.
func TestNearAndSmall(t *testing.T) {
	d := newDistant(t)
	d.random(t, "in", 2<<20)
	r := d.run(t, "", "--stats", "far", "sha256sum", "in")
	if n, _ := further(t, r.err); r.code != 0 || n != 0 {
		t.Errorf("2 MiB: %d further byte streams: %s", n, r)
	}
}

// TestHostileJoin: connections that want to join a session and do not know its
// secret end, and the session does not notice.
func TestHostileJoin(t *testing.T) {
	d := newDistant(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := d.Nexec(ctx, "far", "sh", "-ec", "echo up; read x; echo $x")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 3)
	if _, err := out.Read(answer); err != nil || string(answer) != "up\n" {
		t.Fatalf("%q, %v", answer, err)
	}
	sockets, err := filepath.Glob(filepath.Join(d.runtime, "nexec-server", "*.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets %q, %v", sockets, err)
	}
	var secret [32]byte
	rand.Read(secret[:])
	wrong := relay.AppendJoin(nil, secret)
	for what, sent := range map[string][]byte{
		"another secret": wrong,
		"no secret":      relay.AppendJoin(nil, [32]byte{}),
		"short":          wrong[:30],
		"another format": append(bytes.Clone(wrong[:8]), bytes.Repeat([]byte{0xff}, 100)...),
	} {
		j := d.SSH(ctx, "-s", "near", "nexec")
		j.Stdin = bytes.NewReader(sent)
		r := collect(t, ctx, j)
		if r.code != 1 || r.out != "" || !strings.HasPrefix(r.err, "nexec-server: ") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: %s", what, r)
		}
	}
	if _, err := in.Write([]byte("well\n")); err != nil {
		t.Fatal(err)
	}
	answer = make([]byte, 5)
	if _, err := out.Read(answer); err != nil || string(answer) != "well\n" {
		t.Errorf("%q, %v", answer, err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	d.noSockets(t)
}

// TestStats: what --stats says of a job over a long line.
func TestStats(t *testing.T) {
	d := newDistant(t)
	d.random(t, "dear/big", 3<<20)
	d.write(t, "cheap/small", "x")
	r := d.run(t, "", "--stats", "far", "sh", "-ec", "cat dear/big cheap/small >/dev/null; echo new >dear/new; sync dear/new")
	if r.code != 0 || r.out != "" {
		t.Fatal(r)
	}
	for _, want := range []string{
		`server: round trips waited: [1-9]`, `server: time stalled on the link: \d*[.]\d* s`, `server: kernel requests: [1-9]`,
		`server: answered without a call: \d`, `server: run ahead: \d+ listings, \d+ used`, `server: fetched ahead: \d+ files, \d+ used`,
		`server: read ahead: 3145728 bytes, 0 of them for nothing`, `server: calls: .*\bread \d`,
		`server: sent to the client: \d+ bytes, \d+ before compression`, `server: received from the client: [3-9]\d{6} bytes, [3-9]\d{6} before compression`,
		`server: waited \d[.]\d+ s in \d+ requests: ` + regexp.QuoteMeta(filepath.Join(d.Work, "dear/big")),
		`client: 3?\d+ bytes in \d+ frames sent, \d+ before compression`,
	} {
		if !regexp.MustCompile(want).MatchString(r.err) {
			t.Errorf("no line %q in\n%s", want, r.err)
		}
	}
	if n := strings.Count(r.err, "server: waited "); n == 0 || n > 10 {
		t.Errorf("%d paths in\n%s", n, r.err)
	}
}

// TestLongWrites: what is written at length goes in calls of 1 MiB.
func TestLongWrites(t *testing.T) {
	s := newSite(t)
	r := s.run(t, "", "--stats", "box", "dd", "if=/dev/zero", "of=out", "bs=4M", "count=4", "status=none")
	m := regexp.MustCompile(`calls:.* write (\d+)`).FindStringSubmatch(r.err)
	if r.code != 0 || m == nil {
		t.Fatal(r)
	}
	if n, _ := strconv.Atoi(m[1]); n > 17 { // one more where pages are not where they could be
		t.Errorf("%d calls for 16 MiB", n)
	}
}

// TestStatsOfOne: in a session that stays, each command has its own figures.
func TestStatsOfOne(t *testing.T) {
	s := newStaying(t, "--stats")
	s.write(t, "big", strings.Repeat("0123456789abcdef", 1<<18))
	received := func(args ...string) (n int) {
		t.Helper()
		r := s.do(t, nil, args...)
		m := regexp.MustCompile(`received from the client: (\d+) bytes`).FindStringSubmatch(r.err)
		if r.code != 0 || m == nil {
			t.Fatal(r)
		}
		n, _ = strconv.Atoi(m[1])
		return n
	}
	if n := received("cat", "big"); n < 4<<20 {
		t.Errorf("%d bytes for the first command", n)
	}
	if n := received("true"); n > 1<<20 {
		t.Errorf("%d bytes for the second command", n)
	}
}
