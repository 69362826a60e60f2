package bench

import (
	"context"

	"github.com/jetbatch/jetbatch/dataset"
)

// Data sets that cost nothing themselves. A state is the number of the next job; there is no end.
const echoName = "bench-echo"

func definitions() []dataset.Definition {
	return []dataset.Definition{dataset.Define(echoName, openEcho)}
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

// filled is n bytes that are not all alike.
func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 2654435761 >> 7)
	}
	return b
}
