package coordinator

import (
	"context"
	"testing"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// heavy makes jobs of 1 MiB for ever.
type heavy struct{ kind.Instance }

func (heavy) Next(state []byte) (job, next []byte, err error) { return make([]byte, 1<<20), state, nil }

// A demand ends with the job that exceeds its bytes, however many were asked for.
func TestDemandEndsWithItsBytes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := &feed{asked: make(chan ask, 1), ready: make(chan struct{}, 1)}
	go f.iterate(ctx, heavy{})
	for bytes, want := range map[int64]int{1: 1, 3 << 20: 3, 3<<20 + 1: 4, 100 << 20: 16} {
		f.demand(ask{state: nil, n: 16, bytes: bytes})
		got := 0
		for last := false; !last; {
			<-f.ready
			p := f.collect()
			got, last = got+len(p.items), p.last
		}
		if got != want {
			t.Errorf("%d jobs of 1 MiB for a demand of %d bytes, want %d", got, bytes, want)
		}
	}
}
