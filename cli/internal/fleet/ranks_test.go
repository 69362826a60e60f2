package fleet

import (
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

func TestRanks(t *testing.T) {
	t.Parallel()
	at := func(rank int, taken uint64, silent time.Duration) schema.MemberStatus {
		return schema.MemberStatus{Rank: rank, Reader: "r", Taken: taken, Silent: silent}
	}
	for want, b := range map[string]schema.Status{
		"":    {World: "w", Members: []schema.MemberStatus{at(0, 7, 0)}, Heard: 1},
		"2/2": {Members: []schema.MemberStatus{at(0, 7, time.Second), at(1, 7, 0)}, Heard: 2},
		"2/2, 5 apart, slowest 1": {
			Members: []schema.MemberStatus{at(0, 12, time.Second), at(1, 7, time.Second)}, Heard: 2, Spread: 5, Slowest: 1,
		},
		"1/2, 5 apart, slowest 0 silent for 14s": {
			Members: []schema.MemberStatus{at(0, 7, 14*time.Second), at(1, 12, 0)}, Heard: 1, Spread: 5,
		},
		"1/3, rank 2 silent for 9s": {
			Members: []schema.MemberStatus{at(0, 7, 0), at(1, 7, 4*time.Second), at(2, 7, 9*time.Second)}, Heard: 1,
		},
		"1/2, 3 apart, slowest 1 has not come yet": {
			Members: []schema.MemberStatus{at(0, 3, 0), {Rank: 1, Silent: time.Second}}, Heard: 1, Spread: 3, Slowest: 1,
		},
		// Of one that left nothing is expected.
		"1/2": {Members: []schema.MemberStatus{at(0, 7, 0), {Rank: 1, Reader: "r", Left: true, Silent: time.Hour}}, Heard: 1},
	} {
		if got := Ranks(b); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestBySlowest(t *testing.T) {
	t.Parallel()
	b := schema.Status{Members: []schema.MemberStatus{
		{Rank: 0, Reader: "r", Taken: 9}, {Rank: 1, Reader: "r", Taken: 2, Left: true}, {Rank: 2, Reader: "r", Taken: 4},
		{Rank: 3},
	}}
	for i, want := range []struct {
		rank   int
		behind uint64
		heard  string
	}{{3, 9, "not come yet"}, {2, 5, "0.0s ago"}, {0, 0, "0.0s ago"}, {1, 7, "left"}} {
		m := BySlowest(b)[i]
		if m.Rank != want.rank || Behind(b, m) != want.behind || Heard(m) != want.heard {
			t.Errorf("%d: rank %d, %d behind, %s", i, m.Rank, Behind(b, m), Heard(m))
		}
	}
}
