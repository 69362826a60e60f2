package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

const latencyWhat = "how long a trainer waits, with nothing else under way; 1 KB results that cost nothing to make"

const latencyBytes = 1024

// Requests for times.
const (
	opTimes  = "times"  // of round trips, one at a time
	opOpened = "opened" // from opening to the first batch
	opMoved  = "moved"  // from going elsewhere to the batch there
)

type timesArg struct {
	Name string `json:"name,omitempty"`
	N    int    `json:"n"`
	Held bool   `json:"held,omitempty"`
}

// times does something n times.
func times(ctx context.Context, n int, do func(context.Context) error) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*takeTimeout, errLate)
	defer cancel()
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if err := do(ctx); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return took, nil
}

// rest lets what was begun finish: what is timed next finds nothing under way, and processes that sleep.
func rest(ctx context.Context) error { return pause(ctx, settleTime/10) }

// timesOf does something n times, with a rest before each.
func timesOf(ctx context.Context, n int, do func(context.Context) error) (took []time.Duration, err error) {
	for range n {
		if err := rest(ctx); err != nil {
			return nil, err
		}
		one, err := times(ctx, 1, do)
		if err != nil {
			return nil, err
		}
		took = append(took, one...)
	}
	return took, nil
}

// quantile is the value below which a share q of the times is, in microseconds.
func quantile(took []time.Duration, q float64) float64 {
	if len(took) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(took))
	return float64(s[min(int(q*float64(len(s))), len(s)-1)]) / float64(time.Microsecond)
}

func latency(ctx context.Context, b *bench) (*Report, error) {
	service, trainer, err := b.service(ctx, "service", serviceConfig{Workers: 1})
	if err != nil {
		return nil, err
	}
	params := fmt.Appendf(nil, `{"bytes":%d}`, latencyBytes)
	open := func(name string, window int) error {
		return trainer.call(ctx, opOpen, openArg{Name: name, Dataset: echoName, Params: params, Window: window}, nil)
	}
	if err := open(oneByOne, 1); err != nil {
		return nil, err
	}
	if err := open(back, 64); err != nil {
		return nil, err
	}
	if err := trainer.call(ctx, opTake, takeArg{Name: back, Timed: 64}, nil); err != nil {
		return nil, err
	}
	floor, asker, err := b.floorLatency(ctx, "floor")
	if err != nil {
		return nil, err
	}
	roles, consumer, err := b.floorSmall(ctx, "floor in roles", floorArg{Window: 1, Bytes: latencyBytes})
	if err != nil {
		return nil, err
	}

	trips, moves := b.quick(300, 2000), b.quick(20, 50)
	samples, err := b.measure(ctx,
		asking(service, trainer, opTimes, timesArg{Name: oneByOne, N: trips}),
		asking(roles, consumer, opTimes, timesArg{N: trips}),
		asking(floor, asker, opTimes, timesArg{N: trips}),
		asking(service, trainer, opMoved, timesArg{Name: back, N: moves, Held: true}),
		asking(service, trainer, opMoved, timesArg{Name: back, N: moves}),
		asking(service, trainer, opOpened, timesArg{N: moves}),
		asking(floor, asker, opEcho, timesArg{N: moves}),
	)
	if err != nil {
		return nil, err
	}
	ours, inRoles, lone, echo := samples[0], samples[1], samples[2], samples[6]
	rows := []Row{
		row("round trip, p50", "raw NATS", "µs", ours, inRoles),
		row("round trip, p50", "raw NATS, no credit", "µs", ours, lone),
		row("round trip, p99", "raw NATS", "µs", tails(ours), tails(inRoles)),
		row("re-seat, held", againstRequest, "µs", samples[3], echo),
		row("re-seat, not held", againstRequest, "µs", samples[4], echo),
		row("open to first batch", againstRequest, "µs", samples[5], echo),
	}
	for i := range rows[2:] {
		rows[2+i].dropCosts() // those of the tail are the first row's, and those of one request say nothing
	}
	return b.report(ctx, rows, service, roles, floor)
}

// Batchers of the case: of a window of one batch, so that every take waits for a whole round trip; and one that goes
// back and forth.
const (
	oneByOne = "one-by-one"
	back     = "back"
)

// asking is an entry of times: their median, and their p99 as its tail.
func asking(s *side, p *process, op string, arg timesArg) entry {
	return entry{s, func(ctx context.Context) (outcome, error) {
		var took []time.Duration
		if err := p.call(ctx, op, arg, &took); err != nil {
			return outcome{}, err
		}
		return outcome{Value: quantile(took, 0.5), Tail: quantile(took, 0.99), Batches: arg.N, Bytes: int64(arg.N) * latencyBytes}, nil
	}}
}

// tails are the samples with their tails as their values.
func tails(samples []sample) []sample {
	t := slices.Clone(samples)
	for i := range t {
		t[i].Value = t[i].Tail
	}
	return t
}

// times is how long each of n takes takes.
func (t *trainer) times(ctx context.Context, arg timesArg) ([]time.Duration, error) {
	b := t.batchers[arg.Name]
	if b == nil {
		return nil, fmt.Errorf("batcher %q is not open", arg.Name)
	}
	return times(ctx, arg.N, func(ctx context.Context) error {
		_, err := b.take(ctx)
		return err
	})
}

// opened is how long it takes to open a batcher that was not there, and to take its first batch.
func (t *trainer) opened(ctx context.Context, arg timesArg) (took []time.Duration, err error) {
	for range arg.N {
		t.opens++
		name := fmt.Sprintf("opened-%d", t.opens)
		one, err := timesOf(ctx, 1, func(ctx context.Context) error {
			arg := openArg{Name: name, Dataset: echoName, Params: fmt.Appendf(nil, `{"bytes":%d}`, latencyBytes)}
			if _, err := t.open(ctx, arg); err != nil {
				return err
			}
			_, err := t.batchers[name].take(ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
		took = append(took, one...)
		b := t.batchers[name]
		delete(t.batchers, name)
		if err := b.stop(ctx); err != nil {
			return nil, err
		}
		if err := b.close(); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// moved is how long a take takes that asks for another place than where the batcher is: one whose batch is held, or one
// that begins a new run.
func (t *trainer) moved(ctx context.Context, arg timesArg) (took []time.Duration, err error) {
	b, ok := t.batchers[arg.Name].(*handleOf[[]byte])
	if !ok {
		return nil, fmt.Errorf("batcher %q is not open", arg.Name)
	}
	const steps = 8
	for range arg.N {
		if arg.Held { // forward first, so that there is something to go back to
			if _, err := times(ctx, steps, b.taking); err != nil {
				return nil, err
			}
		}
		if err := b.move(arg.Held, steps); err != nil {
			return nil, err
		}
		one, err := timesOf(ctx, 1, b.taking)
		if err != nil {
			return nil, err
		}
		took = append(took, one...)
	}
	// What follows the last one is made before the next measurement begins.
	_, err = times(ctx, steps, b.taking)
	return took, err
}

func (h *handleOf[B]) taking(ctx context.Context) error {
	_, err := h.take(ctx)
	return err
}

// move changes where the next take takes from: some batches back, or far away.
func (h *handleOf[B]) move(held bool, steps uint64) error {
	const far = 1_000_000
	var n uint64
	if err := h.state.Decode(&n); err != nil {
		return err
	}
	if held {
		n -= steps
	} else {
		n += far
	}
	state, err := schema.NewState(n)
	h.state.Data = state.Data
	return err
}
