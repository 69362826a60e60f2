package worker

import (
	"sync"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker/internal/shelf"
)

// keepFrom is the size, in bytes, of the smallest payload that is kept: the way through the server copies it half a
// dozen times, which costs more from there on than a request of its own.
const keepFrom = 32 << 10

// keeper keeps large payloads for readers to fetch. Its lock guards the shelf and what is counted of it; it is not held
// while a payload is sent or stored.
type keeper struct {
	*life

	mu       sync.Mutex
	shelf    *shelf.Shelf[*lane, *product]
	address  wire.Direct // where readers fetch; without an Address nothing is kept
	fetched  uint64      // complete fetches
	sent     uint64      // bytes of these
	uploaded uint64      // payloads that had to be stored after all
}

func newKeeper(limit int64, life *life) *keeper {
	return &keeper{life: life, shelf: shelf.New[*lane, *product](limit)}
}

// open begins to keep payloads, which readers fetch at an address.
func (k *keeper) open(address wire.Direct) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.address = address
}

// at is where readers fetch; the zero value for nowhere.
func (k *keeper) at() wire.Direct {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.address
}

// keep puts a large payload on the shelf, which owns it from then on, and names the address in the result. It reports
// false for a payload that has to be stored, in its record or apart from it.
func (k *keeper) keep(l *lane, r *wire.Result, payload *product) bool {
	k.mu.Lock()
	if k.address.Address == "" || r.Size < keepFrom || k.now() < l.avoid.Load() {
		k.mu.Unlock()
		return false
	}
	freed, ok := k.shelf.Put(l, r.Seq, r.Attempt, int64(r.Size), int(l.readers.Load()), payload)
	at := k.address
	k.mu.Unlock()
	free(freed)
	if ok {
		r.Direct = &at
	}
	return ok
}

// drop takes an attempt's payload off the shelf, if it is there.
func (k *keeper) drop(r *wire.Result) {
	if r.Direct != nil {
		k.change(func(s *shelf.Shelf[*lane, *product]) []*product { return s.Drop(r.Attempt) })
	}
}

// announced heeds what the owner says of a lane's payloads: which are of no use any more, and who fetches the others.
func (k *keeper) announced(l *lane, hint *wire.Lane) {
	l.readers.Store(int64(hint.Readers))
	k.change(func(s *shelf.Shelf[*lane, *product]) []*product {
		s.Expect(l, hint.Readers, hint.Taken)
		return s.DropTo(l, hint.Floor)
	})
}

// dropTo takes a lane's payloads up to floor off the shelf.
func (k *keeper) dropTo(l *lane, floor uint64) {
	k.change(func(s *shelf.Shelf[*lane, *product]) []*product { return s.DropTo(l, floor) })
}

// dropAll takes all payloads of a lane that is closed off the shelf. What an execution puts there later is dropped by
// the execution, which looks whether the lane is closed.
func (k *keeper) dropAll(l *lane) { k.dropTo(l, ^uint64(0)) }

// any reports whether a payload of a lane is kept.
func (k *keeper) any(l *lane) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.shelf.Has(l)
}

// get finds a payload, whose memory stays until done.
func (k *keeper) get(attempt string) (*shelf.Item[*lane, *product], bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.shelf.Get(attempt)
}

// done ends what get began; fetched says that a reader has all that it wants of the payload, so many bytes.
func (k *keeper) done(it *shelf.Item[*lane, *product], fetched bool, size int) {
	k.change(func(s *shelf.Shelf[*lane, *product]) []*product {
		if fetched {
			k.fetched++
			k.sent += uint64(size)
		}
		return s.Done(it, fetched)
	})
}

// stored ends what get began for a payload that is in the store now, and takes it off the shelf.
func (k *keeper) stored(it *shelf.Item[*lane, *product]) {
	k.change(func(s *shelf.Shelf[*lane, *product]) []*product {
		k.uploaded++
		return append(s.Drop(it.Attempt), s.Done(it, false)...)
	})
}

// close keeps nothing more and returns what no reader has fetched, each as if found by get.
func (k *keeper) close() (unfetched []*shelf.Item[*lane, *product]) {
	k.change(func(s *shelf.Shelf[*lane, *product]) (freed []*product) {
		unfetched, freed = s.Close()
		return freed
	})
	return unfetched
}

func (k *keeper) change(f func(*shelf.Shelf[*lane, *product]) []*product) {
	k.mu.Lock()
	freed := f(k.shelf)
	k.mu.Unlock()
	free(freed)
}

func free(payloads []*product) {
	for _, p := range payloads {
		p.free()
	}
}

// counts adds what the keeper counts to a snapshot.
func (k *keeper) counts(s *snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.keptBytes, s.fetched, s.fetchedBytes, s.unfetched = k.shelf.Bytes(), k.fetched, k.sent, k.uploaded
}
