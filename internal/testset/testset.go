// Package testset has the data set of the tests, with every kind of trouble on request, and the oracle that knows what
// it must yield. It is linked into tests alone.
package testset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

// Params say what a Set yields. Positions count from 1; the zero value is endless, quick and without trouble.
type Params struct {
	N    uint64 `json:"n,omitempty"`    // positions until the end; 0 for endless
	Salt uint64 `json:"salt,omitempty"` // of the content: another salt, other bytes everywhere

	Size     int    `json:"size,omitempty"`      // payload bytes of a batch, but for its label; defaults to 64
	BigEvery uint64 `json:"big_every,omitempty"` // every so many positions a batch has BigSize bytes; 0 for never
	BigSize  int    `json:"big_size,omitempty"`

	Delay     time.Duration `json:"delay,omitempty"`  // that Materialize takes
	Jitter    bool          `json:"jitter,omitempty"` // Delay is the mean of exponential ones
	SlowEvery uint64        `json:"slow_every,omitempty"`
	Slow      time.Duration `json:"slow,omitempty"` // that it takes every SlowEvery positions

	HoleEvery  uint64 `json:"hole_every,omitempty"`   // every so many positions there is no batch; 0 for never
	FailAt     uint64 `json:"fail_at,omitempty"`      // position at which Materialize fails for good
	EOFAt      uint64 `json:"eof_at,omitempty"`       // position at which Materialize fails for good with io.EOF
	PanicAt    uint64 `json:"panic_at,omitempty"`     // position at which Materialize panics
	ExitAt     uint64 `json:"exit_at,omitempty"`      // position at which Materialize ends its process, as a crash does
	DifferFrom uint64 `json:"differ_from,omitempty"`  // from here on every process makes other batches; 0 for never
	IterFailAt uint64 `json:"iter_fail_at,omitempty"` // position at which Next fails
	StallAt    uint64 `json:"stall_at,omitempty"`     // position at which Next never returns

	Data string `json:"data,omitempty"` // file that is read when the set is opened: another text, other bytes everywhere
}

// harmless are the parameters that change neither order nor content, as far as there is any.
var harmless = []string{
	"delay", "jitter", "slow_every", "slow", "fail_at", "eof_at", "panic_at", "exit_at", "iter_fail_at", "stall_at", "data",
}

// Position is the state: a place in the sequence and a generator that is carried along, so that two ways to one place
// are two states.
type Position struct {
	I    uint64 `msgpack:"i"` // positions before this one
	Seed uint64 `msgpack:"seed"`
	Pad  []byte `msgpack:"pad,omitempty"` // for states that are too large
}

// Job is what a batch is made of.
type Job struct {
	At   uint64 `msgpack:"at"`
	Seed uint64 `msgpack:"seed"`
	Pad  []byte `msgpack:"pad,omitempty"` // for jobs that are too large
}

// Hooks are a test's way into a set of its own process; each may be nil, and is called from several goroutines.
type Hooks struct {
	Open        func(context.Context, Params) error           // before a set is opened
	Data        func(Params) string                           // the data that is opened, where Params.Data names no file
	Start       func() error                                  // before Start returns
	Next        func(Position, *Job, *Position) error         // with what Next is about to return
	Materialize func(context.Context, Params, Job) error      // before a batch is made
	Batch       func(Job, schema.Batch) (schema.Batch, error) // with the batch that was made
	Close       func() error                                  // when the set is closed
}

// Set is the data set: batches are a pure function of the position, pseudo-random bytes as tensor "x" and the position
// as tensor "y", so that a wrong batch can be told from a damaged one.
type Set struct {
	Params
	hooks Hooks
	data  string // the text of Params.Data
}

// Open opens a set. hooks may be nil.
func Open(ctx context.Context, p Params, hooks *Hooks) (*Set, error) {
	if hooks == nil {
		hooks = new(Hooks)
	}
	if p.Size < 0 || p.BigSize < 0 || p.Delay < 0 || p.Slow < 0 {
		return nil, errors.New("a size or a time is negative")
	}
	if hooks.Open != nil {
		if err := hooks.Open(ctx, p); err != nil {
			return nil, err
		}
	}
	s := &Set{Params: p, hooks: *hooks}
	if hooks.Data != nil {
		s.data = hooks.Data(p)
	}
	if p.Data != "" {
		text, err := os.ReadFile(p.Data)
		if err != nil {
			return nil, err
		}
		s.data = strings.TrimSpace(string(text))
	}
	return s, nil
}

// Fingerprint is the text that was opened.
func (s *Set) Fingerprint(context.Context) (dataset.Fingerprint, error) {
	f := dataset.Fingerprint{Digest: s.data, Ignore: harmless}
	if s.data != "" {
		f.Parts = []dataset.Part{{Name: "recordings", Value: s.data}}
	}
	return f, nil
}

// Define is the definition of sets under a name.
func Define(name string, hooks *Hooks) dataset.Definition {
	return dataset.Define(name, func(ctx context.Context, p Params) (*Set, error) { return Open(ctx, p, hooks) })
}

// Close calls its hook.
func (s *Set) Close() error {
	if s.hooks.Close != nil {
		return s.hooks.Close()
	}
	return nil
}

// Start is the first position.
func (s *Set) Start() (Position, error) {
	if s.hooks.Start != nil {
		if err := s.hooks.Start(); err != nil {
			return Position{}, err
		}
	}
	return Position{Seed: 7}, nil
}

// Next goes one position on.
func (s *Set) Next(p Position) (Job, Position, error) {
	at := p.I + 1
	switch {
	case s.N > 0 && p.I >= s.N:
		return Job{}, Position{}, io.EOF
	case at == s.IterFailAt:
		return Job{}, Position{}, fmt.Errorf("shard %d is not listed", at)
	case at == s.StallAt:
		select {}
	}
	job, next := Job{At: at, Seed: p.Seed}, Position{I: at, Seed: p.Seed*6364136223846793005 + 1442695040888963407}
	if s.hooks.Next != nil {
		if err := s.hooks.Next(p, &job, &next); err != nil {
			return Job{}, Position{}, err
		}
	}
	return job, next, nil
}

// Materialize makes the batch of a job, in its time.
func (s *Set) Materialize(ctx context.Context, j Job) (schema.Batch, error) {
	if s.hooks.Materialize != nil {
		if err := s.hooks.Materialize(ctx, s.Params, j); err != nil {
			return nil, err
		}
	}
	if err := sleep(ctx, s.delay(j.At)); err != nil {
		return nil, err
	}
	batch, err := s.Batch(j)
	if err == nil && s.hooks.Batch != nil {
		return s.hooks.Batch(j, batch)
	}
	return batch, err
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func (s *Set) delay(at uint64) time.Duration {
	switch {
	case s.SlowEvery > 0 && at%s.SlowEvery == 0:
		return s.Slow
	case s.Jitter:
		return time.Duration(rand.ExpFloat64() * float64(s.Delay))
	}
	return s.Delay
}

// Batch is the batch of a job, without hooks and at once.
func (s *Set) Batch(j Job) (schema.Batch, error) {
	switch {
	case j.At == s.FailAt:
		return nil, dataset.Permanent(fmt.Errorf("shard %d is corrupt", j.At))
	case j.At == s.EOFAt:
		return nil, dataset.Permanent(io.EOF)
	case j.At == s.PanicAt:
		panic(fmt.Sprintf("bad index at %d", j.At))
	case j.At == s.ExitAt:
		os.Exit(3)
	case s.HoleEvery > 0 && j.At%s.HoleEvery == 0:
		return nil, dataset.Skip("every so many")
	}
	size, seed := s.Size, j.Seed^s.Salt
	for _, c := range []byte(s.data) {
		seed = seed*1099511628211 ^ uint64(c)
	}
	if size == 0 {
		size = 64
	}
	if s.BigEvery > 0 && j.At%s.BigEvery == 0 {
		size = s.BigSize
	}
	if s.DifferFrom > 0 && j.At >= s.DifferFrom {
		seed ^= uint64(os.Getpid())
	}
	data := make([]uint8, (size+7)/8*8)
	r := rand.NewPCG(seed, j.At)
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

// Label is the position that a batch says it is of; 0 if it says none.
func Label(b schema.Batch) uint64 {
	y, ok := b.Get("y")
	if !ok || len(y.Data) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(y.Data)
}

// StateAt is a state of the set under a name that no run from Start need ever hand out.
func StateAt(name string, i, seed uint64) (schema.State, error) {
	s, err := schema.NewState(Position{I: i, Seed: seed})
	s.Dataset, s.Version = name, 1
	return s, err
}

// Progress says how far p is.
func (s *Set) Progress(p Position) (dataset.Progress, error) {
	epochs := min(1, s.N)
	return dataset.Progress{Epoch: 1, Epochs: epochs, Batch: p.I, Batches: s.N}, nil
}
