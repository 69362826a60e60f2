package model

import (
	"flag"
	"fmt"
	"strings"
	"testing"
)

var full = flag.Bool("model.full", false, "three batches everywhere and more faults at once: some minutes, and some gigabytes")

// TestEveryInterleaving finds no broken promise.
func TestEveryInterleaving(t *testing.T) {
	t.Parallel()
	const most = 16 << 20 // states of one search, 3 GB or so, and a minute or two
	small, whole := bounds{2, 3, most}, bounds{batches, seats, most}
	tests := []struct {
		bounds
		faults
		full, partial bool
	}{
		{whole, faults{}, false, false},
		{small, faults{crashes: 1}, false, false},
		{small, faults{losses: 1}, false, false},
		{small, faults{seeks: 1}, false, false},
		{small, faults{delays: 1}, false, false},
		{small, faults{seeks: 1, delays: 1}, false, false},
		{whole, faults{crashes: 1}, true, false},
		{whole, faults{losses: 1}, true, false},
		{whole, faults{seeks: 1}, true, false},
		{whole, faults{delays: 1}, true, false},
		{whole, faults{seeks: 1, delays: 1}, true, false},
		{small, faults{takeovers: 1}, true, false},
		{small, faults{crashes: 1, losses: 1}, true, false},
		{small, faults{crashes: 1, delays: 1}, true, false},
		{small, faults{crashes: 1, seeks: 1}, true, false},
		{small, faults{seeks: 1, losses: 1}, true, false},
		{small, faults{crashes: 1, takeovers: 1}, true, false},
		{whole, faults{takeovers: 1}, true, false},
		{whole, faults{crashes: 1, losses: 1}, true, false},
		{small, faults{takeovers: 1, seeks: 1}, true, true},
	}
	for _, tt := range tests {
		name := fmt.Sprintf("%d batches %+v", tt.batches, tt.faults)
		t.Run(name, func(t *testing.T) {
			if tt.full && !*full {
				t.Skip("only with -model.full")
			}
			f := search(tt.bounds, tt.faults, broken{})
			t.Log(f)
			if f.wrong != "" || f.partial && !tt.partial {
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
		{"the record is written without comparing", broken{noFence: true}, faults{takeovers: 1, seeks: 1}, ""},
		{"credits of former seats count", broken{noSeat: true}, faults{seeks: 1, delays: 1}, ""},
		{"requests that were overtaken count", broken{noRequest: true}, faults{seeks: 1, delays: 1}, "a request that was overtaken"},
		{"results are dropped before the record says so", broken{purgeFirst: true}, faults{takeovers: 1}, "I"},
		{"a generation is deleted before the record says so", broken{discardFirst: true}, faults{takeovers: 1, seeks: 1}, "I4"},
		{"a lost store is not noticed", broken{noGenesis: true}, faults{losses: 1}, "I6"},
		{"a late head is not looked after", broken{noRepair: true}, faults{losses: 1}, "I6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := search(bounds{batches: 2, seats: 4, states: 2 << 20}, tt.faults, tt.broken)
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
		f := search(bounds{batches: 2, seats: 3, states: 1 << 20}, faults{losses: 1}, b)
		t.Log(f)
		if f.wrong != "" || f.partial {
			t.Errorf("%+v: %s, or too large", b, f.wrong)
		}
	}
}
