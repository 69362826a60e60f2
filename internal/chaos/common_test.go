package chaos

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sequenceName is the name of the data set that all tiers iterate.
const sequenceName = "sequence"

// sequence is a data set whose batches are a pure function of the position: pseudo-random bytes, and the position as a
// label, so that a wrong batch can be told from a damaged one.
type sequence struct{ sequenceParams }

type sequenceParams struct {
	N         uint64 `json:"n"`                    // positions until the end; 0 for endless
	Salt      uint64 `json:"salt,omitempty"`       // of the content: another salt, other bytes everywhere
	Size      int    `json:"size,omitempty"`       // payload bytes of a batch; defaults to 64
	BigEvery  uint64 `json:"big_every,omitempty"`  // every so many positions a batch has BigSize bytes; 0 for never
	BigSize   int    `json:"big_size,omitempty"`   // over wire.InlineLimit it travels in chunks
	DelayUS   int64  `json:"delay_us,omitempty"`   // mean of the exponential time that Materialize takes
	SlowEvery uint64 `json:"slow_every,omitempty"` // every so many positions it takes SlowUS; 0 for never
	SlowUS    int64  `json:"slow_us,omitempty"`
	HoleEvery uint64 `json:"hole_every,omitempty"` // every so many positions there is no batch; 0 for never
	FailAt    uint64 `json:"fail_at,omitempty"`    // position at which Materialize fails for good
	IterAt    uint64 `json:"iter_at,omitempty"`    // position at which Next fails
}

// position is the state: a place in the sequence and a generator that is carried along, so that two ways to one place
// are two states.
type position struct {
	I    uint64 `msgpack:"i"`
	Seed uint64 `msgpack:"seed"`
}

type sequenceJob struct {
	At   uint64 `msgpack:"at"`
	Seed uint64 `msgpack:"seed"`
}

func sequenceDefinition() dataset.Definition {
	return dataset.Define(sequenceName, func(_ context.Context, p sequenceParams) (*sequence, error) {
		if p.Size < 0 || p.BigSize < 0 || p.DelayUS < 0 || p.SlowUS < 0 {
			return nil, errors.New("a size or a time is negative")
		}
		return &sequence{p}, nil
	})
}

func (d *sequence) Start() (position, error) { return position{Seed: 7}, nil }

func (d *sequence) Next(s position) (sequenceJob, position, error) {
	at := s.I + 1
	if d.N > 0 && s.I >= d.N {
		return sequenceJob{}, position{}, io.EOF
	}
	if at == d.IterAt {
		return sequenceJob{}, position{}, fmt.Errorf("shard %d is not listed", at)
	}
	return sequenceJob{at, s.Seed}, position{at, s.Seed*6364136223846793005 + 1442695040888963407}, nil
}

func (d *sequence) Materialize(ctx context.Context, j sequenceJob) (schema.Batch, error) {
	if delay := d.delay(j.At); delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
	}
	return d.batch(j)
}

func (d *sequence) delay(at uint64) time.Duration {
	if d.SlowEvery > 0 && at%d.SlowEvery == 0 {
		return time.Duration(d.SlowUS) * time.Microsecond
	}
	return time.Duration(rand.ExpFloat64() * float64(d.DelayUS) * float64(time.Microsecond))
}

func (d *sequence) batch(j sequenceJob) (schema.Batch, error) {
	switch {
	case j.At == d.FailAt:
		return nil, dataset.Permanent(fmt.Errorf("shard %d is corrupt", j.At))
	case d.HoleEvery > 0 && j.At%d.HoleEvery == 0:
		return nil, dataset.Skip("every so many")
	}
	size := d.Size
	if size == 0 {
		size = 64
	}
	if d.BigEvery > 0 && j.At%d.BigEvery == 0 {
		size = d.BigSize
	}
	data := make([]uint8, (size+7)/8*8)
	r := rand.NewPCG(j.Seed^d.Salt, j.At)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], r.Uint64())
	}
	x, err := schema.NewTensor([]int{size}, data[:size])
	if err != nil {
		return nil, err
	}
	y, err := schema.NewTensor([]int{1}, []uint64{j.At})
	if err != nil {
		return nil, err
	}
	return schema.Batch{{Name: "x", Tensor: x}, {Name: "y", Tensor: y}}, nil
}

// stateAt is a state of the data set that no run from Start need ever hand out.
func stateAt(i, seed uint64) (schema.State, error) {
	s, err := schema.NewState(position{I: i, Seed: seed})
	s.Dataset, s.Version = sequenceName, 1
	return s, err
}

// oracle knows what a trainer must take: the single-process reference, without delays.
type oracle struct {
	ref   *dataset.Reference[schema.Batch]
	state schema.State // where the trainer is: what to ask Take for
	taken int          // batches checked and found right
}

func newOracle(p sequenceParams, from schema.State) *oracle {
	p.DelayUS, p.SlowUS = 0, 0
	return &oracle{ref: dataset.Sequential(&sequence{p}), state: from}
}

// How a batch can be wrong. A run ends at its first wrong batch, when it cannot be known yet whether the one that was
// passed over would have come later: lost and reordered are one class.
const (
	classLost       = "lost_or_reordered" // a later batch came in its place
	classDuplicated = "duplicated"        // the batch before came again, or an earlier one of the run
	classStale      = "stale"             // the right place of another run or state
	classDifferent  = "different"         // other bytes
	classEnd        = "wrong_end"         // the data ended, or went on, at the wrong place
)

// violation is a broken promise. Everything else that goes wrong is an error of the run.
type violation struct {
	class string
	what  string
}

func (v *violation) Error() string { return v.class + ": " + v.what }

// check compares what Take returned for o.state with the reference, and moves on by one batch if it is right. The error
// is a *violation when something wrong was taken, io.EOF when both sides end here, and else err itself.
func (o *oracle) check(got schema.Step[schema.Batch], err error) error {
	if err != nil && err != io.EOF { //nolint:errorlint // Take promises exactly io.EOF at the end
		return err
	}
	want, refErr := o.ref.Take(context.Background(), o.state)
	switch {
	case err == io.EOF && refErr == io.EOF: //nolint:errorlint // as above, and so does the reference
		return io.EOF
	case err == io.EOF: //nolint:errorlint // as above
		return &violation{classEnd, fmt.Sprintf("the data ended after %d batches, at %v", o.taken, o.state)}
	case refErr != nil:
		return &violation{classEnd, fmt.Sprintf("label %d came where the reference says %v", label(got.Batch), refErr)}
	}
	is, should := label(got.Batch), label(want.Batch)
	switch {
	case is > should:
		return &violation{classLost, fmt.Sprintf("label %d, want %d, after %d batches", is, should, o.taken)}
	case is < should:
		return &violation{classDuplicated, fmt.Sprintf("label %d, want %d, after %d batches", is, should, o.taken)}
	case !bytes.Equal(got.Prev.Data, o.state.Data):
		return &violation{classStale, fmt.Sprintf("label %d: state before it is %v, want %v", is, got.Prev, o.state)}
	case !bytes.Equal(got.Next.Data, want.Next.Data):
		return &violation{classStale, fmt.Sprintf("label %d: state after it is %v, want %v", is, got.Next, want.Next)}
	}
	a, err := wire.AppendPayload(nil, got.Batch)
	if err != nil {
		return err
	}
	b, err := wire.AppendPayload(nil, want.Batch)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return &violation{classDifferent, fmt.Sprintf("label %d: %d bytes of payload are not the reference's %d", is, len(a), len(b))}
	}
	o.state = got.Next
	o.taken++
	return nil
}

// label is the position that a batch says it is of.
func label(b schema.Batch) uint64 {
	y, ok := b.Get("y")
	if !ok || len(y.Data) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(y.Data)
}

// tally counts what schedules found; it is printed as JSON.
type tally struct {
	Schedules  int            `json:"schedules"`
	Batches    int            `json:"batches"`
	Violations map[string]int `json:"violations"` // by class; all zero is the promise
	Hangs      int            `json:"hangs"`      // runs that did not finish in time after the faults stopped
	Leaks      int            `json:"leaks"`      // goroutines, streams or consumers left behind
	Failures   int            `json:"failures"`   // runs that ended with an error that no fault explains
	Faults     map[string]int `json:"faults"`     // injected, by kind
}

func newTally() *tally {
	t := &tally{Violations: make(map[string]int), Faults: make(map[string]int)}
	for _, class := range []string{classLost, classDuplicated, classStale, classDifferent, classEnd} {
		t.Violations[class] = 0
	}
	return t
}
