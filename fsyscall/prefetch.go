package fsyscall

import "strings"

// Bounds that a prefetched List has on its entries: of a directory that is on
// the way, and of one that will be read whole.
const (
	PrefetchMax   = 1024
	PrefetchWhole = 8 << 10
)

// MaxPrefetch bounds the directories that one session prefetches.
const MaxPrefetch = 256

// A session's first command needs directories of which the client knows before
// the server does: those on the way to its working directory, to the user's
// settings, and to what it used when it ran last. So the client may ask its own
// file service for them in the server's stead: it puts the paths into
// [Hello.Prefetched] and hands the file service the messages of [Prefetch]. The
// server derives the same messages from the paths and expects the replies as if
// it had sent them.

// Settings are where, below the home directory, many programs look for theirs
// and for what the user has installed alone.
var Settings = [...]string{".config", ".local/lib"}

// PrefetchDir is a directory that is prefetched: the entry Name of the directory
// with the index Dir. The first is the root, without a name.
type PrefetchDir struct {
	Dir  int
	Name string
}

// PrefetchDirs returns the directories that paths, which are absolute and clean,
// lead to and through, each once, in the order in which they are met. The one
// with the index i gets the NodeID RootNode+i, its List the tag 1+i. A path ends
// where it cannot go on, and where there are MaxPrefetch directories. Without
// paths there is nothing.
func PrefetchDirs(paths []string) []PrefetchDir {
	if len(paths) == 0 {
		return nil
	}
	dirs := []PrefetchDir{{}}
	known := map[PrefetchDir]int{}
	for _, p := range paths {
		at := 0
		for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
			if name == "" {
				break
			}
			d := PrefetchDir{at, name}
			i, ok := known[d]
			if !ok {
				if !ValidName(name) || len(dirs) == MaxPrefetch {
					break
				}
				i = len(dirs)
				known[d] = i
				dirs = append(dirs, d)
			}
			at = i
		}
	}
	return dirs
}

// PrefetchStdio returns the calls for the standard streams of command 0 that are
// files, by the set of their slots: their tags and NodeIDs come after those of the
// directories.
func PrefetchStdio(dirs []PrefetchDir, slots uint8) (calls []StdioNode, tag uint32) {
	id := RootNode + NodeID(max(len(dirs), 1))
	for slot := range uint8(3) {
		if slots&(1<<slot) != 0 {
			calls = append(calls, StdioNode{Slot: slot, ID: id})
			id++
		}
	}
	return calls, uint32(len(dirs) + 1)
}

// Prefetch returns the encoded messages that prefetch dirs and standard streams, in
// order. All but the first onWay of the directories will be read whole.
func Prefetch(dirs []PrefetchDir, onWay int, slots uint8) [][]byte {
	var out [][]byte
	add := func(h Header, m Message) {
		if b, err := AppendMessage(nil, h, m); err == nil {
			out = append(out, b)
		}
	}
	for i, d := range dirs {
		id := RootNode + NodeID(i)
		if i > 0 {
			add(Header{Kind: KindNotice, Op: OpAttach}, &Attach{Dir: RootNode + NodeID(d.Dir), Name: d.Name, ID: id})
		}
		most := uint32(PrefetchMax)
		if i >= onWay {
			most = PrefetchWhole
		}
		add(Header{Kind: KindCall, Op: OpList, Tag: uint32(1 + i)}, &List{ID: id, Max: most})
	}
	calls, tag := PrefetchStdio(dirs, slots)
	for i := range calls {
		add(Header{Kind: KindCall, Op: OpStdioNode, Tag: tag + uint32(i)}, &calls[i])
	}
	return out
}
