// Package shelf decides which payloads a worker keeps for readers to fetch, and when their memory may be used again. It
// is a plain state machine: no clock, no goroutine, no connection.
//
// A payload that all its readers have fetched is spare: it stays, for readers that go back to it, until its place is
// wanted. One that a reader has yet to fetch stays until the caller drops it. A payload that does not fit is refused
// and is the caller's to store elsewhere, so that the shelf never holds anything up.
package shelf

import (
	"cmp"
	"container/list"
	"slices"
)

// Item is one payload.
type Item[L comparable, T any] struct {
	Lane    L
	Seq     uint64
	Attempt string
	Value   T

	size    int64
	users   int           // fetches under way
	fetches int           // complete ones
	readers int           // so many fetches make it spare
	spare   *list.Element // its place among those that are spare; nil for none
	off     bool          // taken off: Get finds it no more
}

// Shelf holds at most limit bytes. It is not safe for concurrent use.
type Shelf[L comparable, T any] struct {
	limit, bytes int64
	items        map[string]*Item[L, T] // by attempt, whose names are never used twice
	spare        list.List              // of those in items that are spare; the one that was fetched last is last
	free         int64                  // bytes of spare items without a fetch under way
}

// New returns an empty shelf.
func New[L comparable, T any](limit int64) *Shelf[L, T] {
	return &Shelf[L, T]{limit: limit, items: make(map[string]*Item[L, T])}
}

// Bytes is how much memory is held, that of payloads which were taken off during a fetch included.
func (s *Shelf[L, T]) Bytes() int64 { return s.bytes }

// Len is how many payloads can be found.
func (s *Shelf[L, T]) Len() int { return len(s.items) }

// Has reports whether a payload of a lane can be found.
func (s *Shelf[L, T]) Has(lane L) bool {
	for _, it := range s.items {
		if it.Lane == lane {
			return true
		}
	}
	return false
}

// Put keeps a payload whose memory is size bytes, and that so many readers fetch. Without room, the spare payloads that
// were fetched longest ago go, and their values are returned in freed. If that is not enough, nothing changes and it
// reports false.
func (s *Shelf[L, T]) Put(lane L, seq uint64, attempt string, size int64, readers int, value T) (freed []T, ok bool) {
	if size > s.limit-s.bytes+s.free {
		return nil, false
	}
	for e := s.spare.Front(); s.bytes+size > s.limit; {
		it := e.Value.(*Item[L, T])
		e = e.Next()
		if it.users == 0 {
			freed = append(freed, s.take(it)...)
		}
	}
	s.items[attempt] = &Item[L, T]{Lane: lane, Seq: seq, Attempt: attempt, Value: value, size: size, readers: max(readers, 1)}
	s.bytes += size
	return freed, true
}

// Expect says how many readers fetch each payload of a lane, and up to where all of them are past it.
func (s *Shelf[L, T]) Expect(lane L, readers int, taken uint64) {
	var changed []*Item[L, T]
	for _, it := range s.items {
		if it.Lane != lane {
			continue
		}
		if it.readers = max(readers, 1); it.Seq <= taken {
			it.readers = 0
		}
		if (it.fetches >= it.readers) != (it.spare != nil) {
			changed = append(changed, it)
		}
	}
	slices.SortFunc(changed, bySeq)
	for _, it := range changed {
		s.use(it)
		s.place(it)
		s.unuse(it)
	}
}

func bySeq[L comparable, T any](a, b *Item[L, T]) int {
	return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Attempt, b.Attempt))
}

// place puts an item that is in use to the end of the spare ones, or takes it out of them.
func (s *Shelf[L, T]) place(it *Item[L, T]) {
	switch {
	case it.fetches < it.readers && it.spare != nil:
		s.spare.Remove(it.spare)
		it.spare = nil
	case it.fetches < it.readers:
	case it.spare == nil:
		it.spare = s.spare.PushBack(it)
	default:
		s.spare.MoveToBack(it.spare)
	}
}

// Get finds a payload. Its memory is not used again before Done.
func (s *Shelf[L, T]) Get(attempt string) (*Item[L, T], bool) {
	it, ok := s.items[attempt]
	if ok {
		s.use(it)
	}
	return it, ok
}

func (s *Shelf[L, T]) use(it *Item[L, T]) {
	if it.users == 0 && it.spare != nil {
		s.free -= it.size
	}
	it.users++
}

func (s *Shelf[L, T]) unuse(it *Item[L, T]) {
	if it.users--; it.users == 0 && it.spare != nil {
		s.free += it.size
	}
}

// Done ends what Get began; fetched says that a reader has all that it wants of the payload.
func (s *Shelf[L, T]) Done(it *Item[L, T], fetched bool) (freed []T) {
	if it.off {
		if it.users--; it.users == 0 {
			s.bytes -= it.size
			return []T{it.Value}
		}
		return nil
	}
	if fetched {
		it.fetches++
		s.place(it)
	}
	s.unuse(it)
	return nil
}

// Drop takes a payload off. Values without a user are returned, here as in all methods.
func (s *Shelf[L, T]) Drop(attempt string) (freed []T) {
	if it, ok := s.items[attempt]; ok {
		return s.take(it)
	}
	return nil
}

// DropTo takes off what a lane has up to seq.
func (s *Shelf[L, T]) DropTo(lane L, seq uint64) (freed []T) {
	for _, it := range s.items {
		if it.Lane == lane && it.Seq <= seq {
			freed = append(freed, s.take(it)...)
		}
	}
	return freed
}

// Close refuses everything from now on, takes off what is spare, and returns what is not, each as if found by Get.
func (s *Shelf[L, T]) Close() (unfetched []*Item[L, T], freed []T) {
	s.limit = -1
	for _, it := range s.items {
		if it.spare != nil {
			freed = append(freed, s.take(it)...)
			continue
		}
		s.use(it)
		unfetched = append(unfetched, it)
	}
	slices.SortFunc(unfetched, bySeq)
	return unfetched, freed
}

func (s *Shelf[L, T]) take(it *Item[L, T]) (freed []T) {
	delete(s.items, it.Attempt)
	it.off = true
	if it.spare != nil {
		s.spare.Remove(it.spare)
		if it.users == 0 {
			s.free -= it.size
		}
	}
	if it.users > 0 {
		return nil
	}
	s.bytes -= it.size
	return []T{it.Value}
}
