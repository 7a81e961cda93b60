package relay

import "sync/atomic"

// codec is the link's compression.
type codec struct {
	plain, compressed atomic.Uint64
}

func (c *codec) allow() {}

// expand undoes a frame's compression.
func (s *Stream) expand(f *frame) (*frame, error) {
	return f, nil
}
