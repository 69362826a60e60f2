package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// workerLease is how long a worker that is not heard of still counts; it beats every second.
const workerLease = 3500 * time.Millisecond

// fleet is the table of live workers, kept from their heartbeats.
type fleet struct {
	changed func()                                                     // called without the lock when capacity changed
	tell    func(what, why string, beat schema.WorkerStatus, bad bool) // likewise, of a worker that came or went
	ask     func()                                                     // has every worker beat at once
	log     *slog.Logger

	answered chan struct{} // holds one hint that a worker was met, or that there is none

	mu      sync.Mutex
	met     bool      // who comes from now on was not there before
	expired time.Time // when silent workers were last looked for
	workers map[string]heard
}

type heard struct {
	schema.WorkerStatus
	at time.Time
}

// hear takes a heartbeat, or the server's word that there is no worker to ask.
func (f *fleet) hear(m *nats.Msg) {
	if topology.Unheard(m) {
		f.news()
		return
	}
	beat, ok := parseBeat(m.Data)
	if !ok {
		return
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
	came := f.met
	f.mu.Unlock()
	switch {
	case !known && !beat.Leaving:
		f.news()
		f.log.Info("worker came", "worker", beat.Worker, "slots", beat.Slots)
		if came {
			f.tell("came", fmt.Sprintf("slots: %d; serves %s", beat.Slots, strings.Join(wire.KindNames(beat.Kinds), " ")), beat, false)
		}
	case known && beat.Leaving:
		f.log.Info("worker left", "worker", beat.Worker, "done", beat.Done)
		f.tell("left", fmt.Sprintf("jobs done: %d", beat.Done), beat, false)
	}
	if known != !beat.Leaving || known && before.Slots != beat.Slots {
		f.changed()
	}
}

func (f *fleet) news() {
	select {
	case f.answered <- struct{}{}:
	default:
	}
}

// parseBeat reads a heartbeat and checks it; ok is false for one that no worker of this wire version sends.
func parseBeat(data []byte) (beat schema.WorkerStatus, ok bool) {
	if len(data) > maxBeat || json.Unmarshal(data, &beat) != nil {
		return beat, false
	}
	switch {
	case wire.CheckName("worker", beat.Worker) != nil,
		beat.Slots < 0 || beat.Slots > maxSlots,
		beat.Running < 0 || beat.Running > maxSlots,
		len(beat.Kinds) > maxServed,
		len(beat.Direct) > maxAddress || len(beat.DirectPin) > maxAddress,
		len(beat.Spent) > maxServed,
		slices.ContainsFunc(beat.Spent, func(s schema.Spent) bool { return len(s.Kind) > maxAddress }),
		slices.ContainsFunc(beat.Kinds, func(kind string) bool { return len(kind) > maxAddress }),
		len(beat.Suspended) > maxServed,
		slices.ContainsFunc(beat.Suspended, func(s schema.Suspension) bool {
			return len(s.Kind) > maxAddress || len(s.Batchers) > maxServed ||
				slices.ContainsFunc(s.Batchers, func(b string) bool { return wire.CheckName("batcher", b) != nil })
		}),
		beat.Oldest != nil && (wire.CheckName("batcher", beat.Oldest.Batcher) != nil || beat.Oldest.For < 0):
		return beat, false
	}
	beat.LastError = beat.LastError[:min(len(beat.LastError), maxError)]
	for i := range beat.Suspended {
		s := &beat.Suspended[i]
		s.Reason = s.Reason[:min(len(s.Reason), maxReason)]
	}
	return beat, true
}

// pardon forgives the workers their silence up to now, during which this coordinator could not hear them.
func (f *fleet) pardon(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, h := range f.workers {
		f.workers[name] = heard{h.WorkerStatus, now}
	}
}

// Bounds on the wait for workers at the start: each beats at once, or within a second.
const (
	meetQuiet = 100 * time.Millisecond
	meetLimit = beat + beat/4
)

// meet asks the workers to say that they are there and waits until they are known, so that no trainer hears that there
// are none.
func (f *fleet) meet(ctx context.Context) {
	defer f.meets()
	f.ask()
	limit := time.NewTimer(meetLimit)
	defer limit.Stop()
	select {
	case <-f.answered:
	case <-limit.C:
		return
	case <-ctx.Done():
		return
	}
	for {
		quiet := time.NewTimer(meetQuiet)
		select {
		case <-f.answered:
			quiet.Stop()
			continue
		case <-quiet.C:
		case <-limit.C:
		case <-ctx.Done():
		}
		quiet.Stop()
		return
	}
}

// meets ends the time in which the workers that are heard of first were there before.
func (f *fleet) meets() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.met = true
}

// expire forgets the workers that have fallen silent. Time in which this process did not run does not count as silence.
func (f *fleet) expire(now time.Time) {
	f.mu.Lock()
	paused := time.Duration(0)
	if !f.expired.IsZero() {
		paused = max(now.Sub(f.expired)-2*beat, 0)
	}
	f.expired = now
	for name, h := range f.workers {
		h.at = h.at.Add(paused)
		f.workers[name] = h
	}
	var gone []heard
	maps.DeleteFunc(f.workers, func(_ string, h heard) bool {
		silent := now.Sub(h.at) > workerLease
		if silent {
			gone = append(gone, h)
		}
		return silent
	})
	f.mu.Unlock()
	for _, h := range gone {
		f.log.Warn("worker is gone: it fell silent without leaving", "worker", h.Worker,
			"silent", now.Sub(h.at).Round(100*time.Millisecond), "running", h.Running)
		f.tell("died", fmt.Sprintf("silent for %v without leaving; jobs running: %d%s",
			now.Sub(h.at).Round(100*time.Millisecond), h.Running, lastWords(h.WorkerStatus)), h.WorkerStatus, true)
	}
	if len(gone) > 0 {
		f.changed()
	}
}

// lastWords is what a worker was at when it was heard last, and its last error.
func lastWords(s schema.WorkerStatus) (text string) {
	if j := s.Oldest; j != nil {
		text = fmt.Sprintf(", the longest of them %d of %s", j.Seq, j.Batcher)
	}
	if s.LastError != "" {
		text += "; its last error: " + s.LastError
	}
	return text
}

// serving counts the live workers, and their slots, that serve a batcher of a kind; without a name, those that serve
// the kind.
func (f *fleet) serving(kind, batcher string) (workers, slots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.workers {
		if _, leaves := h.leaves(kind, batcher); !leaves && slices.Contains(h.Kinds, kind) {
			workers++
			slots += h.Slots
		}
	}
	return workers, slots
}

// leaves reports whether a worker that has a kind leaves the jobs of a batcher to others, and why.
func (h *heard) leaves(kind, batcher string) (reason string, leaves bool) {
	i := slices.IndexFunc(h.Suspended, func(s schema.Suspension) bool { return s.Kind == kind })
	if i < 0 {
		return "", false
	}
	s := &h.Suspended[i]
	return s.Reason, !slices.Contains(h.Kinds, kind) || slices.Contains(s.Batchers, batcher)
}

// suspended says why workers leave the jobs of a batcher to others: the reason of the first by name, and how many of
// the live workers do. It is empty when none does.
func (f *fleet) suspended(kind, batcher string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, first, reason := 0, "", ""
	for name, h := range f.workers {
		why, leaves := h.leaves(kind, batcher)
		if !leaves {
			continue
		}
		if n++; n == 1 || name < first {
			first, reason = name, why
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s (%d of %s)", first, legible.Line(reason), n, legible.Count(len(f.workers), "worker"))
}

// crew is the live workers as last heard, in the order of their names.
func (f *fleet) crew() []heard {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.workers), func(a, b heard) int { return strings.Compare(a.Worker, b.Worker) })
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
