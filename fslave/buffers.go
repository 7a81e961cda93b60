package fslave

import (
	"sync"

	"github.com/SumiTomohiko/nexec/fsyscall"
)

// dataPool has buffers for file data in two sizes: most files are small, and a
// stream is read in pieces of MaxData.
type dataPool struct{ small, large sync.Pool }

const smallData = 64 << 10

func (p *dataPool) get(n int) *[]byte {
	pool, size := &p.large, fsyscall.MaxData
	if n <= smallData {
		pool, size = &p.small, smallData
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, size)
	return &b
}

func (p *dataPool) put(b *[]byte) {
	if len(*b) == smallData {
		p.small.Put(b)
	} else {
		p.large.Put(b)
	}
}
