package fleet

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/jetbatch/jetbatch/schema"
)

// spent is a worker whose jobs took so long each.
func spent(name string, n uint64, materialize, store time.Duration) schema.WorkerStatus {
	sum := func(d time.Duration) schema.Sum { return schema.Sum{Total: time.Duration(n) * d, N: n} }
	return schema.WorkerStatus{Worker: name, Spent: []schema.Spent{
		{Kind: "onda-v1-w2", Queue: sum(0), Materialize: sum(materialize), Store: sum(store)},
	}}
}

func TestSlows(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		workers []schema.WorkerStatus
		want    map[string]string
	}{
		"alone":     {[]schema.WorkerStatus{spent("a", 100, 900*ms, ms)}, nil},
		"all alike": {[]schema.WorkerStatus{spent("a", 100, 20*ms, ms), spent("b", 90, 25*ms, ms)}, nil},
		"materializes": {
			[]schema.WorkerStatus{spent("a", 100, 20*ms, ms), spent("b", 100, 21*ms, ms), spent("c", 50, 64*ms, ms)},
			map[string]string{"c": "3.2 x as long to materialize: 64ms, others 20ms"},
		},
		"stores": {
			[]schema.WorkerStatus{spent("a", 100, 20*ms, ms), spent("b", 100, 20*ms, 40*ms)},
			map[string]string{"b": "40.0 x as long to store: 40ms, others 1ms"},
		},
		"too few":       {[]schema.WorkerStatus{spent("a", 4, 90*ms, ms), spent("b", 100, 20*ms, ms)}, nil},
		"microseconds":  {[]schema.WorkerStatus{spent("a", 9, 900*time.Microsecond, 0), spent("b", 9, 100*time.Microsecond, 0)}, nil},
		"no time known": {[]schema.WorkerStatus{{Worker: "a"}, {Worker: "b", Spent: []schema.Spent{{Kind: "k"}}}}, nil},
	} {
		var got map[string]string
		for worker, s := range Slows(tc.workers) {
			if got == nil {
				got = make(map[string]string)
			}
			got[worker] = s.String()
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
