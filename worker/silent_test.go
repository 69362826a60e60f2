package worker

import (
	"fmt"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
)

// TestSilentLanesAreLookedAtInTurn falls silent with all that it announces: the worker reads one record after another,
// and all of them.
func TestSilentLanesAreLookedAtInTurn(t *testing.T) {
	t.Parallel()
	const many = 8
	s := natstest.Run(t)
	w, _ := start(t, s, Config{Name: "w1", Slots: 1}, nil, plain())
	owners := make([]*owner, many)
	for i := range owners {
		owners[i] = newOwner(t, s, fmt.Sprintf("train-%d", i), "plain")
	}
	natstest.Eventually(t, "all lanes are open", func() bool { return len(w.lanes.all()) == many })
	w.lanes.records.mu.Lock() // no record is read
	for _, o := range owners {
		o.silence()
	}
	natstest.Eventually(t, "all lanes are missed", func() bool {
		silent := 0
		for _, l := range w.lanes.all() {
			l.mu.Lock()
			if w.now() > l.lookAt || l.looks > 0 {
				silent++
			}
			l.mu.Unlock()
		}
		return silent == many
	})
	w.lanes.tick()
	w.lanes.mu.Lock()
	looks := len(w.lanes.looks)
	w.lanes.mu.Unlock()
	w.lanes.records.mu.Unlock()
	if looks > 1 {
		t.Errorf("%d records are asked for at once", looks)
	}
	natstest.Eventually(t, "all records were read", func() bool {
		for _, l := range w.lanes.all() {
			l.mu.Lock()
			looked := l.looks > 0
			l.mu.Unlock()
			if !looked {
				return false
			}
		}
		return true
	})
}
