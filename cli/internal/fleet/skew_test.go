package fleet

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestSkew(t *testing.T) {
	t.Parallel()
	running := schema.Status{Batcher: "train", Owner: "c1", Phase: schema.PhaseRunning, Dataset: "my-video", Version: 1}
	closed := schema.Status{Batcher: "old", Owner: "c1", Phase: schema.PhaseClosed, Dataset: "gone", Version: 1}
	for name, tc := range map[string]struct {
		datasets []string
		batchers []schema.Status
		workers  map[string][]string
		want     []string
	}{
		"all is well": {
			datasets: []string{"my-video-v1-w2", "idle-v1-w2"}, batchers: []schema.Status{running, closed},
			workers: map[string][]string{"a": {"my-video-v1-w2"}},
		},
		"no worker": {
			datasets: []string{"my-video-v1-w2"}, batchers: []schema.Status{running},
			want: []string{"my-video@1: wanted by train; no worker serves it"},
		},
		"side by side": {
			datasets: []string{"my-video-v1-w2"}, batchers: []schema.Status{running},
			workers: map[string][]string{"a": {"my-video-v1-w2"}, "b": {"my-video-v2-w2"}},
			want:    []string{"my-video@2: served by b; no coordinator has it, but my-video@1"},
		},
		"unknown wire": {
			datasets: []string{"my-video-v1-w2"}, batchers: []schema.Status{running},
			workers: map[string][]string{"b": {"my-video-v1-w3"}, "c": {"my-video-v1-w3"}},
			want: []string{
				"my-video@1: wanted by train; no worker serves it, but my-video@1 (wire 3)",
				"my-video@1 (wire 3): served by b, c; no coordinator has it, but my-video@1",
			},
		},
		"coordinator of another wire": {
			datasets: []string{"my-video-v1-w9"}, batchers: []schema.Status{running},
			workers: map[string][]string{"a": {"my-video-v1-w9"}},
		},
		"not a kind": {
			workers: map[string][]string{"a": {"", "-w", "-v-w"}},
			want:    []string{": served by a; no coordinator has it", "-v-w: served by a; no coordinator has it", "-w: served by a; no coordinator has it"},
		},
	} {
		o := wire.Overview{Coordinator: "c1", Kinds: tc.datasets, Batchers: tc.batchers}
		for worker, kinds := range tc.workers {
			o.Workers = append(o.Workers, schema.WorkerStatus{Worker: worker, Kinds: kinds})
		}
		var got []string
		for _, s := range Merge([]wire.Overview{o}).Skew {
			got = append(got, s.String())
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
