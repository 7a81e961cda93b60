package filecache

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A pack is a file of entries that is written once and renamed into place, so
// that nobody sees half of one. In little endian,
//
//	magic   "nexecfc1"
//	count   u32   cells in use
//	room    u32   cells there is room for
//	cells   room × u64   prefix of an entry's id << 32 | its offset, ascending by prefix
//	entries, in the order in which they were stored
//
// Nothing of it changes later but that the offset of a damaged entry's cell
// becomes 0. Its name is pack-NEWEST-COUNT-RANDOM in hexadecimal digits, with
// the time in nanoseconds since 1970 at which its newest entry was stored or
// last wanted.
const (
	packMagic  = "nexecfc1"
	packHeader = 8 + 4 + 4
	packPrefix = "pack-"
	tempPrefix = "temp-"
)

var errPack = errors.New("not a pack, or damaged")

// packInfo is what the directory tells of a pack.
type packInfo struct {
	name   string
	newest int64
	count  int
	size   int64
}

func packName(newest int64, count int) string {
	return fmt.Sprintf("%s%016x-%08x-%s", packPrefix, max(newest, 0), count, random())
}

func random() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func parseName(name string) (packInfo, bool) {
	rest, ok := strings.CutPrefix(name, packPrefix)
	if !ok || len(rest) != 16+1+8+1+16 || rest[16] != '-' || rest[25] != '-' {
		return packInfo{}, false
	}
	newest, err1 := strconv.ParseUint(rest[:16], 16, 63)
	count, err2 := strconv.ParseUint(rest[17:25], 16, 31)
	return packInfo{name: name, newest: int64(newest), count: int(count)}, err1 == nil && err2 == nil
}

// A cell is an id's prefix and an offset.
func makeCell(prefix, offset uint32) uint64 { return uint64(prefix)<<32 | uint64(offset) }
func cellPrefix(c uint64) uint32            { return uint32(c >> 32) }
func cellOffset(c uint64) uint32            { return uint32(c) }

// index is a pack's header and cells.
type index struct {
	room  uint32
	cells []uint64
}

func (x *index) append(b []byte) []byte {
	b = append(b, packMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.cells)))
	b = binary.LittleEndian.AppendUint32(b, x.room)
	for _, c := range x.cells {
		b = binary.LittleEndian.AppendUint64(b, c)
	}
	return b
}

// decodeIndex reads the header and cells of a pack of size bytes, which are
// all of b. Cells that point beyond its end are those of truncated entries.
func decodeIndex(b []byte, size int64) (index, error) {
	if len(b) < packHeader || string(b[:8]) != packMagic || size > math.MaxUint32 {
		return index{}, errPack
	}
	count, room := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	start := packHeader + 8*int64(room)
	if count > room || start > size || int64(len(b)) != packHeader+8*int64(count) {
		return index{}, errPack
	}
	x := index{room: room, cells: make([]uint64, count)}
	for i := range x.cells {
		c := binary.LittleEndian.Uint64(b[packHeader+8*i:])
		if off := int64(cellOffset(c)); off != 0 && off < start {
			return index{}, errPack
		}
		if i > 0 && cellPrefix(c) < cellPrefix(x.cells[i-1]) {
			return index{}, errPack
		}
		x.cells[i] = c
	}
	return x, nil
}

// pack is an open pack. All but close is safe for concurrent use, and reads
// during and after close fail with os.ErrClosed.
type pack struct {
	packInfo
	dir   *os.File
	f     *os.File
	cells []uint64 // read and written atomically
}

// openPack opens a pack and reads its index. The error is errPack if it should
// be removed.
func openPack(dir *os.File, info packInfo) (*pack, error) {
	f, size, err := openIn(dir, info.name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	x, err := readIndex(f, size, info.count)
	if err != nil {
		f.Close()
		return nil, err
	}
	info.size = size
	return &pack{packInfo: info, dir: dir, f: f, cells: x.cells}, nil
}

func (p *pack) cell(i int) uint64 { return atomic.LoadUint64(&p.cells[i]) }

// readIndex reads the index of a pack that has count cells by its name.
func readIndex(f *os.File, size int64, count int) (index, error) {
	if int64(count) > (size-packHeader)/8 {
		return index{}, errPack
	}
	b := make([]byte, packHeader+8*count)
	if _, err := f.ReadAt(b, 0); err != nil {
		return index{}, errPack
	}
	x, err := decodeIndex(b, size)
	if err == nil && len(x.cells) != count {
		err = errPack
	}
	return x, err
}

// find returns the range of cells with the prefix.
func (p *pack) find(prefix uint32) (from, to int) {
	from = sort.Search(len(p.cells), func(i int) bool { return cellPrefix(p.cell(i)) >= prefix })
	for to = from; to < len(p.cells) && cellPrefix(p.cell(to)) == prefix; to++ {
	}
	return from, to
}

// may tells whether the pack seems to hold an entry of id.
func (p *pack) may(i *id) bool {
	from, to := p.find(i.prefix())
	for ; from < to; from++ {
		if cellOffset(p.cell(from)) != 0 {
			return true
		}
	}
	return false
}

// get returns the entry of id, whose content has size bytes. found is false if
// there is none; bad is the number of damaged ones that it came upon and
// removed.
func (p *pack) get(want *id, size uint64) (e entry, found bool, bad int, err error) {
	from, to := p.find(want.prefix())
	for ; from < to; from++ {
		off := int64(cellOffset(p.cell(from)))
		if off == 0 {
			continue
		}
		e, err = p.read(off, want, int64(size))
		switch {
		case err == nil && e.id == *want:
			return e, true, bad, nil
		case err == nil: // another one with this prefix
		case errors.Is(err, os.ErrClosed):
			return entry{}, false, bad, err
		default:
			p.discard(from)
			bad++
		}
	}
	return entry{}, false, bad, nil
}

// read reads and verifies the entry at off. guess is the length of its content
// if its id is want.
func (p *pack) read(off int64, want *id, guess int64) (entry, error) {
	b := make([]byte, entryHeader+max(min(guess, p.size-off-entryHeader), 0))
	n, err := p.f.ReadAt(b, off)
	if errors.Is(err, os.ErrClosed) {
		return entry{}, err
	}
	e, length, err := parseHeader(b[:n])
	if err != nil {
		return entry{}, err
	}
	if e.id == *want {
		return decodeEntry(b[:n])
	}
	// Another entry that shares the prefix, or a damaged one: its own length
	// is what it has to verify with.
	if int64(length) > p.size-off-entryHeader {
		return entry{}, errEntry
	}
	return p.readAll(off, length)
}

// readAll reads and verifies the entry at off with length bytes of content.
func (p *pack) readAll(off int64, length int) (entry, error) {
	b := make([]byte, entryHeader+length)
	n, err := p.f.ReadAt(b, off)
	if errors.Is(err, os.ErrClosed) {
		return entry{}, err
	}
	return decodeEntry(b[:n])
}

// readCell reads and verifies the entry of a cell whatever its id is.
func (p *pack) readCell(cell uint64) (entry, error) {
	off := int64(cellOffset(cell))
	b := make([]byte, entryHeader)
	n, err := p.f.ReadAt(b, off)
	if errors.Is(err, os.ErrClosed) {
		return entry{}, err
	}
	e, length, err := parseHeader(b[:n])
	if err != nil {
		return entry{}, err
	}
	if int64(length) > p.size-off-entryHeader || e.id.prefix() != cellPrefix(cell) {
		return entry{}, errEntry
	}
	return p.readAll(off, length)
}

// discard removes the entry of the i-th cell, here and on disk. What fails
// there is found damaged again by the next session.
func (p *pack) discard(i int) {
	c := p.cell(i)
	atomic.StoreUint64(&p.cells[i], makeCell(cellPrefix(c), 0))
	f, _, err := openIn(p.dir, p.name, unix.O_WRONLY)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteAt([]byte{0, 0, 0, 0}, packHeader+8*int64(i))
}

// packWriter writes a pack. finish or abort ends it.
type packWriter struct {
	dir    *os.File
	f      *os.File
	w      *bufio.Writer
	temp   string
	x      index
	off    int64
	newest int64
}

// newPackWriter starts a pack of at most room entries.
func newPackWriter(dir *os.File, room int) (*packWriter, error) {
	temp := tempPrefix + random()
	f, err := createIn(dir, temp)
	if err != nil {
		return nil, err
	}
	w := &packWriter{dir: dir, f: f, temp: temp, w: bufio.NewWriterSize(f, 256<<10), x: index{room: uint32(room)}}
	w.off = packHeader + 8*int64(room)
	if _, err := f.Seek(w.off, 0); err != nil {
		w.abort()
		return nil, err
	}
	return w, nil
}

// add appends an entry.
func (w *packWriter) add(e *entry) error {
	end := w.off + entryHeader + int64(len(e.content))
	if len(w.x.cells) == int(w.x.room) || end > math.MaxUint32 {
		return errors.New("the pack is full")
	}
	if _, err := w.w.Write(e.appendHeader(w.w.AvailableBuffer())); err != nil {
		return err
	}
	if _, err := w.w.Write(e.content); err != nil {
		return err
	}
	w.x.cells = append(w.x.cells, makeCell(e.id.prefix(), uint32(w.off)))
	w.off, w.newest = end, max(w.newest, e.used)
	return nil
}

// finish puts the pack into place. It is not synced: after a power failure it
// may be damaged, which readers see.
func (w *packWriter) finish() error {
	slices.Sort(w.x.cells)
	err := w.w.Flush()
	if err == nil {
		_, err = w.f.WriteAt(w.x.append(nil), 0)
	}
	if err == nil {
		err = w.f.Close()
	}
	if err == nil {
		err = renameIn(w.dir, w.temp, packName(w.newest, len(w.x.cells)))
	}
	if err != nil {
		w.abort()
	}
	return err
}

func (w *packWriter) abort() {
	w.f.Close()
	_ = removeIn(w.dir, w.temp) // a leftover goes with the next session's cleaning
}
