package subsystem

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/SumiTomohiko/nexec/relay"
)

// pump moves bytes between one of a command's files (a pipe's end or the
// master of a terminal) and a stream of the link, one way or, for a terminal,
// both ways in two goroutines. It holds one buffer per way; a slow reader
// blocks the writer.
type pump struct {
	file     *os.File
	stream   *relay.Stream
	terminal bool
}

// pumpSize is what is moved at once.
const pumpSize = 128 << 10

func growPipe(f *os.File) {
	if rc, err := f.SyscallConn(); err == nil {
		// Refused where a user has many pipes; the default does as well.
		rc.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
}

// toCommand moves what the client sends into the file.
func (p *pump) toCommand() {
	buf := make([]byte, pumpSize)
	for {
		n, err := p.stream.Read(buf)
		if n > 0 {
			if _, werr := p.file.Write(buf[:n]); werr != nil {
				break // nobody reads it any more
			}
		}
		if err != nil {
			break
		}
	}
	p.stream.CloseRead()
	if !p.terminal { // a terminal has no end of file; who closes it hangs up
		p.file.Close()
	}
}

// toClient moves what the command writes into the stream, to its end or, once
// drain was called, to the end of what is there. What nobody takes from a
// terminal is dropped: its users are not told of a reader, and must not wait.
func (p *pump) toClient() {
	buf := make([]byte, pumpSize)
	for {
		n, err := p.file.Read(buf)
		if n > 0 {
			if _, werr := p.stream.Write(buf[:n]); werr != nil && !p.terminal {
				break // the client reads no more: the command gets SIGPIPE
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.rest(buf)
			break
		}
		if err != nil {
			break // end of file; EIO from a terminal whose last user is gone
		}
	}
	p.stream.CloseWrite()
	if !p.terminal {
		p.file.Close()
	}
}

// maxRest bounds what is taken after the deadline from a pipe that others
// still write to: the largest pipe that an ordinary user can have.
const maxRest = 1 << 20

// rest moves what can be read without waiting.
func (p *pump) rest(buf []byte) {
	rc, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < maxRest; {
		n, err := readNow(rc, buf)
		if n > 0 {
			if _, werr := p.stream.Write(buf[:n]); werr != nil {
				return
			}
			total += n
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// readNow reads once, past the deadline of the file.
func readNow(rc syscall.RawConn, buf []byte) (n int, err error) {
	cerr := rc.Control(func(fd uintptr) {
		for {
			n, err = unix.Read(int(fd), buf)
			if err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// drain lets toClient end: after d at the latest it takes what is there.
func (p *pump) drain(d time.Duration) {
	p.file.SetReadDeadline(time.Now().Add(d))
}

// abandon ends toCommand: nobody reads what it writes.
func (p *pump) abandon() {
	p.stream.CloseRead()
	p.file.Close()
}
