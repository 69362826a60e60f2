package coordinator

import (
	"testing"

	"github.com/jetbatch/jetbatch/internal/wire"
)

func TestFedBefore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		taken   uint64
		commits []uint64
		want    uint64
	}{
		"nothing is stored":     {7, nil, 7},
		"all of it was taken":   {7, []uint64{5, 6, 7}, 7},
		"some came out of turn": {7, []uint64{8, 12}, 12},
		"one lies far beyond":   {7, []uint64{8, 9, 1 << 40}, 9},
		"as far as it counts":   {7, []uint64{8, 7 + 2*2 + wire.BlockSize}, 7 + 2*2 + wire.BlockSize},
	} {
		commits := make(map[uint64]bool)
		for _, seq := range test.commits {
			commits[seq] = true
		}
		if got := fedBefore(test.taken, commits); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
