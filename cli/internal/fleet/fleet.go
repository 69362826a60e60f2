// Package fleet puts together what several coordinators say of their batchers and workers, and says in words what a
// batcher waits for. It is pure: what it needs to know it is given.
package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Status is what all coordinators say together, sorted by name.
type Status struct {
	Coordinators []Coordinator         `json:"coordinators"`
	Batchers     []schema.Status       `json:"batchers"`
	Workers      []schema.WorkerStatus `json:"workers"`
	Skew         []Skew                `json:"skew,omitempty"` // versions that do not fit together
}

// Coordinator is one that answered.
type Coordinator struct {
	Coordinator string   `json:"coordinator"`
	Version     string   `json:"version"`
	Kinds       []string `json:"kinds"`
}

// Merge puts the answers of several coordinators together. Each knows its own batchers and hears all workers; of two
// that both own a batcher, at a take-over, the one with the higher seat is right.
func Merge(answers []wire.Overview) Status {
	// Empty lists are [] as JSON.
	s := Status{Coordinators: []Coordinator{}, Batchers: []schema.Status{}, Workers: []schema.WorkerStatus{}}
	for _, o := range answers {
		s.Coordinators = append(s.Coordinators, Coordinator{o.Coordinator, o.Version, o.Kinds})
		s.Batchers = append(s.Batchers, o.Batchers...)
		s.Workers = append(s.Workers, o.Workers...)
	}
	slices.SortFunc(s.Coordinators, func(a, b Coordinator) int { return strings.Compare(a.Coordinator, b.Coordinator) })
	slices.SortStableFunc(s.Batchers, func(a, b schema.Status) int {
		return cmp.Or(strings.Compare(a.Batcher, b.Batcher), cmp.Compare(b.Seat, a.Seat))
	})
	s.Batchers = slices.CompactFunc(s.Batchers, func(a, b schema.Status) bool { return a.Batcher == b.Batcher })
	slices.SortStableFunc(s.Workers, func(a, b schema.WorkerStatus) int {
		return cmp.Or(strings.Compare(a.Worker, b.Worker), cmp.Compare(b.Done, a.Done))
	})
	s.Workers = slices.CompactFunc(s.Workers, func(a, b schema.WorkerStatus) bool { return a.Worker == b.Worker })
	s.Skew = skews(s)
	return s
}

// WaitingFor says why nothing of a batcher moves, if nothing does. Where no coordinator that answers feeds it, that is
// why, trainer or not.
func (s Status) WaitingFor(b schema.Status) string {
	fed := slices.ContainsFunc(s.Coordinators, func(c Coordinator) bool { return c.Coordinator == b.Owner })
	if !fed && b.Error == nil && b.Waiting != "" {
		return b.Waiting
	}
	return WaitingFor(b)
}

// WaitingFor says why nothing moves, if nothing does, and is empty else.
func WaitingFor(b schema.Status) string {
	switch idle := b.IdleFor.Round(time.Second); {
	case b.Error != nil:
		return Failure(b.Error)
	// What a reader that fell silent was waiting for counts no more.
	case b.Phase == schema.PhaseStopped && b.Reader != "" && b.Waiting == "":
		return "its trainer to start it"
	case b.Phase == schema.PhaseRunning && b.Reader == "":
		return fmt.Sprintf("a trainer, for %v", idle)
	case b.Phase == schema.PhaseRunning && b.IdleFor > 0:
		return fmt.Sprintf("a trainer, silent for %v", idle)
	}
	return b.Waiting
}

// Begun leaves out the batchers that were never started and have no reader, as an Open leaves one whose Start was
// refused: nothing is in them but a name.
func Begun(all []schema.Status) []schema.Status {
	return slices.DeleteFunc(slices.Clone(all), func(b schema.Status) bool {
		return b.Phase == schema.PhaseStopped && (b.Reader == "" || b.Seat == 0) && b.Waiting == "" && b.Error == nil
	})
}

// Place is how far a batcher is in its data, and when it comes to the end at the pace of lately; empty where the data
// set does not say.
func Place(p *schema.Progress) string {
	switch {
	case p == nil:
		return ""
	case p.Batches == 0:
		return fmt.Sprintf("%d since the start", p.Batch)
	}
	text := fmt.Sprintf("epoch %d", p.Epoch)
	if p.Epochs > 0 {
		text += fmt.Sprintf(" of %d", p.Epochs)
	}
	text += fmt.Sprintf(", %d %%", 100*p.Batch/p.Batches)
	switch {
	case p.Left > 0:
		text += ", " + roughly(p.Left) + " left"
	case p.EpochLeft > 0:
		text += ", " + roughly(p.EpochLeft) + " to its end"
	}
	return text
}

// roughly is a duration for people: 40s, 12m, 3h10m, 5d2h.
func roughly(d time.Duration) string {
	minutes := int(d.Round(time.Minute) / time.Minute)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d/time.Second))
	case minutes < 60:
		return fmt.Sprintf("%dm", minutes)
	case minutes < 24*60:
		return fmt.Sprintf("%dh%dm", minutes/60, minutes%60)
	}
	return fmt.Sprintf("%dd%dh", minutes/(24*60), minutes/60%24)
}

// Prepared is how many batches are ahead of the trainer, made or being made.
func Prepared(b schema.Status) uint64 { return max(b.Fed, b.Taken) - b.Taken }

// Dropped names what is lost when a batcher is stopped. Its record stays.
func Dropped(b schema.Status) string { return inWords(dropped(b)) }

// Loss names what is lost when a batcher is deleted. A state that its trainer saved is never lost.
func Loss(b schema.Status) string {
	lost := dropped(b)
	if b.Taken > 0 {
		lost = append(lost, fmt.Sprintf("the record that %d were taken", b.Taken))
	}
	if b.Error != nil {
		lost = append(lost, "why it "+Failure(b.Error))
	}
	return inWords(lost)
}

func dropped(b schema.Status) (lost []string) {
	if b.Reader != "" && b.IdleFor == 0 {
		lost = append(lost, "the run of its trainer, whose next take fails")
	}
	if Prepared(b) > 0 {
		lost = append(lost, fmt.Sprintf("batches %d to %d, which are prepared", b.Taken+1, b.Fed))
	}
	return lost
}

func inWords(lost []string) string {
	return cmp.Or(legible.Line(strings.Join(lost, "; ")), "nothing")
}

// Failure says what ended a run, at which batch, and on which worker (or coordinator, for its own verdicts).
func Failure(f *schema.Fault) string {
	at := "failed: "
	if f.Seq > 0 {
		at += fmt.Sprintf("batch %d", f.Seq)
		if f.Worker != "" {
			at += " on " + f.Worker
		}
		at += ": "
	}
	if f.Message == "" {
		return at + f.Code
	}
	return at + f.Code + ": " + f.Message
}

// WaitShare is the part of its time that a trainer stood still, from 0 to 1; it is not known before the first batch.
func WaitShare(t schema.Timing) (share float64, known bool) {
	both := t.Wait + t.Trainer
	if both <= 0 {
		return 0, false
	}
	return float64(t.Wait) / float64(both), true
}
