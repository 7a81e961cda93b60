package subsystem

import (
	"fmt"
	"strings"
	"time"

	"github.com/SumiTomohiko/nexec/subsystem/filecache"
)

// CacheOptions are about the content of the client's files that is kept for
// later sessions of the same login.
type CacheOptions struct {
	// Off: there is no such cache.
	Off bool
	// Dir is its directory, made if it is not there; its parent must exist.
	// Empty: filecache.DefaultDir.
	Dir string
	// MaxBytes and MaxAge bound it; zero: filecache's defaults.
	MaxBytes int64
	MaxAge   time.Duration
}

// cacheCloseWait bounds what the end of a session spends on the cache. nexecd
// ends by force what is not over two seconds after its client is gone.
const cacheCloseWait = 1500 * time.Millisecond

// openCache opens the cache, if the client and the front door want one. It is
// the login's own directory, on this machine's disk. A session does without one
// that cannot be opened.
func (s *session) openCache() {
	opt := s.opts.Cache
	if opt.Off || s.hello.NoCache || s.hello.Machine == ([32]byte{}) {
		return
	}
	dir, err := opt.Dir, error(nil)
	if dir == "" {
		dir, err = filecache.DefaultDir()
	}
	if err == nil {
		s.cache, err = filecache.Open(dir, filecache.Options{
			MaxBytes: opt.MaxBytes, MaxAge: opt.MaxAge, CloseWait: cacheCloseWait, Now: s.clientClock(),
		})
	}
	if err != nil {
		s.note(fmt.Sprintf("no content cache: %s", strings.TrimPrefix(err.Error(), "filecache: ")))
	}
}

// clientClock estimates the client's clock by what it was when the hello was
// sent; the estimate is late by the time that the hello took.
func (s *session) clientClock() func() time.Time {
	began, then := time.Now(), time.Unix(s.hello.Now.Sec, int64(s.hello.Now.Nsec))
	return func() time.Time { return then.Add(time.Since(began)) }
}

func (s *session) closeCache() {
	if s.cache != nil {
		_ = s.cache.Close() // it has taken too long: what was not stored will be asked for again
	}
}
