package model

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

var full = flag.Bool("model.full", false, "more batches and more faults at once: some minutes, and some gigabytes")

// TestEveryInterleaving finds no broken promise.
func TestEveryInterleaving(t *testing.T) {
	t.Parallel()
	const most = 1 << 20 // states of one search, a minute of computing or so
	one, two := bounds{batches: 1, seats: 4, states: most}, bounds{batches: 2, seats: 4, states: most}
	three := bounds{batches: batches, seats: seats, states: most}
	ends := func(b bounds) bounds { b.end = true; return b }
	several := func(b bounds) bounds { b.candidates = 2; return b }
	tests := []struct {
		bounds
		faults
		full bool
	}{
		{two, faults{}, false},
		{ends(two), faults{}, false},
		{two, faults{crashes: 1}, false},
		{two, faults{seeks: 1}, false},
		{one, faults{takeovers: 1}, false},
		{one, faults{losses: 1}, false},
		{one, faults{delays: 1}, false},
		{one, faults{seeks: 1, delays: 1}, false},
		{several(one), faults{losses: 1, delays: 1}, false},
		{ends(one), faults{seeks: 1}, false},
		{ends(one), faults{crashes: 1}, false},
		{ends(one), faults{delays: 1}, false},
		{three, faults{}, true},
		{ends(three), faults{}, true},
		{three, faults{crashes: 1}, true},
		{three, faults{seeks: 1}, true},
		{two, faults{delays: 1}, true},
		{two, faults{losses: 1}, true},
		{two, faults{takeovers: 1}, true},
		{two, faults{seeks: 1, delays: 1}, true},
		{two, faults{crashes: 1, delays: 1}, true},
		{ends(two), faults{seeks: 1}, true},
		{ends(two), faults{crashes: 1}, true},
		{ends(two), faults{delays: 1}, true},
		{ends(one), faults{losses: 1}, true},
		{ends(one), faults{takeovers: 1}, true},
		{one, faults{crashes: 1, losses: 1}, true},
		{one, faults{seeks: 1, losses: 1}, true},
		{one, faults{delays: 2}, true},
		{one, faults{crashes: 1, takeovers: 1}, true},
		{one, faults{takeovers: 1, delays: 1}, true},
		{one, faults{takeovers: 1, seeks: 1}, true},
		{one, faults{takeovers: 1, losses: 1}, true},
	}
	for _, tt := range tests {
		name := fmt.Sprintf("%d batches %+v end %v candidates %d", tt.batches, tt.faults, tt.end, max(1, tt.candidates))
		t.Run(name, func(t *testing.T) {
			if tt.full && !*full {
				t.Skip("a search of minutes: only with -model.full")
			}
			f := search(tt.bounds, tt.faults, broken{})
			t.Log(f)
			if f.wrong != "" || f.partial && !tt.full {
				t.Errorf("%s, or too large", f.wrong)
			}
		})
	}
}

// TestEverySafeguardIsNeeded leaves out one safeguard at a time; the search finds what then goes wrong.
func TestEverySafeguardIsNeeded(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		broken
		faults
		wrong string
	}{
		{"a job is acked first", broken{ackFirst: true}, faults{}, "I2"},
		{"the last write wins", broken{overwrite: true}, faults{seeks: 1, delays: 1}, "I3"},
		{"readers hear what is not stored", broken{ingest: true}, faults{seeks: 1, delays: 1}, "I3"},
		{"no generation and no chain is checked", broken{noGen: true, noChain: true}, faults{losses: 1}, "the trainer at"},
		{"the record is written without comparing", broken{noFence: true}, faults{takeovers: 1, seeks: 1}, "I4"},
		{"credits of former seats count", broken{noSeat: true}, faults{seeks: 1, delays: 1}, "the record has"},
		{"requests that were overtaken count", broken{noRequest: true}, faults{seeks: 1, delays: 1}, "a request that"},
		{"results are dropped before the record says so", broken{purgeFirst: true}, faults{}, "I4"},
		{"a generation is deleted before the record says so", broken{discardFirst: true}, faults{losses: 1}, "I4"},
		{"a lost store is not noticed", broken{noGenesis: true}, faults{losses: 1}, "I6"},
		{"a late head is not looked after", broken{noRepair: true}, faults{losses: 1}, "I6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			size := bounds{batches: 2, seats: 4, states: 1 << 18}
			if strings.HasPrefix(tt.wrong, "I6") { // the search has to come to an end to see it
				size.batches = 1
			}
			f := search(size, tt.faults, tt.broken)
			t.Log(f)
			if f.wrong == "" || f.trace == nil || !strings.HasPrefix(f.wrong, tt.wrong) {
				t.Errorf("got %q, want %q", f.wrong, tt.wrong)
			}
		})
	}
}

// TestGenerationAndChainBackEachOther shows that of these two either is enough for the batches to be right.
func TestGenerationAndChainBackEachOther(t *testing.T) {
	t.Parallel()
	for _, b := range []broken{{noGen: true}, {noChain: true}} {
		f := search(bounds{batches: 1, seats: 3, states: 1 << 20}, faults{losses: 1}, b)
		t.Log(f)
		if f.wrong != "" || f.partial {
			t.Errorf("%+v: %s, or too large", b, f.wrong)
		}
	}
}
