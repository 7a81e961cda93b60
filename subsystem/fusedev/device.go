// Package fusedev is the kernel's end of a FUSE mount: it reads requests from
// /dev/fuse, has go-fuse decode and dispatch them, and writes the answers.
//
// go-fuse has a server of its own, whose threads sleep in read(2). Between two
// requests of one program pass some 10 us, and to put a thread to sleep and to
// wake it costs more than that, on a virtual machine several times as much. So
// here the descriptor does not block, Go's poller waits for it with everything
// else that the process waits for, and before it does, the next request is
// waited for awake for a moment. See doc/decisions/02.
package fusedev

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// patience is how long the next request is waited for awake, if the one before
// was not long in coming: about as long as to sleep and be woken takes, so that
// whatever comes, the wait costs at most twice what it must. A program that has
// been answered and goes on is back within 10 us. With one processor it cannot
// run before this process sleeps.
var patience = func() time.Duration {
	if runtime.NumCPU() == 1 {
		return 0
	}
	return 20 * time.Microsecond
}()

// Device serves the requests of one mount. Its methods may be called
// concurrently.
type Device struct {
	fs     *fuse.ProtocolServer
	file   *os.File
	conn   syscall.RawConn
	notify int // a descriptor of the same device: a notification may block
	frame  int // bytes that the largest request takes

	// lead is held by the goroutine that reads; it guards in and brisk.
	lead  sync.Mutex
	in    []byte
	brisk bool // the last request was not long in coming

	mu    sync.Mutex
	ready int // goroutines that read or will read next
	asked map[uint64]*answer
	ended bool
	wg    sync.WaitGroup

	closing sync.RWMutex // guards notify
	frames  sync.Pool    // of *[]byte, each of frame bytes
}

// answer is what a request under way has been answered with so far.
type answer struct{ pieces Pieces }

// Pieces is the data of an answer to a read that lies in several places.
type Pieces interface {
	// Slices returns the data, which stays as it is until Done.
	Slices() ([][]byte, fuse.Status)
	// Size is the number of bytes.
	Size() int
	// Done is called when the kernel has the data.
	Done()
}

const (
	inHeaderSize  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fuse.OutHeader{}))
	leastFrame    = 8 << 10 // FUSE_MIN_READ_BUFFER

	// smallIn is what a request without data takes at most: two names of 255
	// bytes and the header, or a symbolic link's text of 4,095 and its name. A
	// larger one keeps the buffer that it was read into.
	smallIn = 5 << 10
	// smallOut holds every answer but those whose size the request says.
	smallOut = 8 << 10
	// maxSlices is how many pieces an answer has as a rule, and its header.
	maxSlices = 8

	maxReady = 2 // one that reads and one to follow it
)

// Open takes over dev, a /dev/fuse descriptor that is mounted, and answers the
// kernel's first request, which settles what both can do. After an error the
// descriptor is closed.
func Open(dev *os.File, fs fuse.RawFileSystem, opts *fuse.MountOptions) (*Device, error) {
	defer dev.Close()
	fd, err := dup(dev)
	if err != nil {
		return nil, err
	}
	notify, err := dup(dev)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	d := &Device{fs: fuse.NewProtocolServer(fs, opts), notify: notify, asked: make(map[uint64]*answer)}
	d.frame = max(opts.MaxWrite, leastFrame) + leastFrame
	d.frames.New = func() any { b := make([]byte, d.frame); return &b }
	d.in = make([]byte, d.frame)
	if err := d.open(fd); err != nil {
		unix.Close(notify)
		return nil, err
	}
	return d, nil
}

func (d *Device) open(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	d.file = os.NewFile(uintptr(fd), "/dev/fuse")
	var err error
	if d.conn, err = d.file.SyscallConn(); err != nil {
		d.file.Close()
		return err
	}
	n, err := d.read()
	if err != nil {
		d.file.Close()
		return os.NewSyscallError("read", err)
	}
	if status := d.serve(d.in[:n], new(buffers)); status != fuse.OK {
		d.file.Close()
		return os.NewSyscallError("init", syscall.Errno(status))
	}
	return nil
}

// dup returns a descriptor that lives apart from f.
func dup(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("fcntl", dupErr)
}

// Serve answers requests until the mount is gone and every request is answered.
// It is called once. Those that wait for a lock are interrupted at the end.
func (d *Device) Serve() {
	d.ready = 1
	d.wg.Add(1)
	go d.work()
	d.wg.Wait()
}

// Close ends the notifications. It waits for those under way, which the end of
// the mount ends.
func (d *Device) Close() {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.notify >= 0 {
		unix.Close(d.notify)
		d.notify = -1
	}
}

// buffers are those of one goroutine.
type buffers struct {
	in, out [1][]byte
	small   [smallIn]byte
	answer  [smallOut]byte
	iov     [maxSlices]unix.Iovec
	state   answer
}

// work reads and answers requests in turn with others like it. One reads at a
// time; while it answers, another one is there to read, since the answer may
// take as long as the client does.
func (d *Device) work() {
	defer d.wg.Done()
	var b buffers
	for {
		d.lead.Lock()
		n, err := d.read()
		if err != nil {
			d.lead.Unlock()
			d.end()
			return
		}
		request := d.in[:n]
		var whole *[]byte
		if n <= len(b.small) {
			request = b.small[:copy(b.small[:], request)]
		} else {
			old := d.in
			whole = &old
			d.in = *d.frames.Get().(*[]byte)
		}
		d.lead.Unlock()
		d.follow()
		d.serve(request, &b)
		if whole != nil {
			d.frames.Put(whole)
		}
		if !d.stay() {
			return
		}
	}
}

// follow sees to it that somebody reads on.
func (d *Device) follow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready--
	if d.ready == 0 && !d.ended {
		d.ready++
		d.wg.Add(1)
		go d.work()
	}
}

// stay tells whether the caller is to read again.
func (d *Device) stay() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready >= maxReady {
		return false
	}
	d.ready++
	return true
}

// end ends the service, whatever the reason: requests can't be read any more.
// Waits for locks end: nobody waits for those any more.
func (d *Device) end() {
	d.file.Close() // for the others that read
	d.mu.Lock()
	var waiting []uint64
	if !d.ended {
		for unique := range d.asked {
			waiting = append(waiting, unique)
		}
	}
	d.ended = true
	d.mu.Unlock()
	for _, unique := range waiting {
		d.fs.HandleRequest([][]byte{interrupt(unique)}, [][]byte{make([]byte, outHeaderSize)})
	}
}

// read waits for the next request and reads it into d.in. The caller leads.
func (d *Device) read() (int, error) {
	var n int
	var errno syscall.Errno
	began := time.Now()
	ready := d.conn.Read(func(fd uintptr) bool {
		for {
			n, errno = readRaw(fd, d.in)
			switch errno {
			case syscall.EINTR, syscall.ENOENT: // the second: it was interrupted meanwhile
			case syscall.EAGAIN:
				if !d.brisk || time.Since(began) > patience {
					return false
				}
				runtime.Gosched()
			default:
				return true
			}
		}
	})
	if ready != nil {
		return 0, ready
	}
	d.brisk = time.Since(began) < 3*patience // to be woken is part of it
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// readRaw is read(2) on a descriptor that does not block. Go's scheduler is not
// told: it would wake its monitor for a call that takes a microsecond.
func readRaw(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), errno
}

// serve has a request answered and gives the answer to the kernel.
func (d *Device) serve(request []byte, b *buffers) fuse.Status {
	if len(request) < inHeaderSize {
		return fuse.EIO
	}
	h := (*fuse.InHeader)(unsafe.Pointer(&request[0]))
	a := &b.state
	*a = answer{}
	d.mu.Lock()
	d.asked[h.Unique] = a
	d.mu.Unlock()
	out, frame := b.answer[:], (*[]byte)(nil)
	if answerSize(h, request) > smallOut {
		frame = d.frames.Get().(*[]byte)
		out = *frame
	}
	b.in[0], b.out[0] = request, out
	n, status := d.fs.HandleRequest(b.in[:], b.out[:])
	d.mu.Lock()
	delete(d.asked, h.Unique)
	d.mu.Unlock()
	if n > 0 || status != fuse.OK {
		d.reply(h.Unique, b.iov[:0], out, n, a.pieces, status)
	}
	if a.pieces != nil {
		a.pieces.Done()
	}
	if frame != nil {
		d.frames.Put(frame)
	}
	return status
}

// Operations whose requests say how much data the answer may have, of
// linux/fuse.h, and where.
const (
	opRead        = 15
	opGetXattr    = 22
	opListXattr   = 23
	opReadDir     = 28
	opInterrupt   = 36
	opReadDirPlus = 44
)

// answerSize is how long the answer to a request may be, if it says so.
func answerSize(h *fuse.InHeader, request []byte) int {
	switch h.Opcode {
	case opRead, opReadDir, opReadDirPlus:
		if len(request) >= int(unsafe.Sizeof(fuse.ReadIn{})) {
			return outHeaderSize + int((*fuse.ReadIn)(unsafe.Pointer(h)).Size)
		}
	case opGetXattr, opListXattr:
		if len(request) >= int(unsafe.Sizeof(fuse.GetXAttrIn{})) {
			return outHeaderSize + int((*fuse.GetXAttrIn)(unsafe.Pointer(h)).Size)
		}
	}
	return 0
}

// InPieces has a read that is under way answered with p in the place of what
// its handler returns, without a copy. It is called by the handler, whose
// request has the number unique.
func (d *Device) InPieces(unique uint64, p Pieces) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[unique].pieces = p
}

// reply writes an answer: the first n bytes of out and, if that is in order,
// the pieces. A status other than OK is go-fuse's own: it has no answer.
func (d *Device) reply(unique uint64, iov []unix.Iovec, out []byte, n int, p Pieces, status fuse.Status) {
	header := (*fuse.OutHeader)(unsafe.Pointer(&out[0]))
	if status != fuse.OK {
		n = outHeaderSize
		*header = fuse.OutHeader{Length: uint32(n), Status: -int32(status), Unique: unique}
	}
	iov = append(iov, vector(out[:n]))
	if p != nil && header.Status == 0 {
		slices, _ := p.Slices()
		for _, s := range slices {
			if len(s) > 0 {
				iov = append(iov, vector(s))
			}
		}
		header.Length = uint32(n + p.Size())
	}
	err := d.write(iov)
	if err == nil || gone(err) {
		return
	}
	*header = fuse.OutHeader{Length: uint32(outHeaderSize), Status: -int32(syscall.EIO), Unique: unique}
	_ = d.write([]unix.Iovec{vector(out[:outHeaderSize])}) // who asked must not wait for ever
}

func vector(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// gone tells whether nobody waits for an answer any more: the request was
// interrupted, or the mount is gone, or, where it is no errno, the service.
func gone(err error) bool {
	var errno syscall.Errno
	return !errors.As(err, &errno) || errno == syscall.ENOENT || errno == syscall.ENODEV
}

// write gives an answer to the kernel, which takes it without waiting for
// anybody: see readRaw.
func (d *Device) write(iov []unix.Iovec) (err error) {
	closed := d.conn.Control(func(fd uintptr) {
		for {
			_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
			if errno == syscall.EINTR {
				continue
			}
			if errno != 0 {
				err = errno
			}
			return
		}
	})
	runtime.KeepAlive(iov)
	if closed != nil {
		return closed
	}
	return err
}
