package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/cli/internal/fleet"
	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// maxClockOff is how far a clock may be from the server's before what is measured between two machines means little.
const maxClockOff = 500 * time.Millisecond

// maxWorkerClocks bounds how many workers are asked for the time.
const maxWorkerClocks = 100

// fleet asks the coordinators for their batchers and workers.
func (e *examination) fleet(ctx context.Context) {
	err := e.ask(ctx, func(ctx context.Context) (err error) {
		e.state, err = e.Overview(ctx)
		return err
	}, wire.CoordinatorPrefix+".overview")
	var denied *schema.PermissionError
	e.unstored()
	if errors.As(err, &denied) {
		e.failed("coordinators", "batchers and workers", err)
		return
	}
	if err != nil {
		e.find(Error, "coordinators", "none answers: nothing feeds a batcher, and no trainer can begin", "start one: jetbatch coordinator --server …")
		return
	}
	e.coordinators()
	e.workers()
	for _, b := range e.state.Batchers {
		e.batcher(b)
	}
}

func (e *examination) coordinators() {
	names, versions, datasets := []string{}, map[string]bool{e.Version: true}, map[string][]string{}
	for _, c := range e.state.Coordinators {
		names = append(names, c.Coordinator)
		versions[c.Version] = true
		list := slices.Sorted(slices.Values(wire.KindNames(c.Kinds)))
		key := strings.Join(list, " ")
		datasets[key] = append(datasets[key], c.Coordinator)
	}
	e.find(OK, "coordinators", fmt.Sprintf("%s: %s", legible.Count(len(names), "coordinator"), strings.Join(names, ", ")), "")
	if len(names) == 1 {
		e.find(Note, "coordinators", "there is no spare: if it dies, trainers take what is prepared and wait", "start a second one, anywhere")
	}
	if e.leases != nil {
		for _, name := range names {
			if !e.leases[name] {
				e.find(Error, "coordinators", fmt.Sprintf("coordinator %s answers, and has no lease here: it stores in another JetStream, "+
					"which is on the other side of a leaf node", name), "give every role, and this command, the domain of that JetStream: --domain")
			}
		}
	}
	if len(versions) > 1 {
		e.find(Warning, "coordinators", "versions differ: "+strings.Join(slices.Sorted(maps.Keys(versions)), ", ")+", this program's among them", "finish the upgrade")
	}
	if len(datasets) > 1 {
		var sides []string
		for list, of := range datasets {
			sides = append(sides, strings.Join(of, ", ")+" with "+list)
		}
		slices.Sort(sides)
		e.find(Error, "coordinators", "they have different data sets: "+strings.Join(sides, "; "), "run the same binary for all, since any of them may be asked")
	}
}

func (e *examination) workers() {
	slots, failing := 0, 0
	for _, w := range e.state.Workers {
		slots += w.Slots
		for _, s := range w.Suspended {
			e.find(Warning, "workers", fmt.Sprintf("worker %s: %s", w.Worker, s.Reason),
				"mend that machine: its jobs go to others, and it tries again by itself")
		}
		if w.Failed > 0 {
			failing++
		}
		e.memory(w)
	}
	if len(e.state.Workers) == 0 {
		e.find(Warning, "workers", "none", "start some: jetbatch worker --server …")
	} else {
		e.find(OK, "workers", fmt.Sprintf("%s with %s", legible.Count(len(e.state.Workers), "worker"), legible.Count(slots, "slot")), "")
	}
	if failing > 0 {
		e.find(Note, "workers", fmt.Sprintf("jobs have failed on %s", legible.Count(failing, "worker")), "jetbatch status shows the last error of each")
	}
	for _, s := range e.state.Skew {
		switch {
		case len(s.Batchers) > 0:
			e.find(Error, "workers", s.String(), "start workers that have this data set at this version")
		default:
			e.find(Warning, "workers", s.String(), "they idle: replace them, or the coordinators")
		}
	}
}

// workerBytes is what a worker uses beside its slots and what it keeps.
const workerBytes = 64 << 20

// memory looks whether a worker's memory is enough for the batches that it makes. What Materialize itself uses is not
// known here.
func (e *examination) memory(w schema.WorkerStatus) {
	var batch int64
	for _, b := range e.state.Batchers {
		if slices.Contains(w.Kinds, wire.KindToken(b.Dataset, b.Version)) {
			batch = max(batch, b.BatchBytes)
		}
	}
	need := int64(w.Slots)*batch + w.KeepBytes + workerBytes
	if w.Memory == 0 || batch == 0 || need <= w.Memory {
		return
	}
	e.find(Warning, "workers", fmt.Sprintf("worker %s may use %s, and has %s: %s with a batch of %s each, %s kept for trainers, and %s for the rest",
		w.Worker, bytes(need), bytes(w.Memory), legible.Count(w.Slots, "slot"), bytes(batch), bytes(w.KeepBytes), bytes(int64(workerBytes))),
		"give it more memory, fewer --slots, or a smaller --keep-bytes; what does not fit is killed, or slow for want of memory")
}

// batcher looks at how one of them runs.
func (e *examination) batcher(b schema.Status) {
	name := "batcher " + b.Batcher
	if b.Data != "" {
		e.find(OK, "batchers", fmt.Sprintf("%s: %s", name, b.Data), "")
	}
	switch {
	case b.Error != nil:
		e.find(Warning, "batchers", name+" "+fleet.Failure(b.Error), "docs/OPERATIONS.md, Symptoms; then start it again from its last state")
		return
	case b.Phase != schema.PhaseRunning:
		return
	case b.IdleFor > 0:
		e.find(Note, "batchers", fmt.Sprintf("%s waits for %s", name, e.state.WaitingFor(b)), "")
	case b.Waiting != "" && b.Workers > 0:
		e.find(Warning, "batchers", fmt.Sprintf("%s: the trainer waits: %s", name, b.Waiting), "docs/OPERATIONS.md, Symptoms")
	}
	if b.BatchBytes > 0 && b.Slots > 0 && b.Window < b.Slots {
		s, fix := e.records[b.Batcher].Settings, "open it with a larger --window-bytes (Config.WindowBytes), or make batches smaller"
		if s.Window > 0 && s.Window <= b.Window {
			fix = fmt.Sprintf("open it with --window %d, or none", 2*b.Slots+1)
		}
		e.find(Warning, "batchers", fmt.Sprintf("%s: a window of %d leaves %d of %s idle", name, b.Window, b.Slots-b.Window, legible.Count(b.Slots, "slot")), fix)
	}
	if e.info != nil && e.info.Limits.MaxMemory > 0 {
		if need := int64(b.Window) * b.BatchBytes * 7 / 4; need > e.info.Limits.MaxMemory {
			e.find(Error, "batchers", fmt.Sprintf("%s may store %s of results, and the account has %s of memory", name, bytes(need), bytes(e.info.Limits.MaxMemory)),
				"raise the account's max_mem, or open it with a smaller --window-bytes")
		}
	}
	if share, known := fleet.WaitShare(b.Timing); known && share > 0.1 && b.Desired > b.Workers {
		e.find(Warning, "batchers", fmt.Sprintf("%s: the trainer stands still %.0f %% of its time, with %s of data set %s", name, 100*share, legible.Count(b.Workers, "worker"), b.Dataset),
			fmt.Sprintf("%d would do", b.Desired))
	}
}

// clocks compares this machine's clock and the workers' with the server's. Nothing goes wrong if they differ, but times
// of queueing and transfer do.
func (e *examination) clocks(ctx context.Context) {
	if !e.timed {
		return // no stream yet that would tell the time
	}
	e.clock("this machine", e.ahead)
	allowed := wire.StatusPrefix + "." + probe // tried for all, since a worker would take a question that wants no answer ill
	for _, w := range e.state.Workers[:min(len(e.state.Workers), maxWorkerClocks)] {
		subject := wire.StatusPrefix + "." + w.Worker
		asked := time.Now()
		var said schema.WorkerStatus
		err := e.ask(ctx, func(ctx context.Context) error {
			m, err := e.Conn.RequestWithContext(ctx, subject, nil)
			if err == nil {
				err = json.Unmarshal(m.Data, &said)
			}
			return err
		}, allowed)
		var denied *schema.PermissionError
		switch {
		case errors.As(err, &denied):
			e.failed("clocks", "the workers' clocks", err)
			return
		case err != nil:
			e.find(Warning, "workers", fmt.Sprintf("worker %s is listed and does not answer: %v", w.Worker, err), "if it has not just left, restart it")
		case !said.Now.IsZero():
			e.clock("worker "+w.Worker, said.Now.Sub(middle(asked, time.Now()))+e.ahead)
		}
	}
}

func (e *examination) clock(whose string, ahead time.Duration) {
	if ahead.Abs() < maxClockOff {
		return
	}
	side := "ahead of"
	if ahead < 0 {
		side = "behind"
	}
	e.find(Warning, "clocks", fmt.Sprintf("the clock of %s is %v %s the server's: times of queueing and transfer are wrong by that much", whose, ahead.Abs().Round(time.Millisecond), side),
		"let NTP set it; batches are not affected")
}
