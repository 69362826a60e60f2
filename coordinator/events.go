package coordinator

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// tell stores an event, without waiting whether it is stored: events are for people, and nothing depends on one. Of
// events with one id, which coordinators give to what all of them see, the stream keeps the first.
func (s *site) tell(e wire.Event, id string) {
	if e.By == "" {
		e.By = s.cfg.Name
	}
	if len(e.Why) > wire.MaxWhy {
		e.Why = strings.ToValidUTF8(e.Why[:wire.MaxWhy], "") + "…"
	}
	data, err := json.Marshal(e)
	if err != nil || len(data) > wire.MaxEvent {
		return // a text of another process that is nearly all escapes
	}
	m := &nats.Msg{Subject: wire.EventSubject(e), Data: data}
	if id != "" {
		m.Header = nats.Header{jetstream.MsgIDHeader: []string{id}}
	}
	if err := s.nc.PublishMsg(m); err != nil {
		s.log.Debug("event not told", "what", e.What, "error", err)
	}
}

// tellWorker tells of a worker. All coordinators hear the same beats, so the beat makes the id.
func (s *site) tellWorker(what, why string, beat schema.WorkerStatus, bad bool) {
	id := strings.Join([]string{beat.Worker, what, beat.Now.UTC().Format(time.RFC3339Nano)}, "/")
	s.tell(wire.Event{Role: wire.EventWorker, Name: beat.Worker, What: what, Why: why, Bad: bad}, id)
}

// tellCoordinator tells of a coordinator.
func (s *site) tellCoordinator(name, what, why string, bad bool) {
	s.tell(wire.Event{Role: wire.EventCoordinator, Name: name, What: what, Why: why, Bad: bad}, "")
}

// tellBatcher tells of a batcher.
func (s *site) tellBatcher(e wire.Event) {
	e.Role = wire.EventBatcher
	s.tell(e, "")
}

// holder names the trainer that has a batcher, or the world of its ranks, or says that several readers share it.
func holder(rec *wire.Record) string {
	if rec.Shared() {
		return "several readers"
	}
	if rec.Size > 0 {
		return fmt.Sprintf("world %s of %s", rec.Reader, legible.Count(rec.Size, "rank"))
	}
	return "trainer " + rec.Reader
}

// whatStopped is the event of a run that was stopped.
const whatStopped = "stopped"

// changes are the events that a change of a batcher's record stands for.
func changes(before, after *wire.Record) (events []wire.Event) {
	add := func(what, why string, bad bool) {
		events = append(events, wire.Event{Name: after.Batcher, Gen: after.Gen, What: what, Why: why, Bad: bad})
	}
	switch {
	case before.Reader == after.Reader:
	case before.Reader == "":
		add("opened", "by "+holder(after), false)
	case after.Reader == "":
		add("left", fmt.Sprintf("by %s, at %d", holder(before), after.Taken), false)
	default:
		add("taken over", fmt.Sprintf("by %s, from %s", holder(after), holder(before)), false)
	}
	switch {
	case after.Gen == "" || before.Gen == after.Gen && before.Position == after.Position:
	case before.Gen == "":
		add("begun", "", false)
	case before.Gen == after.Gen:
		add("re-seated", fmt.Sprintf("from %d to %d, which is held", before.Taken, after.Taken), false)
	case before.Seat == after.Seat:
		add("begun anew", fmt.Sprintf("at %d: the store of its results was lost", after.Taken), true)
	default:
		add("begun anew", fmt.Sprintf("at a state that is not held, or by Start; %d were taken", before.Taken), false)
	}
	if after.Accepted != "" && after.Accepted != before.Accepted {
		add("change accepted", after.Accepted, false)
	}
	if before.Phase == after.Phase {
		return events
	}
	switch after.Phase {
	case schema.PhaseFailed:
		add("failed", failureText(after.Error), true)
	case schema.PhaseDone:
		add("done", fmt.Sprintf("%d taken", after.Taken), false)
	case schema.PhaseClosed:
		add(whatStopped, fmt.Sprintf("at %d", before.Taken), false)
	case schema.PhaseRunning, schema.PhaseStopped:
	}
	return events
}

// failureText says what ended a run, at which batch and where.
func failureText(f *schema.Fault) string {
	if f == nil {
		return ""
	}
	text := f.Code
	if f.Seq > 0 {
		text = fmt.Sprintf("batch %d: %s", f.Seq, text)
	}
	if f.Worker != "" {
		text = "on " + f.Worker + ", " + text
	}
	if f.Message != "" {
		text += ": " + f.Message
	}
	return text
}
