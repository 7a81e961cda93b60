package filecache

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"
)

// Key names one state of one file of one client. Whoever shows the same key
// wants the same content: every change of content changes ctime, which no
// program can set.
type Key struct {
	Machine        [32]byte // which client's files
	Dev, Ino, Size uint64   // as the client's stat(2) has them
	Mtime, Ctime   [2]int64 // seconds and nanoseconds of the client's clock
}

// id is what stands for a key on disk. Machine itself is nowhere in the cache.
type id [sha256.Size]byte

const idDomain = "nexec content cache 1\x00"

func (k Key) id() id {
	var buf [len(idDomain) + 32 + 7*8]byte
	b := append(buf[:0], idDomain...)
	b = append(b, k.Machine[:]...)
	for _, v := range [...]uint64{k.Dev, k.Ino, k.Size, uint64(k.Mtime[0]), uint64(k.Mtime[1]), uint64(k.Ctime[0]), uint64(k.Ctime[1])} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return sha256.Sum256(b)
}

// prefix is the part of an id that a pack's index holds and is sorted by.
func (i *id) prefix() uint32 { return binary.BigEndian.Uint32(i[:4]) }

// An entry on disk is, in little endian,
//
//	magic   u32
//	length  u32   of content
//	used    i64   when it was stored or last wanted, nanoseconds since 1970
//	id      [32]
//	sum     [32]  SHA-256 of the four fields above and content
//	content
const (
	entryMagic  = 0x31636678 // "xfc1"
	entryFields = 4 + 4 + 8 + sha256.Size
	entryHeader = entryFields + sha256.Size
)

type entry struct {
	used    int64
	id      id
	content []byte
}

var errEntry = errors.New("not an entry, or damaged")

// appendHeader appends what stands before e's content on disk.
func (e *entry) appendHeader(b []byte) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint32(b, entryMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(e.content)))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.used))
	b = append(b, e.id[:]...)
	sum := entrySum(b[at:], e.content)
	return append(b, sum[:]...)
}

func entrySum(fields, content []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(fields)
	h.Write(content)
	h.Sum(sum[:0])
	return sum
}

// parseHeader reads an entry's header without its content, whose length it
// returns. Nothing is verified but the magic.
func parseHeader(b []byte) (e entry, length int, err error) {
	if len(b) < entryHeader || binary.LittleEndian.Uint32(b) != entryMagic {
		return entry{}, 0, errEntry
	}
	e.used = int64(binary.LittleEndian.Uint64(b[8:]))
	e.id = id(b[16:entryFields])
	return e, int(binary.LittleEndian.Uint32(b[4:])), nil
}

// decodeEntry verifies an entry that is exactly b. Its content is part of b.
func decodeEntry(b []byte) (entry, error) {
	e, length, err := parseHeader(b)
	if err != nil {
		return entry{}, err
	}
	if length != len(b)-entryHeader {
		return entry{}, errEntry
	}
	content := b[entryHeader:len(b):len(b)]
	if entrySum(b[:entryFields], content) != [sha256.Size]byte(b[entryFields:entryHeader]) {
		return entry{}, errEntry
	}
	e.content = content
	return e, nil
}

// racy tells whether a file of this key may change once more without showing
// it: its ctime is so near to now that a change would get the same one.
// A time to come is as good as now.
func (k Key) racy(now time.Time, window time.Duration) bool {
	return time.Unix(k.Ctime[0], k.Ctime[1]).After(now.Add(-window))
}
