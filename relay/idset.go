package relay

import "slices"

// idSet remembers the numbers of finished streams. It holds a bounded number
// of intervals. Beyond that it takes the gap between the two lowest for
// finished as well: numbers rise, and those in the gap that are still open
// are found among the open streams first.
type idSet struct{ spans []span }

type span struct{ from, to uint32 } // both included

const maxSpans = 4096

func (s *idSet) has(id uint32) bool {
	i, _ := s.find(id)
	return i < len(s.spans) && s.spans[i].from <= id
}

// find returns the first span that does not end before id.
func (s *idSet) find(id uint32) (int, bool) {
	return slices.BinarySearchFunc(s.spans, id, func(sp span, id uint32) int {
		if sp.to < id {
			return -1
		}
		return 1
	})
}

func (s *idSet) add(id uint32) {
	i, _ := s.find(id)
	if i < len(s.spans) && s.spans[i].from <= id {
		return
	}
	s.spans = slices.Insert(s.spans, i, span{id, id})
	if i+1 < len(s.spans) && s.spans[i+1].from == id+1 {
		s.spans[i].to = s.spans[i+1].to
		s.spans = slices.Delete(s.spans, i+1, i+2)
	}
	if i > 0 && s.spans[i-1].to+1 == id {
		s.spans[i-1].to = s.spans[i].to
		s.spans = slices.Delete(s.spans, i, i+1)
	}
	if len(s.spans) > maxSpans {
		s.spans[0].to = s.spans[1].to
		s.spans = slices.Delete(s.spans, 1, 2)
	}
}
