package worker

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// beatInterval is how often a worker says that it is alive.
const beatInterval = time.Second

// StatusPrefix is where a worker answers requests with its schema.WorkerStatus as JSON: StatusPrefix.<name>.
const StatusPrefix = "jetbatch.worker-status"

// Status returns how the worker stands.
func (w *Worker) Status() schema.WorkerStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := schema.WorkerStatus{
		Worker: w.cfg.Name, Kinds: w.tokens(), Slots: w.sched.Slots(), Running: w.sched.Running(),
		Done: w.done, Failed: w.failed, Retried: w.retried, Leaving: w.draining, LastError: w.lastError,
		Oldest: w.oldest(), Now: time.Now(),
	}
	if k := w.keeper.Load(); k != nil && !direct.IsInProcess(k.address) {
		s.Direct, s.DirectPin = k.address, k.listener.Pin
	}
	if w.draining {
		s.Slots = 0
	}
	return s
}

// oldest is the job that was begun first of those that are not stored yet, if there are any. w.mu is held.
func (w *Worker) oldest() *schema.Running {
	var first *job
	for _, j := range w.held {
		if j.deadline > 0 && (first == nil || j.deadline < first.deadline) {
			first = j
		}
	}
	if first == nil {
		return nil
	}
	_, _, _, seq, _, err := wire.ParseJobSubject(first.subject)
	if err != nil {
		return nil // it ends as an error by itself
	}
	ran := w.now() - first.deadline + int64(w.cfg.JobTimeout)
	return &schema.Running{Batcher: first.lane.batcher, Seq: seq, For: time.Duration(max(ran, 0))}
}

func (w *Worker) tokens() []string {
	tokens := make([]string, 0, len(w.kinds))
	for token := range w.kinds {
		tokens = append(tokens, token)
	}
	slices.Sort(tokens)
	return tokens
}

// beat tells the coordinators that the worker is there. A beat that is lost is made good by the next.
func (w *Worker) beat() {
	if !w.nc.IsConnected() {
		return
	}
	data, err := json.Marshal(w.Status())
	if err == nil {
		err = w.nc.Publish(wire.WorkerPrefix+"."+w.cfg.Name, data)
	}
	if err != nil {
		w.log.Warn("beat not sent", "error", err)
	}
}

// announce makes the loop send a beat at once.
func (w *Worker) announce() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// serve registers the micro service jetbatch-worker.
func (w *Worker) serve() (micro.Service, error) {
	service, err := micro.AddService(w.nc, micro.Config{
		Name: "jetbatch-worker", Version: wire.Release, Description: "materializes jetbatch jobs",
		Metadata:     map[string]string{"worker": w.cfg.Name},
		StatsHandler: func(*micro.Endpoint) any { return w.Status() },
	})
	if err != nil {
		return nil, err
	}
	err = service.AddEndpoint("status", micro.HandlerFunc(func(r micro.Request) {
		if !topology.Answerable(r.Reply()) {
			return // nobody waits there
		}
		if err := r.RespondJSON(w.Status()); err != nil {
			w.log.Warn("status not answered", "error", err)
		}
	}), micro.WithEndpointSubject(StatusPrefix+"."+w.cfg.Name))
	if err != nil {
		_ = service.Stop() // the first error is the one to report
		return nil, err
	}
	return service, nil
}

// jitter returns a random part of d.
func jitter(d time.Duration) time.Duration { return rand.N(d) }
