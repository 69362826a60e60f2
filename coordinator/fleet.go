package coordinator

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// workerLease is how long a worker that is not heard of still counts; it beats every second.
const workerLease = 3500 * time.Millisecond

// fleet is the table of live workers, kept from their heartbeats.
type fleet struct {
	changed func() // called without the lock when capacity changed

	mu      sync.Mutex
	workers map[string]heard
}

type heard struct {
	schema.WorkerStatus
	at time.Time
}

func (f *fleet) hear(m *nats.Msg) {
	var beat schema.WorkerStatus
	if len(m.Data) > maxBeat || json.Unmarshal(m.Data, &beat) != nil || wire.CheckName("worker", beat.Worker) != nil {
		return // not a heartbeat of this wire version
	}
	f.mu.Lock()
	if f.workers == nil {
		f.workers = make(map[string]heard)
	}
	before, known := f.workers[beat.Worker]
	if !known && len(f.workers) >= maxWorkers {
		f.mu.Unlock()
		return
	}
	if beat.Leaving {
		delete(f.workers, beat.Worker)
	} else {
		f.workers[beat.Worker] = heard{beat, time.Now()}
	}
	f.mu.Unlock()
	if !known || beat.Leaving || before.Slots != beat.Slots {
		f.changed()
	}
}

// expire forgets the workers that have fallen silent.
func (f *fleet) expire(now time.Time) {
	f.mu.Lock()
	n := len(f.workers)
	maps.DeleteFunc(f.workers, func(_ string, h heard) bool { return now.Sub(h.at) > workerLease })
	gone := n - len(f.workers)
	f.mu.Unlock()
	if gone > 0 {
		f.changed()
	}
}

// serving counts the live workers, and their slots, that serve a kind.
func (f *fleet) serving(kind string) (workers, slots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.workers {
		if slices.Contains(h.Kinds, kind) {
			workers++
			slots += h.Slots
		}
	}
	return workers, slots
}

func (f *fleet) list() []schema.WorkerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]schema.WorkerStatus, 0, len(f.workers))
	for _, h := range f.workers {
		list = append(list, h.WorkerStatus)
	}
	slices.SortFunc(list, func(a, b schema.WorkerStatus) int { return strings.Compare(a.Worker, b.Worker) })
	return list
}
