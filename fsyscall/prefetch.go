package fsyscall

import "strings"

// PrefetchMax is the bound that a prefetched List has on its entries.
const PrefetchMax = 1024

// MaxPrefetch bounds the directories that one prefetch lists.
const MaxPrefetch = 64

// A session's first command needs the directories on the way to its working
// directory. The client knows that before the server does, so it may ask its
// own file service for them in the server's stead: it puts the path into
// [Hello.Prefetched] and hands the file service the messages of [Prefetch].
// The server derives the same messages from the path and expects the replies
// as if it had sent them.

// PrefetchNames returns the components of an absolute, clean path that are
// prefetched: none for the root, and nil for a path that cannot be. The
// directory of component i gets the NodeID RootNode+1+i, its List the tag 2+i;
// the root's List has the tag 1.
func PrefetchNames(path string) []string {
	names := []string{}
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if name == "" {
			break
		}
		if !ValidName(name) || len(names) == MaxPrefetch-1 {
			return nil
		}
		names = append(names, name)
	}
	return names
}

// Prefetch returns the encoded messages that prefetch path, in order.
func Prefetch(path string) [][]byte {
	names := PrefetchNames(path)
	if names == nil {
		return nil
	}
	var out [][]byte
	add := func(h Header, m Message) {
		if b, err := AppendMessage(nil, h, m); err == nil {
			out = append(out, b)
		}
	}
	id := RootNode
	add(Header{Kind: KindCall, Op: OpList, Tag: 1}, &List{ID: id, Max: PrefetchMax})
	for i, name := range names {
		add(Header{Kind: KindNotice, Op: OpAttach}, &Attach{Dir: id, Name: name, ID: id + 1})
		id++
		add(Header{Kind: KindCall, Op: OpList, Tag: uint32(2 + i)}, &List{ID: id, Max: PrefetchMax})
	}
	return out
}
