package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// The join record; see the package comment.
const (
	joinMagic   = "\xcejoin\r\n\x00"
	joinVersion = 1
	joinSize    = 48
)

// AppendJoin appends the record that has a byte stream join the session with
// the secret. It comes before anything else on the byte stream.
func AppendJoin(b []byte, secret [32]byte) []byte {
	b = append(b, joinMagic...)
	b = binary.LittleEndian.AppendUint16(b, joinVersion)
	b = append(b, make([]byte, 6)...)
	return append(b, secret[:]...)
}

// parseJoin reads a record of joinSize bytes that begins with joinMagic.
func parseJoin(b []byte) (secret [32]byte, err error) {
	if v := binary.LittleEndian.Uint16(b[8:]); v != joinVersion {
		return secret, fmt.Errorf("%w: a join record of version %d; install the same nexec on both", ErrVersion, v)
	}
	if !bytes.Equal(b[10:16], make([]byte, 6)) {
		return secret, broken("reserved bytes of a join record are not zero")
	}
	copy(secret[:], b[16:])
	return secret, nil
}

// Opening tells what a new byte stream is for, by its first bytes.
type Opening struct {
	// Joins: the byte stream is for the link of the session with the secret.
	// Nothing after its join record has been read.
	Joins  bool
	Secret [32]byte
}

// ReadOpening waits for the first bytes of a byte stream. Where they are no
// join record they are read again by whoever serves the byte stream, and finds
// out what it is. The error is that of a join record that is wrong or stops
// short, os.ErrDeadlineExceeded when nothing has come in time, or the
// context's.
func ReadOpening(ctx context.Context, p *Pipes, timeout time.Duration) (Opening, error) {
	if err := p.r.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return Opening{}, fmt.Errorf("%s: %w", p.r.Name(), err)
	}
	defer p.r.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { p.r.SetReadDeadline(time.Unix(1, 0)) })()
	b := make([]byte, 0, joinSize)
	for len(b) < joinSize {
		n, err := p.r.Read(b[len(b):joinSize])
		b = b[:len(b)+n]
		if known := min(len(b), len(joinMagic)); string(b[:known]) != joinMagic[:known] || err != nil && known < len(joinMagic) {
			p.head = b
			return Opening{}, openingErr(ctx, err)
		}
		if err != nil {
			return Opening{}, errors.Join(ctx.Err(), fmt.Errorf("a join record of %d bytes: %w", len(b), noEOF(err)))
		}
	}
	secret, err := parseJoin(b)
	return Opening{Joins: err == nil, Secret: secret}, err
}

// openingErr is what is wrong with a byte stream that is not joining: its end
// is for whoever serves it to find.
func openingErr(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}
