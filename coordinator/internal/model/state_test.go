package model

import (
	"hash/maphash"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	batches = 3
	window  = 2
	gens    = 3 // generations that can be named; a way that needs more is cut off
	seats   = 6
	seqs    = batches + 2 // with the end, and counted from 1
)

// world is all there is: what is stored, what is in the memory of every role, and what is under way. Positions
// count the trainer's batches from 0; sequence numbers count from 1 within a generation; generation 0 is none.
type world struct {
	rec     wire.Record
	rev     uint64
	begun   uint8                 // generations that have a name
	store   [gens + 1]uint8       // of results
	res     [gens + 1][seqs]uint8 // what is stored, by sequence number: an attempt at a job
	live    [gens + 1][seqs]uint8 // sent on to readers, a bit for each attempt: any may arrive at any later time
	job     [gens + 1][seqs]uint8 // 1 + the position that the job is of
	made    [gens + 1][seqs]uint8 // the same of every job that ever was: results have what their jobs had
	co      [2]slot
	wk      [2]worker
	rd      reader
	granted [seats + 2]uint8 // the request that each seat was given for
	old     credit           // a credit that is late, and may come at any time, again and again
	req     seating          // a request that is late
	left    faults
	lossy   bool // something stored was lost or is deleted late, so that jobs may be missing until the owner looks
}

// What a store is.
const (
	unmade = iota
	made
	gone
)

// verdictBy is the attempt of a result that an owner stored: the end of the data.
const verdictBy = 3

// slot is a coordinator.
type slot struct {
	o       *owner.Owner // never changed but in a copy; nil for none
	hash    uint64
	pending []owner.Effect // not carried out yet, or whose event is not delivered
	asked   uint8          // the reader's request that it has not answered yet
	askedAt uint8          // the same of the late one
	doubt   bool           // it does not know what became of a change
	lost    uint8          // the generation that it found lost
}

// answered is an effect that was carried out and whose event is late.
type answered struct {
	owner.Log // which is an Effect, too
	event     owner.Event
}

type worker struct{ gen, seq, stage uint8 }

// Stages of a worker.
const (
	idle = iota
	running
	committed // known to be stored
)

// reader takes results straight from what was sent on: one that arrived earlier and was kept is the same one.
type reader struct {
	seated         bool
	done           bool  // it has the end of the data
	pos            uint8 // the trainer's state
	gen, seat, req uint8
	head           uint8 // sequence number of what it takes next
	believed       [gens + 1][seqs]uint8
	replies        [gens + 1][seqs]uint8 // set of seats in the answers to req, by generation and sequence number
}

type credit struct{ gen, seat, taken uint8 }

type seating struct{ req, pos uint8 }

// faults is how many of each may still happen.
type faults struct{ crashes, takeovers, losses, seeks, delays uint8 }

// broken names safeguards that are left out: of workers, readers and stores in the model itself, of owners by what
// stands between them and the rest.
type broken struct {
	ackFirst     bool // a job is acked when it is delivered
	overwrite    bool // results: the last write wins
	ingest       bool // readers hear what is published, and not what is stored
	noGen        bool // readers take results of any generation
	noChain      bool // readers do not compare states
	noFence      bool // the record is stored whatever Record says of its revision
	noSeat       bool // a late credit is given the seat that the owner knows
	noRequest    bool // a late request is given a number above the owner's
	purgeFirst   bool // the Purge that follows a Record is carried out without waiting for it
	discardFirst bool // the Discard that follows a Record is carried out without waiting for it
	noGenesis    bool // a Look finds every store as it should be
	noRepair     bool // no credit says that the head is late
}

// canonical is equal for worlds that go on alike. Coordinators are alike, and so are workers: worlds in which two of
// them have changed places are one.
func (x *stepper) canonical(w *world) uint64 {
	slots := [2]uint64{x.hashSlot(w, 0), x.hashSlot(w, 1)}
	if slots[0] > slots[1] {
		slots[0], slots[1] = slots[1], slots[0]
	}
	type plain struct {
		slots                    [2]uint64
		store                    [gens + 1]uint8
		res, live, job, believed [gens + 1][seqs]uint8
		replies                  [gens + 1][seqs]uint8
		wk                       [2]worker
		rd                       [7]uint8
		old                      credit
		req                      seating
		left                     faults
		lossy, seated            bool
		begun                    uint8
		rec                      uint64
	}
	h := &x.hasher
	h.begin()
	h.record(&w.rec)
	rd := &w.rd
	p := plain{
		slots: slots, store: w.store, res: w.res, live: w.live, job: w.job,
		believed: rd.believed, replies: rd.replies, wk: w.wk,
		rd:  [7]uint8{rd.pos, rd.gen, rd.seat, rd.req, rd.head, boolUint(rd.done)},
		old: w.old, req: w.req, left: w.left, lossy: w.lossy, seated: rd.seated, begun: w.begun, rec: h.Sum64(),
	}
	seed := h.Seed()
	one := maphash.Comparable(seed, p)
	p.wk[0], p.wk[1] = p.wk[1], p.wk[0]
	for g := range p.res {
		for q := range p.res[g] {
			p.res[g][q], p.believed[g][q] = otherAttempt(p.res[g][q]), otherAttempt(p.believed[g][q])
			l := p.live[g][q]
			p.live[g][q] = l&^(bit(1)|bit(2)) | l&bit(1)<<1 | l&bit(2)>>1
		}
	}
	return min(one, maphash.Comparable(seed, p))
}

func otherAttempt(a uint8) uint8 {
	if a == 0 || a == verdictBy {
		return a
	}
	return 3 - a
}

func boolUint(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func (x *stepper) hashSlot(w *world, c int) uint64 {
	s, h := &w.co[c], &x.hasher
	h.begin()
	h.uint(s.hash)
	named := w.rec.Owner == name(c)
	_, _ = h.Write([]byte{boolUint(s.o != nil), s.asked, s.askedAt, s.lost, boolUint(s.doubt), boolUint(named)})
	return h.Sum64()
}
