package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Data sets that cost nothing themselves. A state is the number of the next job; there is no end.
const (
	echoName   = "bench-echo"
	tensorName = "bench-tensor"
	sleepName  = "bench-sleep"
)

// Sizes of tensors from which on a batch is fetched from its worker, or does not ride in its record.
const (
	directFrom  = 32 << 10
	chunkedFrom = wire.InlineLimit
)

func definitions() []dataset.Definition {
	return []dataset.Definition{
		dataset.Define(echoName, openEcho), dataset.Define(tensorName, openTensor), dataset.Define(sleepName, openSleep),
	}
}

type counter[J, B any] struct {
	dataset.Funcs[uint64, J, B]
}

func (counter[J, B]) Start() (uint64, error) { return 1, nil }

type echoParams struct {
	Bytes int `json:"bytes"`
}

// openEcho gives jobs of some bytes, which are their own batches.
func openEcho(_ context.Context, p echoParams) (counter[[]byte, []byte], error) {
	body := filled(p.Bytes)
	return counter[[]byte, []byte]{dataset.Funcs[uint64, []byte, []byte]{
		NextFunc:        func(n uint64) ([]byte, uint64, error) { return body, n + 1, nil },
		MaterializeFunc: func(_ context.Context, job []byte) ([]byte, error) { return job, nil },
	}}, nil
}

type tensorParams struct {
	Bytes int  `json:"bytes"`
	Fresh bool `json:"fresh,omitempty"` // a tensor of its own for each batch
	Parts int  `json:"parts,omitempty"` // as many tensors of that size between them; 0 is one
}

// openTensor gives batches of one tensor or several, which are always the same unless they are to be fresh; a
// coordinator, which needs none, has none.
func openTensor(_ context.Context, p tensorParams) (counter[uint64, schema.Batch], error) {
	body := sync.OnceValue(func() []byte { return filled(p.Bytes) })
	tensor := func(data []byte) (batch schema.Batch, err error) {
		size := p.Bytes / max(p.Parts, 1)
		for i := range max(p.Parts, 1) {
			part, failed := schema.NewTensor([]int{size}, data[i*size:(i+1)*size])
			batch, err = append(batch, schema.Named{Name: fmt.Sprint("x", i), Tensor: part}), cmp.Or(err, failed)
		}
		return batch, err
	}
	batch := sync.OnceValues(func() (schema.Batch, error) { return tensor(body()) })
	if p.Fresh {
		batch = func() (schema.Batch, error) { return tensor(bytes.Clone(body())) }
	}
	return counter[uint64, schema.Batch]{dataset.Funcs[uint64, uint64, schema.Batch]{
		NextFunc:        func(n uint64) (uint64, uint64, error) { return n, n + 1, nil },
		MaterializeFunc: func(context.Context, uint64) (schema.Batch, error) { return batch() },
	}}, nil
}

type sleepParams struct {
	Every int           `json:"every"` // one job in so many takes slowBy times as long; 0 for none
	Sleep time.Duration `json:"sleep"` // of a job; 0 is sleepTime
}

const (
	sleepTime = 20 * time.Millisecond
	slowBy    = 100
)

// sleepOf is how long job n takes.
func (p sleepParams) sleepOf(n uint64) time.Duration {
	if p.Every > 0 && n%uint64(p.Every) == uint64(p.Every)/2 {
		return slowBy * sleepTime
	}
	return cmp.Or(p.Sleep, sleepTime)
}

// firstJob is when this process began its first job of openSleep.
var firstJob = moment{passed: make(chan struct{})}

// moment is one that passes once.
type moment struct {
	once   sync.Once
	at     time.Time // once passed is closed
	passed chan struct{}
}

func (m *moment) pass() {
	m.once.Do(func() {
		m.at = time.Now()
		close(m.passed)
	})
}

// openSleep gives empty batches after a while.
func openSleep(_ context.Context, p sleepParams) (counter[uint64, []byte], error) {
	return counter[uint64, []byte]{dataset.Funcs[uint64, uint64, []byte]{
		NextFunc: func(n uint64) (uint64, uint64, error) { return n, n + 1, nil },
		MaterializeFunc: func(ctx context.Context, n uint64) ([]byte, error) {
			firstJob.pass()
			t := time.NewTimer(p.sleepOf(n))
			defer t.Stop()
			select {
			case <-t.C:
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	}}, nil
}

// filled is n bytes that are not all alike.
func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 2654435761 >> 7)
	}
	return b
}
