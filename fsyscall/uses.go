package fsyscall

import (
	"fmt"
	"strings"
)

// UseWhat is what a command used of a path; a set.
type UseWhat uint8

const (
	UseName    UseWhat = 1 << iota // whether it is there, and its attributes
	UseListing                     // the entries of a directory
	UseContent                     // the content of a file; with UseListing, of all files in the directory

	useKnown = UseName | UseListing | UseContent
)

// PathUse says what a command used, or is likely to use, of an absolute path.
type PathUse struct {
	Path string
	What UseWhat
}

// Use is a PathUse on the wire, where paths in order share their beginnings.
type Use struct {
	Shared uint16 // how many bytes of the path before this one begins with
	Rest   string // what follows them
	What   UseWhat
}

// MaxUses bounds the paths of one command, and MaxUseBytes what their names
// take: with the other bounds of an Exec that is less than a message may have.
const (
	MaxUses     = 2048
	MaxUseBytes = 32 << 10
)

func (c *coder) uses(p *[]Use) {
	bytes := 0
	slice(c, p, MaxUses, func(u *Use) {
		c.u16(&u.Shared)
		c.string(&u.Rest, MaxTarget)
		c.u8((*uint8)(&u.What))
		bytes += len(u.Rest)
		if c.err == nil && (u.What == 0 || u.What&^useKnown != 0 || bytes > MaxUseBytes) {
			c.fail("use %#x of %d bytes of paths", uint8(u.What), bytes)
		}
	})
}

// PackUses puts uses into the form of the wire, as many of the first as a
// message may have.
func PackUses(uses []PathUse) []Use {
	var packed []Use
	last, bytes := "", 0
	for _, u := range uses {
		n := 0
		for n < len(last) && n < len(u.Path) && last[n] == u.Path[n] {
			n++
		}
		bytes += len(u.Path) - n
		if len(packed) == MaxUses || bytes > MaxUseBytes || len(u.Path) > MaxTarget {
			break
		}
		packed = append(packed, Use{uint16(n), u.Path[n:], u.What})
		last = u.Path
	}
	return packed
}

// UnpackUses is the inverse of PackUses. It fails on what is no absolute path
// of valid names.
func UnpackUses(packed []Use) ([]PathUse, error) {
	uses := make([]PathUse, 0, len(packed))
	last := ""
	for _, u := range packed {
		if int(u.Shared) > len(last) || int(u.Shared)+len(u.Rest) > MaxTarget {
			return nil, fmt.Errorf("%w: %d bytes of a path of %d", ErrMalformed, u.Shared, len(last))
		}
		last = last[:u.Shared] + u.Rest
		if !validPath(last) {
			return nil, fmt.Errorf("%w: a use of %q", ErrMalformed, last)
		}
		uses = append(uses, PathUse{last, u.What})
	}
	return uses, nil
}

// validPath tells whether p is "/" or an absolute path of valid names.
func validPath(p string) bool {
	if p == "/" {
		return true
	}
	rest, ok := strings.CutPrefix(p, "/")
	if !ok {
		return false
	}
	for name := range strings.SplitSeq(rest, "/") {
		if !ValidName(name) {
			return false
		}
	}
	return true
}
