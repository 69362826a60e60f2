package coordinator_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

// count is a state and a job: how many batches came before.
type count struct {
	I   int    `msgpack:"i"`
	Pad []byte `msgpack:"pad,omitempty"`
}

type params struct {
	N     int `json:"n,omitempty"`     // batches; 0 for endless
	Shift int `json:"shift,omitempty"` // tells parameters apart
}

// counter is the data set of these tests. Its hooks are the test's way into Next, Start and open.
type counter struct {
	params
	*hooks
}

type hooks struct {
	open  func(params) error
	start func() error
	next  func(i int) (job, state count, err error)
	calls atomic.Int64
}

func (c counter) Start() (count, error) {
	if c.hooks.start != nil {
		return count{}, c.hooks.start()
	}
	return count{}, nil
}

func (c counter) Next(s count) (count, count, error) {
	c.calls.Add(1)
	if c.N > 0 && s.I >= c.N {
		return count{}, count{}, io.EOF
	}
	if c.next != nil {
		return c.next(s.I)
	}
	return count{I: s.I}, count{I: s.I + 1}, nil
}

func (c counter) Progress(s count) (dataset.Progress, error) {
	return dataset.Progress{Epoch: 1, Batch: uint64(s.I), Batches: uint64(c.N)}, nil
}

func (c counter) Materialize(context.Context, count) (schema.Batch, error) {
	return nil, errors.New("a coordinator materializes nothing")
}

func counting(h *hooks) dataset.Definition {
	return dataset.Define("count", func(_ context.Context, p params) (counter, error) {
		if h.open != nil {
			if err := h.open(p); err != nil {
				return counter{}, err
			}
		}
		return counter{p, h}, nil
	})
}
