package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// benchReport is what a comparison came to.
type benchReport struct {
	Dataset    string          `json:"dataset"`
	Params     json.RawMessage `json:"params,omitempty"`
	Deployment string          `json:"deployment"`
	Batches    int             `json:"batches"` // timed, in a round
	Rounds     int             `json:"rounds"`
	BatchBytes float64         `json:"batch_bytes"`    // mean payload
	Loop       *benchSide      `json:"loop,omitempty"` // none where the data set is not in this binary
	Service    []*benchSide    `json:"service"`        // direct on, and off where that makes a difference
	End        string          `json:"end"`            // "batches", or "data" where the data ended before
}

// benchSide is one of those that are compared: figures are medians of its rounds.
type benchSide struct {
	Name        string         `json:"name"`
	BatchesPerS float64        `json:"batches_per_s"`
	MBPerS      float64        `json:"mb_per_s"`
	Ratio       float64        `json:"ratio,omitempty"` // of the loop's batches per second in the same round
	Pace        []float64      `json:"pace"`            // batches per second, round by round
	From        map[string]int `json:"from,omitempty"`  // large payloads by source: store or worker
	Timing      timingReport   `json:"timing"`

	rounds map[int]float64 // batches per second, by round
	tally
}

// taker takes one batch after another: its size, where it is known, and the state after it.
type taker func(context.Context, schema.State) (size int, step schema.Step[struct{}], err error)

// opener opens a side for a round.
type opener func(context.Context) (take taker, done func() error, err error)

// run lets the sides take turns, in the other order every other round.
func (b *comparison) run(ctx context.Context) (*benchReport, error) {
	loop := &benchSide{Name: "plain loop", rounds: make(map[int]float64)}
	direct := &benchSide{Name: "service", rounds: make(map[int]float64), From: make(map[string]int)}
	stored := &benchSide{Name: "service, direct off", rounds: make(map[int]float64), From: make(map[string]int)}
	sides := []*benchSide{loop, direct, stored}
	if !b.defined {
		sides = sides[1:]
	}
	r := &benchReport{
		Dataset: b.cmd.Dataset, Params: b.params, Deployment: b.deployment, Rounds: b.cmd.Rounds,
		Service: []*benchSide{direct, stored}, End: endBatches,
	}
	for round := range b.cmd.Rounds {
		var last []schema.State
		for _, side := range sides {
			if side == stored && direct.From["worker"] == 0 {
				continue // no batch goes directly, so that it is the same once more
			}
			open := b.openLoop
			if side != loop {
				open = func(ctx context.Context) (taker, func() error, error) {
					return b.openService(ctx, side, side == stored)
				}
			}
			state, err := b.round(ctx, side, open, round)
			if errors.Is(err, io.EOF) {
				r.End, err = endData, nil
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", side.Name, err)
			}
			last = append(last, state)
		}
		for _, state := range last[1:] {
			if !slices.Equal(state.Data, last[0].Data) {
				return nil, fmt.Errorf("%w: round %d ended at state %v and at %v", errDiffers, round+1, last[0], state)
			}
		}
		slices.Reverse(sides)
	}
	if len(stored.rounds) == 0 {
		r.Service = r.Service[:1]
	}
	r.Batches, r.BatchBytes = direct.batches/b.cmd.Rounds, float64(direct.bytes)/float64(max(direct.batches, 1))
	for _, side := range append(r.Service, loop) {
		side.sum(loop, r.BatchBytes)
	}
	if b.defined {
		r.Loop = loop
	}
	return r, nil
}

// round times one side, once more than a pipeline holds was taken. It returns the state that it came to, with io.EOF
// where the data ended before the last batch.
func (b *comparison) round(ctx context.Context, side *benchSide, open opener, round int) (state schema.State, err error) {
	take, done, err := open(ctx)
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, done()) }()
	warm := b.cmd.Batches / 4
	m := b.app.err.meter(fmt.Sprintf("round %d of %d, %s", round+1, b.cmd.Rounds, side.Name), warm+b.cmd.Batches)
	defer m.end()
	before := side.batches
	elapsed := side.elapsed
	for i := range warm + b.cmd.Batches {
		if i == warm {
			side.start()
		}
		size, step, err := take(ctx, state)
		if errors.Is(err, io.EOF) {
			if i <= warm {
				return state, fmt.Errorf("%w: the data ended after %d batches, and %d go before those that are timed: lower --batches",
					errUsage, i, warm)
			}
			side.stop()
			side.rounds[round] = rate(float64(side.batches-before), side.elapsed-elapsed)
			return state, io.EOF
		}
		if err != nil {
			return state, err
		}
		state = step.Next
		if i >= warm {
			side.add(size, step.Deliveries, step.Timing)
		}
		m.add(size)
		if err := pause(ctx, b.cmd.TrainTime); err != nil {
			return state, err
		}
	}
	side.stop()
	side.rounds[round] = rate(float64(side.batches-before), side.elapsed-elapsed)
	return state, nil
}

// openLoop opens the data set in this process.
func (b *comparison) openLoop(ctx context.Context) (taker, func() error, error) {
	ref, err := dataset.SequentialOf[any](ctx, b.def, b.params)
	if err != nil {
		return nil, nil, err
	}
	var left time.Time
	return func(ctx context.Context, state schema.State) (int, schema.Step[struct{}], error) {
		began := time.Now()
		step, err := ref.Take(ctx, state)
		t := step.Timing
		t.Wait, t.WaitIterate, t.WaitMaterialize = time.Since(began), t.Iterate, t.Materialize
		t.WaitOther = t.Wait - t.Iterate - t.Materialize
		if !left.IsZero() {
			t.Trainer = began.Sub(left)
		}
		left = time.Now()
		return sizeOf(step.Batch), schema.Step[struct{}]{Next: step.Next, Timing: t, Deliveries: step.Deliveries}, err
	}, ref.Close, nil
}

// sizeOf is the payload of a batch, as far as it is known without encoding it.
func sizeOf(batch any) int {
	switch b := batch.(type) {
	case schema.Batch:
		return wire.EncodedSize(b)
	case []byte:
		return len(b)
	}
	return 0
}

// openService opens a batcher of its own.
func (b *comparison) openService(ctx context.Context, side *benchSide, noDirect bool) (taker, func() error, error) {
	registry := prometheus.NewRegistry()
	cfg := client.Config{
		Name: uniqueName("bench"), Dataset: b.cmd.Dataset, Window: b.cmd.Window, NoDirect: noDirect,
		IdleTimeout: auditIdle, Domain: b.cmd.Domain, Logger: b.app.log, Registerer: registry,
	}
	if b.params != nil {
		cfg.Params = b.params
	}
	batcher, err := client.Open[[]byte](ctx, b.nc, cfg)
	if err != nil {
		return nil, nil, err
	}
	take := func(ctx context.Context, state schema.State) (int, schema.Step[struct{}], error) {
		step, err := batcher.Take(ctx, state)
		if err != nil {
			return 0, schema.Step[struct{}]{}, err
		}
		size := len(step.Batch)
		step.Release()
		return size, schema.Step[struct{}]{Next: step.Next, Timing: step.Timing, Deliveries: step.Deliveries}, nil
	}
	return take, func() error {
		err := side.count(registry)
		return errors.Join(err, leave(ctx, batcher))
	}, nil
}

// count adds where the payloads of a batcher came from.
func (s *benchSide) count(registry *prometheus.Registry) error {
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if f.GetName() != "jetbatch_client_payloads_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if n := int(m.GetCounter().GetValue()); l.GetName() == "from" && n > 0 {
					s.From[l.GetValue()] += n
				}
			}
		}
	}
	return nil
}

// sum fills in the figures.
func (s *benchSide) sum(loop *benchSide, batchBytes float64) {
	var ratios []float64
	for round := range len(s.rounds) + len(loop.rounds) {
		pace, ok := s.rounds[round]
		if !ok {
			continue
		}
		s.Pace = append(s.Pace, pace)
		if floor := loop.rounds[round]; floor > 0 {
			ratios = append(ratios, pace/floor)
		}
	}
	s.BatchesPerS, s.Ratio = middle(s.Pace), middle(ratios)
	s.MBPerS = s.BatchesPerS * batchBytes / 1e6
	s.Timing = s.timingReport()
}

// middle is the median of some values; 0 of none.
func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// String is the comparison for people.
func (r *benchReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "data set %s, %s\n%d rounds of %d batches of %.3f MB",
		r.Dataset, r.Deployment, r.Rounds, r.Batches, r.BatchBytes/1e6)
	if r.End == endData {
		b.WriteString("; then the data ended")
	}
	fmt.Fprintf(&b, "\n\n  %-20s %11s %10s %12s  %s\n", "", "batches/s", "MB/s", "of the loop", "payloads from")
	sides := r.Service
	if r.Loop != nil {
		sides = append([]*benchSide{r.Loop}, sides...)
	} else {
		b.WriteString("  the data set is not in this binary, so that there is no plain loop to compare with\n")
	}
	for _, s := range sides {
		ratio := ""
		if s.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", s.Ratio)
		}
		line := fmt.Sprintf("  %-20s %11.1f %10.1f %12s  %s", s.Name, s.BatchesPerS, s.MBPerS, ratio, s.from())
		fmt.Fprintln(&b, strings.TrimRight(line, " "))
	}
	if len(r.Service) == 1 {
		b.WriteString("  no batch was large enough to come straight from a worker, so that direct on or off is the same\n")
	}
	for _, s := range sides {
		if s == r.Loop {
			t := s.Timing
			fmt.Fprintf(&b, "\n%s: on average per batch %.2f ms in Next, %.2f ms in Materialize, %.2f ms between two batches\n",
				s.Name, t.Iterate, t.Materialize, t.Trainer)
			continue
		}
		fmt.Fprintf(&b, "\n%s: %v\n", s.Name, s.Timing)
	}
	return b.String()
}

// from says where the payloads came from, in percent.
func (s *benchSide) from() string {
	total := 0
	for _, n := range s.From {
		total += n
	}
	var parts []string
	for _, name := range []string{"worker", "store"} {
		if n := s.From[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d %%", name, (100*n+total/2)/total))
		}
	}
	if len(parts) == 0 && s.From != nil {
		return "their records"
	}
	return strings.Join(parts, ", ")
}
