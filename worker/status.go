package worker

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Status returns how the worker stands.
func (w *Worker) Status() schema.WorkerStatus {
	running, slots, _ := w.slots.load()
	s := schema.WorkerStatus{
		Worker: w.worker(), Slots: slots, Running: running, Leaving: w.bell.draining.Load(), Now: time.Now(),
	}
	if limit := memoryLimit(); limit < math.MaxInt64 {
		s.Memory, s.KeepBytes = limit, w.cfg.KeepBytes
	}
	w.tally.figures(&s)
	s.Spent = w.tally.spent(w.kinds)
	reasons, missing := w.away.reasons(w.lanes.all())
	if len(reasons) > 0 {
		s.LastError = reasons[0].Reason // as long as it lasts
	}
	s.Suspended = reasons
	s.Kinds = slices.DeleteFunc(w.tokens(), func(token string) bool { return missing[token] })
	if j, ran := w.held.oldest(); j != nil && j.work != nil {
		s.Oldest = &schema.Running{Batcher: j.lane.batcher, Seq: j.seq, For: ran}
	}
	if at := w.shelf.at(); at.Address != "" && !direct.IsInProcess(at.Address) {
		s.Direct, s.DirectPin = at.Address, at.Pin
	}
	if s.Leaving {
		s.Slots = 0
	}
	return s
}

func (w *Worker) tokens() []string { return slices.Sorted(maps.Keys(w.kinds)) }

// snapshot is the worker as metrics show it.
func (w *Worker) snapshot() *snapshot {
	s := &snapshot{WorkerStatus: w.Status(), outstanding: w.gate.bytes()}
	s.held, _ = w.held.counts()
	s.datasets = make(map[string]string, len(w.kinds))
	for token, k := range w.kinds {
		s.datasets[token] = k.Name
	}
	_, _, s.lost = w.slots.load()
	w.shelf.counts(s)
	return s
}

// announce tells the coordinators that the worker is there. An announcement that is lost is made good by the next.
func (w *Worker) announce() {
	if !w.conns.control.IsConnected() {
		return
	}
	data, err := json.Marshal(w.Status())
	if err == nil {
		err = w.conns.control.Publish(wire.WorkerPrefix+"."+w.worker(), data)
	}
	if err != nil {
		w.log.Warn("worker not announced", "error", err)
	}
}

// serve shows the worker as the micro service jetbatch-worker.
func (w *Worker) serve() (*topology.Service, error) {
	status := func() any { return w.Status() }
	return topology.Serve(w.conns.control, topology.ServiceConfig{
		Name: "jetbatch-worker", Version: wire.Release, Description: "materializes jetbatch jobs",
		Metadata:  map[string]string{"worker": w.worker()},
		Stats:     status,
		Endpoints: []topology.Endpoint{{Name: "status", Subject: wire.StatusPrefix + "." + w.worker(), Answer: status}},
	})
}

// Live returns nil while the process is of use: it has begun, and not every slot is lost to a job that ignores its
// deadline, which only a new process mends. A broker that is away is no reason to start it again.
func (w *Worker) Live() error {
	_, slots, lost := w.slots.load()
	switch {
	case w.slots.isStopped():
		return ErrNotRunning
	case lost > 0 && slots == 0:
		return fmt.Errorf("%w: all %d are held by jobs that ignore their deadline", ErrNoSlots, lost)
	}
	return nil
}

// Ready returns nil while the worker takes jobs, and else why it does not: it has not begun, it drains, a connection
// is away, or it is not live.
func (w *Worker) Ready() error {
	if err := w.Live(); err != nil {
		return err
	}
	switch {
	case !w.serving.Load() || w.bell.draining.Load():
		return ErrNotRunning
	case !w.conns.control.IsConnected() || !w.conns.data.IsConnected():
		return fmt.Errorf("%w: there is no connection to NATS", ErrNotRunning)
	}
	return nil
}
