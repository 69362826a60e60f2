package embedded_test

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
)

// Bounds of what one more worker of one slot costs the processes of a service in this one, and one more lane that it
// follows: goroutines of worker, client library and server.
const (
	goroutinesPerWorker = 40
	goroutinesPerLane   = 2
	lanesOfWorker       = 12 // that a worker of one slot follows, of many: eight on average
)

// TestManyWorkersAndBatchers has each worker follow some of the batchers, and each batcher have enough workers: all get
// their batches, also when half of the workers die, and what waits at the broker and in this process does not grow with
// their product.
func TestManyWorkersAndBatchers(t *testing.T) {
	t.Parallel()
	const workers, batchers = 24, 30
	svc := start(t, embedded.Config{Workers: -1, Slots: 1, Logger: slog.New(slog.DiscardHandler)})
	var names []string
	more := func(n int) {
		t.Helper()
		for range n {
			name, err := svc.AddWorker()
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
	}
	more(1)
	// A slot does one such job in the time that it takes to get the next: a worker asks each lane for one at a time.
	p := testset.Params{Delay: 20 * time.Millisecond}
	handles, oracles := make([]*batcher, batchers), make([]*testset.Oracle, batchers)
	for i := range handles {
		handles[i] = open(t, svc, p, func(cfg *client.Config) { cfg.Name = fmt.Sprintf("train-%d", i) })
		oracles[i] = oracle(t, p)
	}
	takeAll := func(n int) {
		var taking sync.WaitGroup
		for i := range handles {
			taking.Go(func() {
				for range n {
					step, err := handles[i].Take(t.Context(), oracles[i].State)
					if err := oracles[i].Check(step, err); err != nil {
						t.Errorf("batcher %d after %d batches: %v", i, oracles[i].Taken, err)
						return
					}
					step.Release()
				}
			})
		}
		taking.Wait()
	}
	takeAll(5)
	before := runtime.NumGoroutine()
	more(workers - 1)
	takeAll(20)

	js, err := jetstream.New(svc.Conn())
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := js.Stream(t.Context(), topology.JobsStream)
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "few requests wait", func() bool {
		total, followed := 0, true
		for c := range jobs.ListConsumers(t.Context()).Info() {
			followed = followed && c.NumWaiting > 0
			total += c.NumWaiting
		}
		return followed && total <= workers*lanesOfWorker
	})
	most := before + workers*(goroutinesPerWorker+goroutinesPerLane*lanesOfWorker)
	natstest.Eventually(t, fmt.Sprintf("of %d goroutines %d or fewer are left", runtime.NumGoroutine(), most), func() bool {
		return runtime.NumGoroutine() <= most
	})
	for _, name := range names[:workers/2] {
		if err := svc.KillWorker(name); err != nil {
			t.Fatal(err)
		}
	}
	takeAll(20)
	for _, b := range handles {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := svc.Close(); err != nil {
		t.Error(err)
	}
}
