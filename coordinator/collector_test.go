package coordinator

import (
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// A server that was restarted has lost what was in memory, which is no trouble to tell of: nothing is there to collect.
func TestNothingToCollectAfterARestart(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	c := &collector{&site{js: js}}
	if stored, err := c.generations(t.Context()); len(stored) > 0 || err != nil {
		t.Errorf("without streams: %v, %v", stored, err)
	}
	const gen = "01JQZ3V8XK5T9W2M4N6P8R0S1A"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(topology.Ensure(t.Context(), js, topology.Config{}))
	must(topology.CreateGeneration(t.Context(), js, wire.KindToken("count", 1), "train", gen))
	must(js.DeleteStream(t.Context(), topology.JobsStream))
	if stored, err := c.generations(t.Context()); len(stored) != 1 || err != nil {
		t.Errorf("with a store and without jobs: %v, %v", stored, err)
	}
}
