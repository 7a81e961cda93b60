package fsyscall

import "encoding/binary"

// ExtendWrite returns the encoded message b, which is a call of OpWrite and
// breaks no bound with the longer data, with more at the end of its data. Like
// append it writes to the memory of b where there is room.
func ExtendWrite(b, more []byte) []byte {
	// See Write.fields: file, offset, append, length, data.
	const at = HeaderSize + 8 + 8 + 1
	n := binary.LittleEndian.Uint32(b[at:])
	binary.LittleEndian.PutUint32(b[at:], n+uint32(len(more)))
	return append(b, more...)
}

// Announce makes b, an encoded message whose last field is a byte string that
// is empty, the beginning of one in which that has n bytes, which follow b.
func Announce(b []byte, n int) {
	binary.LittleEndian.PutUint32(b[len(b)-4:], uint32(n))
}
