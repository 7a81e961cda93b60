package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"github.com/SumiTomohiko/nexec/subsystem"
)

// options is the command line.
type options struct {
	version  bool
	policyFD int
	cache    subsystem.CacheOptions
}

const usage = "usage: nexec-server [--version] [--policy-fd N] [--no-cache] [--cache-dir DIR] [--cache-size SIZE] [--cache-age TIME]"

// parse reads the command line. uid is whose cache --cache-dir has.
func parse(args []string, uid int) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("nexec-server", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&o.version, "version", false, "print the version")
	f.IntVar(&o.policyFD, "policy-fd", -1, "descriptor to read the session's policy from")
	f.BoolVar(&o.cache.Off, "no-cache", false, "keep no content for later sessions")
	f.Func("cache-dir", "directory in which each user has a cache", func(v string) error {
		if !filepath.IsAbs(v) {
			return errors.New("not an absolute path")
		}
		o.cache.Dir = filepath.Join(v, strconv.Itoa(uid))
		return nil
	})
	f.Func("cache-size", "bytes that a user's cache may take", func(v string) (err error) {
		o.cache.MaxBytes, err = parseScaled(v, map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40})
		return err
	})
	f.Func("cache-age", "time after which what was not wanted goes", func(v string) error {
		sec := int64(time.Second)
		n, err := parseScaled(v, map[byte]int64{'m': 60 * sec, 'h': 3600 * sec, 'd': 24 * 3600 * sec, 'w': 7 * 24 * 3600 * sec})
		o.cache.MaxAge = time.Duration(n)
		return err
	})
	if err := f.Parse(args); err != nil {
		return nil, fmt.Errorf("%w; %s", err, usage)
	}
	if f.NArg() > 0 {
		return nil, errors.New(usage)
	}
	return o, nil
}

// parseScaled reads a positive number that ends with one of the units.
func parseScaled(v string, units map[byte]int64) (int64, error) {
	if v == "" {
		return 0, errors.New("the value is empty")
	}
	unit, ok := units[v[len(v)-1]]
	n, err := strconv.ParseInt(v[:len(v)-1], 10, 64)
	if !ok || err != nil || n <= 0 || n > math.MaxInt64/unit {
		return 0, errors.New("want a number above zero and its unit")
	}
	return n * unit, nil
}
